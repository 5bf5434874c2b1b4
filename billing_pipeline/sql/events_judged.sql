-- events_judged. Grain: event as delivered. From: delivered, known_conflicts (event_sha256: ids that earlier reading of the day put
-- into quarantine). An id with one content counts once, the first delivered; with several, none does. Events that share a
-- shared_event_id are one action, told to several accounts.
create or replace temp table events_judged as
with
by_event as (
    select
        *,
        row_number() over (partition by source, event_id order by file_id, line_number) as copy_number,
        min(content) over (partition by source, event_id) <> max(content) over (partition by source, event_id)
            or sha256(event_id) in (select event_sha256 from known_conflicts) as is_conflict,
    from delivered
),
by_action as (
    select
        source,
        event_id,
        file_id,
        line_number,
        row_number() over (partition by source, shared_event_id order by file_id, line_number) as copy_number,
        min(content) over (partition by source, shared_event_id)
            <> max(content) over (partition by source, shared_event_id) as is_conflict,
    from by_event
    where shared_event_id is not null and copy_number = 1 and not is_conflict
),
by_either as (
    select
        by_event.source,
        by_event.event_id,
        by_event.file_id,
        by_event.line_number,
        case
            when by_event.is_conflict or coalesce(by_action.is_conflict, false) then 'conflict'
            when by_event.copy_number > 1 or coalesce(by_action.copy_number, 1) > 1 then 'duplicate'
            else 'kept'
        end as outcome,
    from by_event
    left join by_action using (source, event_id, file_id, line_number)
)
select
    source,
    event_id,
    file_id,
    line_number,
    -- a line may say two things; what is said with a conflict is not believed either
    case
        when bool_or(outcome = 'conflict') over (partition by file_id, line_number) then 'conflict'
        else outcome
    end as outcome,
from by_either
