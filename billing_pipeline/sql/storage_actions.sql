-- storage_actions. Grain: action of one event day, each once (R2). From: object_events, visibility_events of the day.
-- Deliveries of one action share a shared_event_id, or are the same event; a correction takes the place of its original. An id with
-- several contents, of different delivery days, counts with none of them.
create or replace temp table repeated_events as
select event_id
from object_events
where event_at >= getvariable('day_start') and event_at < getvariable('day_end')
group by event_id
having count(*) > 1;

-- storage_conflicts. Grain: event id with several contents.
create or replace temp table storage_conflicts as
select event_id, count(*) as copies
from object_events
where
    event_at >= getvariable('day_start')
    and event_at < getvariable('day_end')
    and event_id in (select event_id from repeated_events)
group by event_id
having count(distinct {
    'at': event_at, 'repository': repository, 'owner': owner, 'object': object_id, 'name': event_name, 'action': action,
    'bytes': bytes, 'upload': upload_id, 'part': part_number, 'version': version_id, 'corrects': original_event_id,
    'shared': shared_event_id
}::varchar) > 1;

create or replace temp table storage_actions as
with
identified as (
    select
        *,
        coalesce(shared_event_id, original_event_id, event_id) as action_id,
    from object_events
    where
        event_at >= getvariable('day_start')
        and event_at < getvariable('day_end')
        and event_id not in (select original_event_id from object_events where original_event_id is not null)
        and event_id not in (select event_id from storage_conflicts)
),
-- few, or none: the others need no look at their neighbours
repeated as (
    select hash(action_id) as action_hash
    from identified
    group by action_hash
    having count(*) > 1
)
select * exclude (shared_event_id, original_event_id)
from identified
where hash(action_id) not in (select action_hash from repeated)
union all by name
select * exclude (shared_event_id, original_event_id)
from identified
where hash(action_id) in (select action_hash from repeated)
qualify row_number() over (partition by action_id order by original_event_id is null, event_id) = 1
