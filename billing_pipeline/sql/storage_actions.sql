-- storage_actions. Grain: action of one event day, each once (R2). From: day_events.
-- Deliveries of one action share a shared_event_id, or are the same event; a correction is of the action of what it corrects, and takes
-- its place, also that of the half that went to another account. It corrects events of its own day: what it says is when they were.
-- An id with several contents, of different delivery days, counts with none of them.
create or replace temp table repeated_events as
select event_id
from day_events
group by event_id
having count(*) > 1;

-- storage_conflicts. Grain: event id with several contents.
create or replace temp table storage_conflicts as
select event_id, count(*) as copies
from day_events
where event_id in (select event_id from repeated_events)
group by event_id
having count(distinct {
    'at': event_at, 'place': place_id, 'owner': owner, 'object': object_id, 'name': event_name, 'action': action,
    'bytes': bytes, 'upload': upload_id, 'part': part_number, 'version': version_id, 'corrects': original_event_id,
    'shared': shared_event_id
}::varchar) > 1;

-- corrected_actions. Grain: shared id, or event id without one, that a correction is about or belongs to. Few, or none. action_id: the
-- least of those that corrections connect.
create or replace temp table corrected_actions as
with recursive
counted as (
    select event_id, original_event_id, coalesce(shared_event_id, event_id) as alone_id
    from day_events
    where event_id not in (select event_id from storage_conflicts)
),
corrections as (
    select * from counted where original_event_id is not null
),
links as (
    select corrections.alone_id, coalesce(originals.alone_id, corrections.original_event_id) as other_id
    from corrections
    left join (
        select distinct event_id, alone_id from counted where event_id in (select original_event_id from corrections)
    ) as originals
        on corrections.original_event_id = originals.event_id
),
both_ways as (
    select alone_id, other_id from links
    union
    select other_id, alone_id from links
),
reached as (
    select alone_id, alone_id as reached_id from both_ways
    union
    select reached.alone_id, both_ways.other_id
    from reached
    join both_ways on reached.reached_id = both_ways.alone_id
)
select alone_id, min(reached_id) as action_id
from reached
group by alone_id;

create or replace temp table storage_actions as
with
identified as materialized (
    select
        day_events.* exclude (shared_event_id, original_event_id),
        coalesce(corrected_actions.action_id, day_events.shared_event_id, day_events.event_id) as action_id,
        day_events.original_event_id is null as is_original,
        corrected_actions.action_id is not null
            or day_events.shared_event_id is not null
            or day_events.event_id in (select event_id from repeated_events)
            or day_events.event_id in (select shared_event_id from day_events where shared_event_id is not null) as may_repeat,
    from day_events
    left join corrected_actions on coalesce(day_events.shared_event_id, day_events.event_id) = corrected_actions.alone_id
    where
        day_events.event_id not in (select original_event_id from day_events where original_event_id is not null)
        and day_events.event_id not in (select event_id from storage_conflicts)
)
select * exclude (is_original, may_repeat)
from identified
where not may_repeat
union all by name
select * exclude (is_original, may_repeat)
from identified
where may_repeat
qualify row_number() over (partition by action_id order by is_original, event_id) = 1
