-- Grain: event_day, source, hour of the day (UTC). From: request_records, duplicates and conflicts included.
-- Counted apart from request_outcomes: the guards compare the two.
select
    event_day,
    source,
    hour(event_at)::integer as hour,
    count(*) as records,
from request_records
group by event_day, source, hour
