-- Billing: charges and their double-entry ledger. Append-only: a mistake gets a further revision, never an edit.
create schema billing;

-- A charge is (subscription, price, billing period, group). Each revision books the difference to what was booked before.
create table billing.charge_revision (
    charge_id uuid not null,
    revision integer not null check (revision >= 1),
    account_id text not null,
    subscription_id text not null,
    plan_id text not null,
    price_id text not null,
    meter_id text,
    group_key text not null default '',
    period_start timestamptz not null,
    period_end timestamptz not null,
    quantity numeric(38, 12) not null,
    unit text not null,
    -- exact total of the period to date, before rounding
    exact_amount numeric(38, 12) not null,
    -- rounded total of the period to date, and what this revision adds to it, in minor units of the currency
    amount_minor bigint not null,
    delta_minor bigint not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    -- the arithmetic, one element per line: price version, tier, quantity, unit price, amount
    lines jsonb not null,
    usage_digest text not null,
    catalog_sha256 text not null references catalog.release (catalog_sha256),
    code_version text not null,
    event_day date not null,
    run_id text not null,
    booked_at timestamptz not null default now(),
    primary key (charge_id, revision),
    check (period_end > period_start)
);
create index charge_revision_by_account on billing.charge_revision (account_id, period_start);
create index charge_revision_by_day on billing.charge_revision (event_day);

-- Grain: transaction (one per charge revision with a difference), posting. Sums to zero per transaction and currency.
create table billing.ledger_posting (
    transaction_id uuid not null,
    posting_number smallint not null check (posting_number >= 1),
    ledger_account text not null,
    account_id text not null,
    amount_minor bigint not null check (amount_minor <> 0),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    charge_id uuid not null,
    revision integer not null,
    event_day date not null,
    booked_at timestamptz not null default now(),
    primary key (transaction_id, posting_number),
    foreign key (charge_id, revision) references billing.charge_revision
);
create index ledger_posting_by_account on billing.ledger_posting (account_id, ledger_account);
create index ledger_posting_by_day on billing.ledger_posting (event_day);

create function billing.refuse_unbalanced_transaction() returns trigger language plpgsql as $$
begin
    if exists (
        select 1 from billing.ledger_posting
        where transaction_id = new.transaction_id
        group by currency having sum(amount_minor) <> 0
    ) then
        raise exception 'ledger transaction % does not sum to zero', new.transaction_id;
    end if;
    return null;
end $$;
create constraint trigger ledger_posting_balances after insert on billing.ledger_posting
    deferrable initially deferred for each row execute function billing.refuse_unbalanced_transaction();
