-- day_snapshots. Grain: repository, instant. From: snapshots of the day. Of two at one instant, the first by source and snapshot.
create or replace temp table day_snapshots as
select repository, snapshot_at, source, snapshot_id, visibility, owner, bytes
from snapshots
where snapshot_at >= getvariable('day_start') and snapshot_at < getvariable('day_end')
qualify row_number() over (partition by repository, snapshot_at order by source, snapshot_id, bytes, visibility, owner) = 1;

-- missing_listings. Grain: repository, snapshot that should name it and does not: sources in complete_sources name all that exists.
-- Where several sources name a repository, the one that named it last says that it is gone; one that events alone know is
-- gone when the only complete source does not name it. From: day_snapshots, taken_snapshots (source, snapshot_id, snapshot_at: one
-- that lists nothing has no other row), object_events, tail_repositories.
create or replace temp table missing_listings as
with
listings as (
    select source, snapshot_id, snapshot_at
    from (
        select source, snapshot_id, snapshot_at from day_snapshots
        union
        select source, snapshot_id, snapshot_at from taken_snapshots
        where snapshot_at >= getvariable('day_start') and snapshot_at < getvariable('day_end')
    ) as every
    semi join complete_sources using (source)
),
known as (
    select repository, source, snapshot_at, snapshot_at + interval 1 microsecond as known_from from day_snapshots
    union all
    select repository, snapshot_source as source, snapshot_at, getvariable('day_start') as known_from from tail_repositories
    union all
    select repository, null as source, null as snapshot_at, min(event_at) as known_from
    from object_events
    where
        event_at >= getvariable('day_start') and event_at < getvariable('day_end')
        and event_name not in ('UploadPart', 'UploadPartCopy') and action <> 'delete_marker'
    group by repository
),
named_last as (
    select
        known.repository,
        listings.source,
        listings.snapshot_id,
        listings.snapshot_at,
        arg_max(known.source, known.snapshot_at) as last_source,
    from listings
    join known on known.known_from <= listings.snapshot_at
    group by known.repository, listings.source, listings.snapshot_id, listings.snapshot_at
)
select repository, snapshot_at, source, min(snapshot_id) as snapshot_id
from named_last
anti join day_snapshots using (repository, snapshot_at)
where coalesce(last_source, (select min(source) from complete_sources having count(*) = 1)) = source
group by repository, snapshot_at, source;

-- epochs. Grain: repository, snapshot that its object index may come from: the last before the day, and those of the day.
create or replace temp table epochs as
select repository, snapshot_at, source, snapshot_id from day_snapshots
union all
select repository, snapshot_at, source, snapshot_id from missing_listings
union all
select repository, snapshot_at, snapshot_source as source, snapshot_id from tail_repositories where snapshot_at is not null
