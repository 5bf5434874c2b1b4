-- delivered. Grain: event as delivered. From: read_events (core/object_events, before duplicates are found).
create or replace temp view delivered as
select
    source,
    event_id,
    shared_event_id,
    file_id,
    line_number,
    md5({
        'at': event_at, 'repository': repository, 'owner': owner, 'object': object_id, 'name': event_name, 'action': action,
        'bytes': bytes, 'upload': upload_id, 'part': part_number, 'version': version_id, 'corrects': original_event_id,
        'shared': shared_event_id
    }::varchar) as content,
from read_events
