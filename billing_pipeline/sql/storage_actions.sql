-- storage_actions. Grain: action of one event day, each once (R2). From: object_events, visibility_events of the day.
-- Deliveries of one action share a shared_event_id, or are the same event; a correction takes the place of its original.
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
