-- Traffic as usage: minute buckets, hourly usage of the traffic meters, what is not billed of it, and what was put right.

-- Grain: stream (env, node, account_uuid, inbound_tag) and UTC minute, of known accounts. A minute without traffic has no row,
-- unless something happened in it (see basis). Replaced a day at a time.
create table usage.traffic_minute (
    event_day date not null,
    account_id text not null,
    bucket_start timestamptz not null,
    env text not null,
    node text not null,
    inbound_tag text not null,
    region text not null,
    line text not null,
    account_uuid text not null,
    uplink_bytes bigint not null check (uplink_bytes >= 0),
    downlink_bytes bigint not null check (downlink_bytes >= 0),
    -- policies of the node when the day was built
    on_first text not null check (on_first in ('baseline', 'full')),
    on_reset text not null check (on_reset in ('baseline', 'from_zero')),
    -- what the bytes rest on; of several things in one minute the last of this list
    basis text not null
        check (basis in ('difference', 'new_stream', 'first_of_node', 'after_hold', 'restart', 'reset')),
    -- restarts and resets of the stream since midnight UTC
    epoch integer not null check (epoch >= 0),
    -- what the policy left out and may have been traffic
    suspected_loss_bytes numeric(38, 0) not null default 0 check (suspected_loss_bytes >= 0),
    primary key (account_id, bucket_start, env, node, inbound_tag, account_uuid),
    check (bucket_start = date_trunc('minute', bucket_start, 'UTC')),
    check (bucket_start >= event_day::timestamp at time zone 'UTC'
           and bucket_start < (event_day + 1)::timestamp at time zone 'UTC')
);
create index traffic_minute_by_day on usage.traffic_minute (event_day);

-- Grain: event day, account, meter, window (an hour, or a part of one where a subscription period begins), node, inbound.
create table usage.traffic (
    event_day date not null,
    account_id text not null,
    meter_id text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    env text not null,
    node text not null,
    inbound_tag text not null,
    quantity numeric(38, 9) not null,
    unit text not null,
    -- minutes with traffic
    bucket_count bigint not null check (bucket_count > 0),
    primary key (account_id, meter_id, period_start, env, node, inbound_tag),
    check (period_end > period_start),
    check (period_end <= date_trunc('hour', period_start, 'UTC') + interval '1 hour'),
    check (period_start >= event_day::timestamp at time zone 'UTC'
           and period_end <= (event_day + 1)::timestamp at time zone 'UTC')
);
create index traffic_by_day on usage.traffic (event_day);

-- Traffic of the day that nobody pays for: an identity that no account has, or a stream that is held: two
-- writers share it, or it would come to more bytes than a BIGINT holds.
create table usage.traffic_not_billable (
    event_day date not null,
    reason text not null check (reason in ('unknown_identity', 'split_brain', 'beyond_int64')),
    env text not null,
    node text not null,
    account_uuid text not null,
    inbound_tag text not null,
    sample_count bigint not null check (sample_count > 0),
    uplink_bytes numeric(38, 0) not null check (uplink_bytes >= 0),
    downlink_bytes numeric(38, 0) not null check (downlink_bytes >= 0),
    primary key (event_day, reason, env, node, account_uuid, inbound_tag)
);

-- Streams that are held, whose totals went down without a witness of a restart, or of which such a day came before.
create table usage.traffic_suspect (
    event_day date not null,
    env text not null,
    node text not null,
    account_uuid text not null,
    inbound_tag text not null,
    reason text not null check (reason in ('reset', 'split_brain', 'beyond_int64')),
    resets bigint not null check (resets >= 0),
    first_at timestamptz not null,
    last_at timestamptz not null,
    suspected_loss_bytes numeric(38, 0) not null check (suspected_loss_bytes >= 0),
    on_reset text not null,
    primary key (event_day, env, node, account_uuid, inbound_tag)
);

-- What was derived from the samples of a day beside its usage. The tail, the last sample of every stream at the end of the day,
-- is a lake file (usage/traffic_tails); the next day is built from its own samples and this.
create table usage.traffic_day (
    event_day date primary key,
    -- over the day's samples, the whole tail before it, first snapshots, guards that hold the samples, and hold thresholds
    chain_digest text not null,
    -- the same, with just those streams of the tail before that the day's deltas rest on: the inputs of usage.build
    content_digest text not null,
    tail_digest text not null,
    tail_generation text not null,
    -- [[env, node, {on_first, on_reset, max_resets_per_hour, region, line} or null], ...] with samples on the day, and how they
    -- were read: a node that traffic.toml lists no more is read so again
    nodes jsonb not null,
    -- [[env, node, account_uuid, inbound_tag], ...] that two writers share from midnight on: the day before is held as well
    early_holds jsonb not null,
    updated_at timestamptz not null default now()
);

-- Append-only. A row that was not what the raw samples say, and what it was replaced by: a minute bucket, or an hourly quantity
-- (meter_id). Null where there was no row, or where there should be none.
create table usage.traffic_adjustment (
    adjustment_id bigint generated always as identity primary key,
    run_id text not null,
    event_day date not null,
    env text not null,
    node text not null,
    account_id text not null,
    account_uuid text,
    inbound_tag text not null,
    meter_id text,
    period_start timestamptz not null,
    stored_uplink_bytes bigint,
    stored_downlink_bytes bigint,
    true_uplink_bytes bigint,
    true_downlink_bytes bigint,
    stored_quantity numeric(38, 9),
    true_quantity numeric(38, 9),
    actor text not null check (actor <> ''),
    reason text not null check (reason <> ''),
    adjusted_at timestamptz not null default now(),
    check ((meter_id is null) = (account_uuid is not null))
);
create index traffic_adjustment_by_day on usage.traffic_adjustment (event_day);
