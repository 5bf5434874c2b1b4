-- Where a person finds what a statement says wrongly, and what to do about it.
alter table catalog.statement_finding
    -- the row, and of what Stripe's mirror says the object at Stripe
    add column place text not null default '',
    add column fix text not null default '';
