-- day_snapshots. Grain: place, instant. From: snapshots of the day. Of two at one instant, the first by source and snapshot.
create or replace temp table day_snapshots as
with
taken as materialized (
    select
        places.place_id,
        places.repository_id,
        snapshots.snapshot_at,
        snapshots.source,
        snapshots.snapshot_id,
        snapshots.visibility,
        snapshots.owner,
        snapshots.bytes,
    from snapshots
    join places using (repository, bucket)
    where snapshots.snapshot_at >= getvariable('day_start') and snapshots.snapshot_at < getvariable('day_end')
),
-- few, or none: the others need no look at their neighbours
repeated as materialized (
    select place_id, snapshot_at
    from taken
    group by place_id, snapshot_at
    having count(*) > 1
)
select * from taken
anti join repeated using (place_id, snapshot_at)
union all by name
select * from taken
semi join repeated using (place_id, snapshot_at)
qualify row_number() over (partition by place_id, snapshot_at order by source, snapshot_id, bytes, visibility, owner) = 1;

-- missing_listings. Grain: place, snapshot that should name it and does not: sources in complete_sources name all that exists in their
-- bucket. Of several the one that named it last says that it is gone; a place that events alone know is gone when the only
-- complete source of its bucket does not name it; one that only ready tables name is not theirs. From: day_snapshots, taken_snapshots
-- (source, snapshot_id, snapshot_at, bucket: one that lists nothing has no other row), day_events, tail_places.
create or replace temp table missing_listings as
with
listings as (
    select source, snapshot_id, snapshot_at, bucket
    from (
        select distinct snapshots.source, snapshots.snapshot_id, snapshots.snapshot_at, places.bucket
        from day_snapshots as snapshots
        join places using (place_id)
        union
        select source, snapshot_id, snapshot_at, bucket from taken_snapshots
        where snapshot_at >= getvariable('day_start') and snapshot_at < getvariable('day_end')
    ) as every
    semi join complete_sources using (source)
),
listers as (
    select source, bucket from listings
    union
    select tail_places.listed_by, places.bucket
    from tail_places
    join places using (place_id)
    where tail_places.listed_by is not null
    union
    select source, '' as bucket from complete_sources where not getvariable('is_divided')
),
only_listers as (
    select bucket, min(source) as source
    from listers
    semi join complete_sources using (source)
    group by bucket
    having count(*) = 1
),
named as (
    select
        snapshots.place_id,
        case when snapshots.source in (from complete_sources) then snapshots.source end as listed_by,
        snapshots.snapshot_at as named_at,
        snapshots.snapshot_at + interval 1 microsecond as known_from,
        true as is_named,
    from day_snapshots as snapshots
    union all
    select
        place_id,
        listed_by,
        snapshot_at as named_at,
        getvariable('day_start') as known_from,
        snapshot_at is not null as is_named,
    from tail_places
    where raw_bytes is not null
    union all
    select place_id, null as listed_by, null as named_at, min(event_at) as known_from, false as is_named
    from day_events
    where event_name not in ('UploadPart', 'UploadPartCopy') and action <> 'delete_marker'
    group by place_id
),
known as (
    select
        named.place_id,
        listings.source,
        listings.snapshot_id,
        listings.snapshot_at,
        listings.bucket,
        arg_max(named.listed_by, named.named_at) filter (where named.listed_by is not null) as listed_by,
        bool_or(named.is_named) as is_named,
    from listings
    join named on named.known_from <= listings.snapshot_at
    group by named.place_id, listings.source, listings.snapshot_id, listings.snapshot_at, listings.bucket
)
select known.place_id, known.snapshot_at, known.source, min(known.snapshot_id) as snapshot_id
from known
join places using (place_id)
left join only_listers on known.bucket = only_listers.bucket and places.bucket = only_listers.bucket
anti join day_snapshots on known.place_id = day_snapshots.place_id and known.snapshot_at = day_snapshots.snapshot_at
where coalesce(known.listed_by, case when not known.is_named then only_listers.source end) = known.source
group by known.place_id, known.snapshot_at, known.source;

-- index_epochs. Grain: place, snapshot that its object index may come from: the last before the day, and those of the day. is_listed: its
-- source lists objects; such an index is kept through snapshots that list none.
create or replace temp table index_epochs as
select place_id, snapshot_at as index_at, source as index_source, snapshot_id as index_id, source in (from indexed_sources) as is_listed
from day_snapshots
union all
select place_id, snapshot_at, source, snapshot_id, source in (from indexed_sources)
from missing_listings
union all
select place_id, index_at, index_source, index_id, index_is_listed
from tail_places
where index_at is not null
