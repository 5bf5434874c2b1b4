-- Booking: fewer entries to write for each row. Of 23 us of a server's time for a charge and its two postings, 12 went into nine
-- B-trees (docs/benchmarks.md).

-- Days and ends of periods ascend with the rows, so that ranges of pages find them as well as a tree does, and cost next to nothing.
drop index billing.charge_revision_by_day;
create index charge_revision_by_day on billing.charge_revision using brin (event_day)
    with (pages_per_range = 32, autosummarize = on);
drop index billing.charge_revision_by_period_end;
create index charge_revision_by_period_end on billing.charge_revision using brin (period_end)
    with (pages_per_range = 32, autosummarize = on);
drop index billing.ledger_posting_by_day;
create index ledger_posting_by_day on billing.ledger_posting using brin (event_day)
    with (pages_per_range = 32, autosummarize = on);

-- The postings of a charge are asked for by whoever explains it, with its account: the index by account finds them.
drop index billing.ledger_posting_by_charge;
