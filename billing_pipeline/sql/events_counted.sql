-- Lines of each file by outcome, and the event days of its kept rows. Grain: file, outcome, event day (null: not kept). From:
-- read_events, events_judged. A line that says two things is kept when one of them is.
with
lines as (
    select
        file_id,
        line_number,
        case
            when bool_or(events_judged.outcome = 'conflict') then 'conflict'
            when bool_or(events_judged.outcome = 'kept') then 'kept'
            else 'duplicate'
        end as outcome,
        min(read_events.event_at) as event_at,
        count(*) filter (where events_judged.outcome = 'kept') as rows,
    from read_events
    join events_judged using (source, event_id, file_id, line_number)
    group by file_id, line_number
)
select
    file_id,
    outcome,
    case when outcome = 'kept' then event_at::date end as event_day,
    count(*) as lines,
    sum(rows)::bigint as rows,
    min(event_at) as first_event_at,
    max(event_at) as last_event_at,
from lines
group by file_id, outcome, event_day
order by file_id, outcome, event_day
