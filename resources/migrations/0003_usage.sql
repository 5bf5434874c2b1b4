-- Usage: what was used, per event day. Replaced a partition at a time, in one transaction with its build row.
create schema usage;

-- Grain: event day, account, meter, window (an hour, or a part of one where a subscription period begins), dimensions.
create table usage.api_requests (
    event_day date not null,
    account_id text not null,
    meter_id text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    endpoint text not null,
    method text not null,
    client_id text not null,
    -- count and sum: additive. max, min, latest: of this window. unique and percentile: see state.
    quantity numeric(38, 9) not null,
    unit text not null,
    request_count bigint not null check (request_count > 0),
    -- mergeable state of a meter that cannot be added: unique {"values": [..]}, percentile {"counts": [[value, n], ..]},
    -- latest {"at": .., "event_id": ..}
    state jsonb,
    -- event_day follows from period_start, so rating finds an account's period by this key as well
    primary key (account_id, meter_id, period_start, endpoint, method, client_id),
    check (period_end > period_start),
    check (period_end <= date_trunc('hour', period_start, 'UTC') + interval '1 hour'),
    check (period_start >= event_day::timestamp at time zone 'UTC'
           and period_end <= (event_day + 1)::timestamp at time zone 'UTC')
);
create index api_requests_by_day on usage.api_requests (event_day);

-- Requests of the day that nobody pays for, counted by reason; account and client where they are known.
create table usage.api_requests_not_billable (
    event_day date not null,
    reason text not null,
    account_id text not null default '',
    client_id text not null default '',
    request_count bigint not null check (request_count > 0),
    primary key (event_day, reason, account_id, client_id)
);

-- One row per built partition: what it was made of, and the equation
-- records_read = billable + not_billable + duplicate + conflict.
create table usage.build (
    asset text not null,
    partition_key date not null,
    state text not null check (state in ('built', 'held')),
    inputs_digest text not null,
    rules_digest text not null,
    generations jsonb not null,
    records_read bigint not null,
    billable_records bigint not null,
    not_billable_records bigint not null,
    duplicate_records bigint not null,
    conflict_records bigint not null,
    usage_rows bigint not null,
    code_version text not null,
    run_id text not null,
    built_at timestamptz not null default now(),
    primary key (asset, partition_key),
    -- the guard records_conserved holds a day of which this is not true; its figures are kept to be looked at
    check (
        state = 'held'
        or records_read = billable_records + not_billable_records + duplicate_records + conflict_records
    )
);

-- Files whose records the last build of a partition has counted: tells which side of a late conflict is billed already.
create table usage.build_file (
    asset text not null,
    partition_key date not null,
    file_id bigint not null references core.source_file (file_id),
    primary key (asset, partition_key, file_id),
    foreign key (asset, partition_key) references usage.build on delete cascade
);
