-- The generation. Grain: event that counts. From: read_events, events_judged.
select read_events.*
from read_events
join events_judged using (source, event_id, file_id, line_number)
where events_judged.outcome = 'kept'
order by repository, event_at, event_id
