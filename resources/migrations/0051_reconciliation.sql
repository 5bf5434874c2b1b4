-- What was billed here beside what Stripe held, as it was found. Append-only. Grain: run, account, invoice (null: what Stripe held
-- under keys that nothing here has, by currency). Amounts are Stripe's own minor units.
create table invoicing.reconciliation (
    run_id text not null,
    row_number integer not null check (row_number >= 1),
    day date not null,
    compared_at timestamptz not null,
    account_id text not null,
    -- null: no customer at Stripe
    customer_id text,
    invoice_id uuid,
    subscription_id text,
    period_start timestamptz,
    period_end timestamptz,
    state text check (state in ('draft', 'final')),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    ours_stripe_minor bigint not null,
    held_stripe_minor bigint not null,
    -- above 0: Stripe holds too much
    difference_stripe_minor bigint not null,
    agreement text not null check (agreement in ('equal', 'not_due', 'behind', 'unlinked', 'drift')),
    -- of accounts that are behind
    behind_since timestamptz,
    problem text,
    -- by line: key, ours, held, where (invoices at Stripe, or pending)
    drifts jsonb not null,
    primary key (run_id, row_number),
    check (difference_stripe_minor = held_stripe_minor - ours_stripe_minor),
    check ((invoice_id is null) = (period_start is null)),
    check (agreement <> 'equal' or difference_stripe_minor = 0)
);
create index reconciliation_by_day on invoicing.reconciliation (day, compared_at);
create index reconciliation_by_account on invoicing.reconciliation (account_id, compared_at);

-- Bills that are known in advance, beside what came out. Append-only. Grain: run, canary, period.
create table invoicing.canary_result (
    run_id text not null,
    account_id text not null,
    subscription_id text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    day date not null,
    compared_at timestamptz not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    expected_stripe_minor bigint not null,
    -- null: there is no invoice of the period
    ours_stripe_minor bigint,
    -- null: the account has no customer at Stripe
    held_stripe_minor bigint,
    is_right boolean not null,
    primary key (run_id, account_id, subscription_id, period_start)
);
create index canary_result_by_day on invoicing.canary_result (day, compared_at);
