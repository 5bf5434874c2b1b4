-- day_events. Grain: event as delivered. From: object_events of the day.
create or replace temp table day_events as
select
    places.place_id,
    events.event_id,
    events.shared_event_id,
    events.event_at,
    events.owner,
    events.object_id,
    events.event_name,
    events.action,
    events.bytes,
    events.upload_id,
    events.part_number,
    events.version_id,
    events.original_event_id,
from object_events as events
join places using (repository, bucket)
where events.event_at >= getvariable('day_start') and events.event_at < getvariable('day_end');

-- day_words. Grain: repository, instant: what events say of it as a whole. Among events of an instant the last by id counts.
create or replace temp table day_words as
select
    places.place_id,
    places.repository_id,
    events.event_at,
    max_by(events.value, {'id': events.event_id, 'value': events.value}) filter (where events.kind = 'visibility') as visibility,
    max_by(events.value, {'id': events.event_id, 'value': events.value}) filter (where events.kind = 'owner') as owner,
from visibility_events as events
join places on events.repository = places.repository and places.bucket = ''
where events.event_at >= getvariable('day_start') and events.event_at < getvariable('day_end')
group by places.place_id, places.repository_id, events.event_at
