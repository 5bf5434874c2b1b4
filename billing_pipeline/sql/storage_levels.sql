-- storage_changes. Grain: place, instant of events: what they have added since the last snapshot of the place (anchor_at). From:
-- storage_deltas, day_words (which add nothing, and are evidence that the repository is there), storage_anchors.
create or replace temp table storage_changes as
with
facts as (
    select
        place_id,
        anchor_at,
        event_at,
        sum(delta) as delta,
        count(*) filter (where delta is null) as unsized,
        true as is_change,
    from storage_deltas
    group by place_id, anchor_at, event_at
    union all by name
    select words.place_id, anchors.anchor_at, words.event_at, 0 as delta, 0 as unsized, false as is_change
    from day_words as words
    asof join storage_anchors as anchors on words.place_id = anchors.place_id and words.event_at > anchors.anchor_at
)
select
    place_id,
    anchor_at,
    event_at,
    coalesce(sum(delta) over since_anchor, 0) as delta_sum,
    sum(unsized) over since_anchor as unsized_sum,
    bool_or(is_change) over since_anchor as is_change,
from facts
window since_anchor as (partition by place_id, anchor_at order by event_at range unbounded preceding);

-- storage_epochs. Grain: as storage_anchors, of places of which there is evidence (parts of uploads are none). What each began with, what it came to, and (before_*) what the one before it came to. R1, R4: a
-- snapshot anchors bytes from its instant on. anchor_bytes, end_bytes null: nobody has said anything of its bytes. They count from 0 where
-- no snapshot has come, and below 0 nothing is shown. From: storage_anchors, storage_changes.
create or replace temp table storage_epochs as
with
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
        begun.place_id,
        begun.anchor_at,
        begun.anchor_bytes,
        begun.is_anchored,
        begun.has_changed,
        begun.unsized,
        begun.was_known,
        case
            when begun.anchor_bytes is not null or ended.last.is_change
                then greatest(coalesce(begun.anchor_bytes, 0) + coalesce(ended.last.delta, 0), -9223372036854775807)::bigint
        end as end_bytes,
        (begun.unsized + coalesce(ended.last.unsized, 0))::bigint as end_unsized,
        begun.has_changed or ended.last is not null as end_has_changed,
    from storage_anchors as begun
    left join ended using (place_id, anchor_at)
    where
        begun.was_known
        or begun.place_id in (
            select place_id from storage_changes
            union
            select place_id from storage_anchors where anchor_at > timestamp '0001-01-01'
        )
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
    where anchor_at = timestamp '0001-01-01' and was_known
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
