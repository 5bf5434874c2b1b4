-- Storage: who held how many bytes for how long, per event day. Replaced row by row with the day's build: a late event
-- rewrites the rows of its repository and account and no other.

-- Grain: event day, repository, state. States of a repository follow each other without gap from its first evidence on.
create table usage.storage_state (
    event_day date not null,
    repository text not null,
    segment_start timestamptz not null,
    segment_end timestamptz not null,
    bytes bigint not null check (bytes >= 0),
    -- null: nobody has said
    visibility text check (visibility in ('public', 'private')),
    owner text,
    -- the account that has the owner as client at the time; null: nobody pays (yet)
    account_id text,
    -- bytes x seconds, exact: six places because instants have microseconds
    byte_seconds numeric(38, 6) not null,
    -- snapshot: as the last snapshot has it. events: a snapshot and events since. carried_back: before the first snapshot,
    -- with the events undone. no_snapshot: events alone
    basis text not null check (basis in ('snapshot', 'events', 'carried_back', 'no_snapshot')),
    primary key (event_day, repository, segment_start),
    check (segment_end > segment_start),
    check (byte_seconds * 1000000 = bytes::numeric * (extract(epoch from segment_end - segment_start) * 1000000)),
    check (segment_start >= event_day::timestamp at time zone 'UTC'
           and segment_end <= (event_day + 1)::timestamp at time zone 'UTC')
);
create index storage_state_by_repository on usage.storage_state (repository, segment_start);

-- Grain: account, meter, window (an hour, or a part of one where a subscription period begins). Over all repositories.
create table usage.storage (
    event_day date not null,
    account_id text not null,
    meter_id text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    -- byte-seconds: rating divides by the seconds of the subscriber's own billing period
    quantity numeric(38, 9) not null check (quantity > 0),
    unit text not null,
    -- the most repositories that were held at one time in the window
    repository_count bigint not null check (repository_count > 0),
    primary key (account_id, meter_id, period_start),
    check (period_end > period_start),
    check (period_end <= date_trunc('hour', period_start, 'UTC') + interval '1 hour'),
    check (period_start >= event_day::timestamp at time zone 'UTC'
           and period_end <= (event_day + 1)::timestamp at time zone 'UTC')
);
create index storage_by_day on usage.storage (event_day);

-- Where a snapshot says something else than the events before it. Of a held day too: that is what a person looks at.
create table usage.storage_drift (
    event_day date not null,
    repository text not null,
    snapshot_at timestamptz not null,
    -- null: the first snapshot, nothing was known before
    derived_bytes bigint,
    snapshot_bytes bigint not null,
    -- snapshot less derived
    drift_bytes bigint not null,
    derived_visibility text,
    snapshot_visibility text,
    visibility_mismatch boolean not null,
    -- events since the snapshot before that nobody can size: they explain a drift
    unsized_events bigint not null,
    -- the source's snapshot is complete and does not name the repository: taken as 0 bytes
    is_missing boolean not null,
    primary key (event_day, repository, snapshot_at)
);
create index storage_drift_by_repository on usage.storage_drift (repository, snapshot_at);

-- How a repository was before anything had said so: found on `event_day`, true of the days from `began_on` up to it.
create table usage.storage_base (
    event_day date not null,
    repository text not null,
    began_on date not null,
    -- the first snapshot less everything that events had added before it
    base_bytes bigint,
    base_visibility text,
    base_owner text,
    primary key (event_day, repository),
    check (began_on < event_day)
);

-- What a day leaves to the next one: the lake's usage/storage_tails, its content's digest, and the days of the snapshots
-- whose object index it refers to.
create table usage.storage_tail (
    event_day date primary key,
    tail_digest text not null,
    index_days date[] not null,
    repositories bigint not null
);
