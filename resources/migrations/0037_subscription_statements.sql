-- Subscriptions that an application writes, or that are observed at Stripe: dated statements, never edited. What they come to is in
-- catalog.entry with all other entries, under the release that took them in; what cannot be taken in waits in catalog.statement_finding.

-- An application may be given: insert on this table, select on it and on catalog.statement_finding. Append-only.
-- statement 'start': account_id, plan_id; 'change': what is other from `at` on; 'withdrawal': `withdraws` never counted.
create table catalog.subscription_statement (
    statement_id bigint generated always as identity primary key,
    source text not null default 'table' check (source in ('table', 'stripe')),
    -- the writer's own id of the statement, such as that of its event: written once however often it is sent
    external_id text,
    subscription_id text not null check (subscription_id ~ '^[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}$'),
    statement text not null check (statement in ('start', 'change', 'withdrawal')),
    -- when it happens
    at timestamptz not null check (at = date_trunc('second', at)),
    -- month, quarter, year, ..: it takes effect where the period that contains `at` ends; null: at once
    at_end_of text,
    account_id text,
    plan_id text,
    plan_version integer check (plan_version >= 1),
    -- {"seat": 5}; whole numbers, or exact ones as text
    quantities jsonb check (jsonb_typeof(quantities) = 'object'),
    status text check (status in ('active', 'paused')),
    trial_until timestamptz,
    -- true ends the subscription, false takes back a cancellation
    cancel boolean,
    anchor_day smallint check (anchor_day between 1 and 31),
    anchor_time time,
    anchor_month smallint check (anchor_month between 1 and 12),
    -- null: the account's
    anchor_zone text,
    withdraws bigint references catalog.subscription_statement (statement_id),
    note text check (note <> ''),
    -- when we knew
    written_at timestamptz not null default clock_timestamp(),
    written_by text not null default session_user,
    unique (source, external_id),
    check (statement <> 'start' or (account_id is not null and plan_id is not null and cancel is null and status is null)),
    check (statement = 'start' or coalesce(account_id, anchor_zone) is null),
    check (statement = 'start' or (anchor_day is null and anchor_time is null and anchor_month is null)),
    check (statement = 'change' or at_end_of is null),
    check (
        statement <> 'change'
        or coalesce(plan_id, status) is not null or quantities is not null or trial_until is not null or cancel is not null
    ),
    check ((statement = 'withdrawal') = (withdraws is not null))
);
create index subscription_statement_by_subscription on catalog.subscription_statement (subscription_id, statement_id);

-- Statements that a loaded catalog has taken in, in the order in which it did: they stay in that order for ever. Append-only.
create table catalog.accepted_statement (
    statement_id bigint primary key references catalog.subscription_statement (statement_id),
    place bigint generated always as identity unique,
    accepted_at timestamptz not null default now()
);

-- What the last load could not take in, and why. Replaced by every load; a statement that has become right is taken in then.
create table catalog.statement_finding (
    source text not null,
    subscription_id text not null,
    -- null: all of the subscription's
    statement_id bigint,
    field text not null,
    message text not null,
    noticed_at timestamptz not null default now(),
    unique nulls not distinct (source, subscription_id, statement_id, field, message)
);

-- Which source a loaded subscription comes from; those of the catalog's files are not here. Written by every load.
create table catalog.subscription_origin (
    subscription_id text primary key,
    source text not null check (source in ('table', 'stripe'))
);
