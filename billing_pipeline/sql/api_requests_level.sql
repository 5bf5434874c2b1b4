-- meter_states of a level. Grain: as api_requests. From: meter_records, request_outcomes.
-- state: {"changes": [[microseconds since 1970, value], ...]}, by instant: what the records of an instant add to the level, together;
-- of a level that is set, what it becomes (of several values the greatest). quantity: what the row adds, or what it leaves.
insert into meter_states by name
with
changes as (
    select
        window_start,
        client_id,
        endpoint,
        method,
        epoch_us(event_at) as at_us,
        case
            when getvariable('is_level_set') then max(number_value)::hugeint
            when list_contains(getvariable('lowered_by'), method) then -sum(coalesce(number_value, 1))
            else sum(coalesce(number_value, 1))
        end as value,
        count(*) as request_count,
    from meter_records
    group by window_start, client_id, endpoint, method, at_us
),
states as (
    select
        window_start,
        client_id,
        endpoint,
        method,
        sum(request_count)::bigint as request_count,
        case when getvariable('is_level_set') then arg_max(value, at_us) else sum(value) end as quantity,
        to_json({'changes': list([at_us, value] order by at_us)})::varchar as state,
    from changes
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
