-- Prepaid balances: what every minute of traffic took, to the byte; what is left; who is in arrears, by whose word.

-- What a minute bucket (bucket_start, env, node, account_uuid, region, line; all inbounds together) took from the balance.
-- Revision 1 is the bucket's first entry, further ones are differences: sums over a bucket are what stands. Append-only.
create table billing.prepaid_entry (
    -- of revision 1: uuid5 of the bucket; of others: uuid5 of that and the revision
    entry_id uuid primary key,
    bucket_id uuid not null,
    revision integer not null check (revision >= 1),
    entry_type text not null check (entry_type in ('initial_balance', 'traffic_charge', 'adjustment')),
    bucket_start timestamptz not null,
    bucket_end timestamptz not null,
    env text not null,
    node text not null,
    account_uuid text not null,
    region text not null,
    line text not null,
    account_id text not null,
    -- of billing.charge_revision; null: the balance that an account begins with
    charge_id uuid,
    -- both directions of all inbounds may come to more than a bigint holds; what is included is within the quota
    rated_bytes numeric(38, 0) not null,
    included_bytes bigint not null,
    multiplier numeric not null check (multiplier > 0),
    -- exact, in major units: no scale, so that nothing is rounded
    amount_delta numeric not null,
    -- price_id:version
    pricing_rule_version text not null,
    catalog_sha256 text not null references catalog.release (catalog_sha256),
    code_version text not null,
    event_day date not null,
    run_id text not null,
    booked_at timestamptz not null default now(),
    unique (bucket_start, account_uuid, node, env, region, line, revision),
    check (bucket_end >= bucket_start),
    check ((revision = 1) = (entry_id = bucket_id)),
    check (revision > 1 or entry_type <> 'adjustment'),
    check ((charge_id is null) = (node = '')),
    -- the separators of the text that bucket_id is made of
    check (position('|' in env || node || account_uuid || region || line) = 0 and position(':' in env) = 0)
);
create index prepaid_entry_by_charge on billing.prepaid_entry (charge_id, bucket_start);
create index prepaid_entry_of_accounts on billing.prepaid_entry (account_id) where charge_id is null;

-- The postings of a charge revision, or of the balance that an account begins with.
alter table billing.ledger_posting alter column charge_id drop not null;
alter table billing.ledger_posting alter column revision drop not null;
alter table billing.ledger_posting add column prepaid_entry_id uuid references billing.prepaid_entry (entry_id);
alter table billing.ledger_posting add check (
    (charge_id is null) = (revision is null) and (charge_id is null) <> (prepaid_entry_id is null)
);

-- The prepaid billing periods that are booked, a charge each: the sums of its entries. Replaced when it is booked again.
create table billing.prepaid_period (
    charge_id uuid primary key,
    account_id text not null,
    subscription_id text not null,
    price_id text not null,
    currency text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    rated_bytes numeric(38, 0) not null check (rated_bytes >= 0),
    included_bytes bigint not null check (included_bytes >= 0),
    -- taken from the balance, exact, in major units; the charge's total before rounding
    exact_amount numeric not null check (exact_amount >= 0),
    -- of the version in force at the last bucket, or at the period's begin
    pricing_rule_version text not null,
    remaining_included_quota bigint not null check (remaining_included_quota >= 0),
    minimum_balance numeric not null,
    last_rated_bucket_at timestamptz,
    check (period_end > period_start)
);
create index prepaid_period_by_account on billing.prepaid_period (account_id, period_start);
create index prepaid_period_by_end on billing.prepaid_period (period_end);

-- What is left to an account, as of its newest booked period. Written by the booking alone, in its transaction.
create table billing.account_balance_state (
    account_id text primary key,
    currency text not null,
    charge_id uuid not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    pricing_rule_version text not null,
    remaining_included_quota bigint not null check (remaining_included_quota >= 0),
    initial_balance numeric not null,
    -- initial balance + sum(prepaid_entry.amount_delta) of traffic
    exact_balance numeric not null,
    balance_arrears boolean not null,
    -- the end of the minute whose traffic brought the balance below 0
    balance_arrears_since timestamptz,
    throttle_state text not null check (throttle_state in ('normal', 'throttled')),
    last_rated_bucket_at timestamptz,
    effective_at timestamptz not null default now(),
    check (balance_arrears = (exact_balance < 0) and balance_arrears = (balance_arrears_since is not null))
);

-- Payments as they were reported: an inbox. Append-only; an event that comes again changes nothing.
create table billing.payment_event (
    event_id text primary key check (event_id <> ''),
    account_id text not null check (account_id <> ''),
    kind text not null check (kind in ('payment_failed', 'invoice_paid')),
    -- why the invoice was made, such as subscription_cycle or subscription_update (a proration)
    billing_reason text not null,
    happened_at timestamptz not null,
    received_at timestamptz not null
);
create index payment_event_by_account on billing.payment_event (account_id, happened_at);

-- What an account's payment events come to, in the order in which they happened. Written by payments alone, never by rating.
create table billing.payment_arrears_state (
    account_id text primary key,
    payment_arrears boolean not null,
    arrears_since timestamptz,
    last_paid_at timestamptz,
    updated_at timestamptz not null,
    check (payment_arrears = (arrears_since is not null))
);

-- When an account was found suspended, or active again, by a sweep or a payment. Append-only; the newest counts.
create table billing.suspension_change (
    account_id text not null,
    change_id bigint generated always as identity primary key,
    suspend_state text not null check (suspend_state in ('active', 'suspended')),
    cause text not null,
    changed_at timestamptz not null
);
create index suspension_change_by_account on billing.suspension_change (account_id, change_id);
