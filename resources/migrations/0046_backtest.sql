-- Backtests: what a draft catalog would have charged for history that is stored. Owner: resources/backtest. Nothing here is billed.
create schema backtest;

-- One run of one draft over one range, with everything that it was made of. Append-only. scenario_id: uuid5 of all inputs, so that
-- the same inputs are one scenario, and its figures can be made again.
create table backtest.scenario (
    scenario_id uuid primary key,
    name text not null,
    draft_sha256 text not null check (draft_sha256 ~ '^[0-9a-f]{64}$'),
    -- the catalog that the draft was held against
    base_sha256 text not null references catalog.release (catalog_sha256),
    first_day date not null,
    last_day date not null,
    -- SHA-256 of the builds of usage that were rated, and of the booked charges that were compared with
    usage_digest text not null check (usage_digest ~ '^[0-9a-f]{64}$'),
    books_digest text not null check (books_digest ~ '^[0-9a-f]{64}$'),
    code_version text not null,
    accounts_concerned integer not null,
    accounts_in_all integer not null,
    charges_rated integer not null,
    charges_changed integer not null,
    -- days whose usage was built and not booked when it ran: their usage is in the draft's side alone
    unbooked_days integer not null,
    seconds numeric(12, 3) not null,
    ran_at timestamptz not null default now(),
    check (last_day >= first_day)
);

-- What the draft says differently from the catalog that it was held against; content null: it does not have the entry. Append-only.
create table backtest.draft_change (
    draft_sha256 text not null,
    base_sha256 text not null references catalog.release (catalog_sha256),
    kind text not null,
    entry_id text not null,
    version integer not null,
    content jsonb,
    primary key (draft_sha256, base_sha256, kind, entry_id, version)
);

-- Grain: scenario, account that is concerned, currency. Minor units. Append-only.
create table backtest.account_total (
    scenario_id uuid not null references backtest.scenario (scenario_id),
    account_id text not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    before_minor bigint not null,
    after_minor bigint not null,
    changed_charges integer not null,
    primary key (scenario_id, account_id, currency)
);

-- Charges that differ, with both arithmetics. Grain: scenario, charge. Append-only.
create table backtest.changed_charge (
    scenario_id uuid not null references backtest.scenario (scenario_id),
    charge_id uuid not null,
    account_id text not null,
    subscription_id text not null,
    price_id text not null,
    group_key text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    before_minor bigint,
    before_currency text,
    before_lines jsonb,
    after_minor bigint,
    after_currency text,
    after_lines jsonb,
    primary key (scenario_id, charge_id),
    check (num_nonnulls(before_minor, before_currency, before_lines) in (0, 3)),
    check (num_nonnulls(after_minor, after_currency, after_lines) in (0, 3))
);
