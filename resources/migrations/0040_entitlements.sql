-- Entitlements: what each account may use, when, and which thresholds it has passed. Owner: resources/entitlements.
alter table catalog.entry drop constraint entry_kind_check;
alter table catalog.entry add constraint entry_kind_check check (
    kind in (
        'billable_rule', 'meter', 'price', 'plan', 'account', 'subscription', 'feature', 'entitlement', 'recurring_credit'
    )
);
create schema entitlement;

-- What an account may use of a feature in [valid_from, valid_to), all its sources together; and the window over which usage of
-- a metered feature is counted. A day window is the UTC day of the question. Replaced as a whole from the current catalog.
create table entitlement.allowance (
    account_id text not null,
    feature_id text not null,
    valid_from timestamptz not null,
    valid_to timestamptz not null,
    feature_type text not null check (feature_type in ('boolean', 'static', 'metered')),
    is_enabled boolean not null,
    -- metered: in the meter's unit; null is unlimited
    limit_quantity numeric,
    beyond text not null check (beyond in ('deny', 'allow')),
    static_value text,
    meter_id text,
    aggregation text,
    reset text not null check (reset in ('period', 'day', 'never')),
    counted_from timestamptz not null,
    counted_to timestamptz not null,
    -- percents of the limit, ascending
    thresholds numeric[] not null,
    -- ids of the entitlements, ascending
    sources text[] not null,
    catalog_sha256 text not null references catalog.release (catalog_sha256),
    primary key (account_id, feature_id, valid_from),
    check (valid_to > valid_from and counted_to > counted_from),
    check ((feature_type = 'metered') = (meter_id is not null)),
    exclude using gist (account_id with =, feature_id with =, tstzrange(valid_from, valid_to) with &&)
);

-- A threshold that an account's usage of a feature has passed in a counting window: told once. Append-only.
create table entitlement.threshold_crossing (
    account_id text not null,
    feature_id text not null,
    counted_from timestamptz not null,
    -- percent of the limit
    threshold numeric not null,
    limit_quantity numeric not null,
    used_quantity numeric not null,
    found_at timestamptz not null,
    primary key (account_id, feature_id, counted_from, threshold)
);
