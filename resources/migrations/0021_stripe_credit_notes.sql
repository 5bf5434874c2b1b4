-- Credit notes of invoicing that are at Stripe. Append-only: a row is written when Stripe was seen to hold it.
create table stripe.sync_credit_note (
    -- of invoicing.credit_note
    credit_note_id uuid primary key,
    stripe_credit_note_id text not null unique,
    invoice_id text not null,
    account_id text not null,
    amount_stripe_minor bigint not null check (amount_stripe_minor > 0),
    -- how it was split: off what was due, refunded, onto the customer's balance
    off_due_stripe_minor bigint not null check (off_due_stripe_minor >= 0),
    refund_stripe_minor bigint not null check (refund_stripe_minor >= 0),
    balance_stripe_minor bigint not null check (balance_stripe_minor >= 0),
    run_id text not null,
    seen_at timestamptz not null,
    check (amount_stripe_minor = off_due_stripe_minor + refund_stripe_minor + balance_stripe_minor)
);
create index sync_credit_note_by_invoice on stripe.sync_credit_note (invoice_id);
