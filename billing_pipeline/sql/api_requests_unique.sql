-- meter_states of a unique meter over a number. Grain: as api_requests. From: meter_records, request_outcomes.
-- state: {"values": [...]}, sorted. In two steps, so that few values are sorted per window.
insert into meter_states by name
with
values_seen as (
    select
        window_start,
        client_id,
        endpoint,
        method,
        number_value,
        count(*) as request_count,
    from meter_records
    group by window_start, client_id, endpoint, method, number_value
),
states as (
    select
        window_start,
        client_id,
        endpoint,
        method,
        sum(request_count)::bigint as request_count,
        count(*) as quantity,
        '{"values": [' || string_agg(number_value, ', ' order by number_value) || ']}' as state,
    from values_seen
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
    states.quantity::decimal(38, 9) as quantity,
    getvariable('meter_unit') as unit,
    states.request_count,
    states.state,
from states
join request_outcomes as outcomes using (window_start, client_id, endpoint, method)
where outcomes.reason is null
