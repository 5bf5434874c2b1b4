-- storage_changes. Grain: place, instant of events: what they have added since the last snapshot of the place. From: storage_deltas,
-- day_words (which add nothing, and are evidence that the repository is there).
create or replace temp table storage_anchors as
select place_id, snapshot_at as anchor_at, bytes as anchor_bytes
from day_snapshots
union all
select place_id, snapshot_at as anchor_at, 0 as anchor_bytes
from missing_listings;

create or replace temp table storage_changes as
with
facts as (
    select
        place_id,
        event_at,
        sum(delta) as delta,
        count(*) filter (where delta is null) as unsized,
        true as is_change,
    from storage_deltas
    group by place_id, event_at
    union all by name
    select place_id, event_at, 0 as delta, 0 as unsized, false as is_change
    from day_words
),
merged as (
    select place_id, event_at, coalesce(sum(delta), 0) as delta, sum(unsized)::bigint as unsized, bool_or(is_change) as is_change
    from facts
    group by place_id, event_at
),
placed as (
    select merged.*, coalesce(anchors.anchor_at, timestamp '0001-01-01') as anchor_at
    from merged
    asof left join storage_anchors as anchors on merged.place_id = anchors.place_id and merged.event_at > anchors.anchor_at
)
select
    place_id,
    anchor_at,
    event_at,
    sum(delta) over since_anchor as delta_sum,
    sum(unsized) over since_anchor as unsized_sum,
    bool_or(is_change) over since_anchor as is_change,
from placed
window since_anchor as (partition by place_id, anchor_at order by event_at rows unbounded preceding);

-- storage_epochs. Grain: place, snapshot of the day or the day's beginning ('0001-01-01'), of the places of which anything is known. What
-- it began with, what it came to, and (before_*) what the one before it came to. R1, R4: a snapshot anchors bytes from its instant on.
-- anchor_bytes, end_bytes null: nobody has said anything of its bytes. They count from 0 where no snapshot has come, and below 0 nothing
-- is shown.
create or replace temp table storage_epochs as
with
begun as (
    select place_id, timestamp '0001-01-01' as anchor_at, raw_bytes as anchor_bytes, is_anchored, has_changed, unsized
    from tail_places
    union all
    select place_id, timestamp '0001-01-01' as anchor_at, null as anchor_bytes, false as is_anchored, false as has_changed, 0 as unsized
    from (
        select place_id from storage_changes
        union
        select place_id from storage_anchors
    ) as seen
    anti join tail_places using (place_id)
    union all
    select place_id, anchor_at, anchor_bytes, true as is_anchored, false as has_changed, 0 as unsized
    from storage_anchors
),
ended as (
    select
        place_id,
        anchor_at,
        arg_max({'delta': delta_sum, 'unsized': unsized_sum, 'is_change': is_change}, event_at) as last,
    from storage_changes
    group by place_id, anchor_at
),
together as (
    select
        begun.*,
        case
            when begun.anchor_bytes is not null or ended.last.is_change
                then greatest(coalesce(begun.anchor_bytes, 0) + coalesce(ended.last.delta, 0), -9223372036854775807)::bigint
        end as end_bytes,
        (begun.unsized + coalesce(ended.last.unsized, 0))::bigint as end_unsized,
        begun.has_changed or ended.last is not null as end_has_changed,
    from begun
    left join ended using (place_id, anchor_at)
)
select
    together.*,
    coalesce(lag(end_bytes) over history, 0) as before_bytes,
    coalesce(lag(is_anchored) over history, false) as before_is_anchored,
    coalesce(lag(end_unsized) over history, 0) as before_unsized,
    lead(anchor_at) over history is null as is_last,
from together
window history as (partition by place_id order by anchor_at);

-- place_bases. Grain: place: what it held before its first snapshot, events undone (R5), as found on this day or, where not, later. From:
-- storage_epochs, later_bases (repository, bucket, base_bytes, base_visibility, base_owner: found by the builds of later days).
create or replace temp table place_bases as
with
found as (
    select place_id, least(anchor_bytes::hugeint - before_bytes, 9223372036854775807)::bigint as base_bytes
    from storage_epochs
    where is_anchored and anchor_at > timestamp '0001-01-01' and not before_is_anchored
),
later as (
    select places.place_id, later_bases.base_bytes
    from later_bases
    join places using (repository, bucket)
    where later_bases.base_bytes is not null
)
select place_id, coalesce(found.base_bytes, later.base_bytes) as base_bytes, found.base_bytes as found_bytes
from found
full join later using (place_id);

-- storage_steps. Grain: place, instant, and there the events (rank 0) before the snapshot (rank 1); rank -1 is how the day begins. bytes:
-- what is shown, from 0 to 2^63 - 1. basis: 0 snapshot, 1 events, 2 carried back, 3 no snapshot; null: nobody has said anything of its
-- bytes. From: storage_epochs, storage_changes, place_bases.
create or replace temp table storage_steps as
with
raw as (
    select place_id, getvariable('day_start') as step_at, -1 as rank, anchor_bytes::hugeint as bytes, is_anchored, has_changed
    from storage_epochs
    semi join tail_places using (place_id)
    where anchor_at = timestamp '0001-01-01'
    union all by name
    select place_id, anchor_at as step_at, 1 as rank, anchor_bytes::hugeint as bytes, is_anchored, has_changed
    from storage_epochs
    where anchor_at > timestamp '0001-01-01'
    union all by name
    select
        changes.place_id,
        changes.event_at as step_at,
        0 as rank,
        case
            when epochs.anchor_bytes is not null or changes.is_change then coalesce(epochs.anchor_bytes, 0) + changes.delta_sum
        end as bytes,
        epochs.is_anchored,
        true as has_changed,
    from storage_changes as changes
    join storage_epochs as epochs using (place_id, anchor_at)
    union all by name
    -- before its first evidence a place holds what it is carried back with, from midnight on
    select place_bases.place_id, getvariable('day_start') as step_at, -1 as rank, 0 as bytes, false as is_anchored, false as has_changed
    from place_bases
    semi join storage_epochs using (place_id)
    anti join tail_places using (place_id)
    where place_bases.base_bytes > 0
)
select
    raw.place_id,
    raw.step_at,
    raw.rank,
    case
        when raw.is_anchored then greatest(0, raw.bytes)
        else greatest(0, least(coalesce(raw.bytes, 0) + coalesce(place_bases.base_bytes, 0), 9223372036854775807))
    end::bigint as bytes,
    case
        when raw.is_anchored then raw.has_changed::integer
        when place_bases.base_bytes is not null then 2
        when raw.bytes is not null then 3
    end as basis,
from raw
left join place_bases using (place_id)
