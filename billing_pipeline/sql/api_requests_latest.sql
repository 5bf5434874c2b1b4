-- meter_states of a latest meter. Grain: as api_requests. From: meter_records, request_outcomes.
-- state: {"at": ISO 8601 in UTC, "event_id": text}. At one instant the greater event id is the later one, then the greater value.
insert into meter_states by name
with
latest as (
    select
        window_start,
        client_id,
        endpoint,
        method,
        count(*) as request_count,
        max({'at': event_at, 'event_id': event_id, 'value': number_value}) as newest,
    from meter_records
    group by window_start, client_id, endpoint, method
)
select
    outcomes.event_day,
    outcomes.account_id,
    getvariable('meter_id') as meter_id,
    outcomes.window_start as period_start,
    outcomes.window_end as period_end,
    outcomes.endpoint,
    outcomes.method,
    outcomes.client_id,
    latest.newest.value::decimal(38, 9) as quantity,
    getvariable('meter_unit') as unit,
    latest.request_count,
    json_object(
        'at', strftime(latest.newest.at, '%Y-%m-%dT%H:%M:%S.%fZ'), 'event_id', latest.newest.event_id
    )::varchar as state,
from latest
join request_outcomes as outcomes using (window_start, client_id, endpoint, method)
where outcomes.reason is null
