-- delivered. Grain: event as delivered. From: read_events (core/visibility_events, before duplicates are found).
create or replace temp view delivered as
select
    source,
    event_id,
    null::varchar as shared_event_id,
    file_id,
    line_number,
    md5({'at': event_at, 'repository': repository, 'kind': kind, 'value': value}::varchar) as content,
from read_events
