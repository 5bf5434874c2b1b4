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
-- (source, snapshot_id, snapshot_at, bucket: one that lists nothing has no other row), whole_snapshots and tail_listers (of all
-- repositories, also where some are looked at only), day_events, tail_places.
create or replace temp table missing_listings as
with
listings as (
    select source, snapshot_id, snapshot_at, bucket
    from (
        select source, snapshot_id, snapshot_at, bucket
        from whole_snapshots
        where snapshot_at >= getvariable('day_start') and snapshot_at < getvariable('day_end')
        union
        select source, snapshot_id, snapshot_at, bucket from taken_snapshots
        where snapshot_at >= getvariable('day_start') and snapshot_at < getvariable('day_end')
    ) as every
    semi join complete_sources using (source)
),
listers as (
    select source, bucket from listings
    union
    select listed_by, bucket from tail_listers
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

-- active_repositories. Grain: repository of which the day may change anything: something happened to it, a snapshot says another thing than
-- it was, or not all of it is known yet. Of the others the day is one state, that of the day before.
create or replace temp table active_repositories as
select places.repository_id
from (
    select place_id from day_events
    union
    select place_id from day_words
    union
    select place_id from missing_listings
) as seen
join places using (place_id)
union
select snapshots.repository_id
from day_snapshots as snapshots
left join tail_places as tails using (place_id)
where
    tails.place_id is null
    or not tails.is_anchored
    or tails.has_changed
    or tails.raw_bytes <> snapshots.bytes
    or (snapshots.visibility is not null and snapshots.visibility is distinct from tails.visibility)
    or (snapshots.owner is not null and snapshots.owner is distinct from tails.owner)
union
select places.repository_id
from later_bases
join places using (repository)
union
select repository_id
from tail_places
group by repository_id
having
    bool_or(visibility is null or owner is null)
    or bool_or(not is_anchored and (raw_bytes is not null or not getvariable('is_divided')))
    or not bool_or(is_anchored);

-- storage_anchors. Grain: place of an active repository, snapshot of the day or the day's beginning ('0001-01-01'): what its bytes count
-- from, and the snapshot that its object index comes from since. An index that was listed is kept through snapshots that list no
-- objects (indexed_sources list them). anchor_bytes null: nobody has said anything of its bytes.
create or replace temp table storage_anchors as
with
anchors as materialized (
    select
        place_id,
        timestamp '0001-01-01' as anchor_at,
        raw_bytes as anchor_bytes,
        is_anchored,
        has_changed,
        unsized,
        index_at,
        index_source,
        index_id,
        coalesce(index_is_listed, false) as is_listed,
        true as was_known,
    from tail_places
    semi join active_repositories using (repository_id)
    union all by name
    select
        place_id,
        snapshot_at as anchor_at,
        bytes as anchor_bytes,
        true as is_anchored,
        false as has_changed,
        0 as unsized,
        snapshot_at as index_at,
        source as index_source,
        snapshot_id as index_id,
        source in (from indexed_sources) as is_listed,
        false as was_known,
    from day_snapshots
    semi join active_repositories using (repository_id)
    union all by name
    select
        place_id,
        snapshot_at as anchor_at,
        0 as anchor_bytes,
        true as is_anchored,
        false as has_changed,
        0 as unsized,
        snapshot_at as index_at,
        source as index_source,
        snapshot_id as index_id,
        source in (from indexed_sources) as is_listed,
        false as was_known,
    from missing_listings
    union all by name
    -- places that nothing was known of when the day began
    select
        place_id,
        timestamp '0001-01-01' as anchor_at,
        false as is_anchored,
        false as has_changed,
        0 as unsized,
        false as is_listed,
        false as was_known,
    from (
        select place_id from day_events
        union
        select place_id from day_words
        union
        select place_id from day_snapshots
        union
        select place_id from missing_listings
    ) as seen
    anti join tail_places using (place_id)
),
mixed as materialized (
    select place_id
    from anchors
    group by place_id
    having bool_or(is_listed) and not bool_and(is_listed)
)
select * from anchors
anti join mixed using (place_id)
union all by name
select
    anchors.* exclude (index_at, index_source, index_id, is_listed),
    coalesce(listed.index_at, anchors.index_at) as index_at,
    case when listed is null then anchors.index_source else listed.index_source end as index_source,
    case when listed is null then anchors.index_id else listed.index_id end as index_id,
    listed is not null as is_listed,
from (
    select
        *,
        last_value(
            case when is_listed then {'index_at': index_at, 'index_source': index_source, 'index_id': index_id} end ignore nulls
        ) over (partition by place_id order by anchor_at rows unbounded preceding) as listed,
    from anchors
    semi join mixed using (place_id)
) as anchors
