-- Traffic: which snapshots of counters were read, which windows of time they prove, what contradicts itself.
-- The samples are in the lake (core/traffic_samples, one file per UTC day and generation).

-- Every snapshot ever taken, also one without samples: coverage, and whether a node was seen before. Append-only.
create table core.traffic_snapshot (
    env text not null,
    node text not null,
    collected_at timestamptz not null,
    content_sha256 text not null check (content_sha256 ~ '^[0-9a-f]{64}$'),
    source text not null,
    sample_count integer not null check (sample_count >= 0),
    rejected_count integer not null default 0 check (rejected_count >= 0),
    uptime_seconds bigint check (uptime_seconds >= 0),
    xray_version text,
    -- null: pulled
    file_id bigint references core.source_file (file_id),
    received_at timestamptz not null,
    primary key (env, node, collected_at, content_sha256)
);
create index traffic_snapshot_by_instant on core.traffic_snapshot (collected_at);

-- A refused sample of a pulled snapshot, or a pulled snapshot that was refused whole. Of files: core.quarantine. Append-only,
-- without any value.
create table core.traffic_refusal (
    source text not null,
    event_day date not null,
    -- null, and position 0: the snapshot itself was refused, and its instant is not to be trusted
    collected_at timestamptz,
    position integer not null check (position >= 0),
    reason text not null,
    field text,
    found_at timestamptz not null,
    unique nulls not distinct (source, event_day, collected_at, position, reason, field)
);
create index traffic_refusal_by_day on core.traffic_refusal (event_day);

-- Progress of a source. completed_until: everything before it is complete or closed by a person, without exception.
create table core.traffic_sync_state (
    source text primary key,
    completed_until timestamptz,
    last_attempted_at timestamptz,
    last_succeeded_at timestamptz,
    last_error text,
    last_error_kind text
);

-- A UTC hour of a source. complete: read to the end, and every expected minute has a snapshot. partial: in progress, or
-- minutes are missing that may still come. gap: minutes are missing. closed: a person accepted the gap.
create table core.traffic_window (
    source text not null,
    window_start timestamptz not null,
    window_end timestamptz not null,
    status text not null check (status in ('complete', 'partial', 'gap', 'closed')),
    missing_minutes integer not null check (missing_minutes >= 0),
    snapshots integer not null check (snapshots >= 0),
    samples bigint not null check (samples >= 0),
    -- no minute before this instant is missing in the window
    covered_until timestamptz not null,
    reason text,
    detail text,
    checked_at timestamptz not null,
    primary key (source, window_start),
    check (window_end > window_start and window_end <= window_start + interval '1 hour'),
    check (covered_until between window_start and window_end),
    check (status <> 'complete' or missing_minutes = 0),
    check (status not in ('gap', 'closed') or (missing_minutes > 0 and reason is not null))
);
create index traffic_window_open on core.traffic_window (source, window_start) where status in ('partial', 'gap');

-- History of gaps: opened when minutes turn out to be missing, filled by later snapshots, closed by a person. Append-only.
create table core.traffic_gap (
    gap_event_id bigint generated always as identity primary key,
    source text not null,
    window_start timestamptz not null,
    window_end timestamptz not null,
    event text not null check (event in ('opened', 'filled', 'closed')),
    missing_minutes integer not null check (missing_minutes >= 0),
    reason text not null,
    actor text not null,
    happened_at timestamptz not null,
    check (event <> 'closed' or (actor <> '' and reason <> ''))
);
create index traffic_gap_by_window on core.traffic_gap (source, window_start);

-- Samples that say different totals for one stream and instant: every version, and none of them in the lake. Append-only.
create table core.traffic_conflict (
    env text not null,
    node text not null,
    account_uuid text not null,
    inbound_tag text not null,
    collected_at timestamptz not null,
    uplink_bytes bigint not null check (uplink_bytes >= 0),
    downlink_bytes bigint not null check (downlink_bytes >= 0),
    event_day date not null,
    source text not null,
    file_id bigint references core.source_file (file_id),
    line_number bigint,
    found_at timestamptz not null,
    primary key (env, node, account_uuid, inbound_tag, collected_at, uplink_bytes, downlink_bytes)
);
create index traffic_conflict_by_day on core.traffic_conflict (event_day);

-- What became of the samples of a day, over all its snapshots. The last check is law 1.
create table core.traffic_day (
    event_day date primary key,
    samples_read bigint not null check (samples_read >= 0),
    kept_samples bigint not null check (kept_samples >= 0),
    duplicate_samples bigint not null check (duplicate_samples >= 0),
    conflict_samples bigint not null check (conflict_samples >= 0),
    rejected_samples bigint not null check (rejected_samples >= 0),
    updated_at timestamptz not null,
    check (samples_read = kept_samples + duplicate_samples + conflict_samples + rejected_samples)
);
