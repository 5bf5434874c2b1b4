-- meter_states of a sum that keeps its single amounts. Grain: as api_requests. From: meter_records, request_outcomes.
-- state: ordered {"transactions": [[microseconds since 1970, value, occurrences], ...]}, by instant, then value;
-- counted {"counts": [[value, occurrences], ...]}, ascending. quantity: the sum.
insert into meter_states by name
with
values_seen as (
    select
        window_start,
        client_id,
        endpoint,
        method,
        case when getvariable('is_ordered') then epoch_us(event_at) end as at_us,
        number_value,
        count(*) as occurrences,
    from meter_records
    group by all
),
states as (
    select
        window_start,
        client_id,
        endpoint,
        method,
        sum(occurrences)::bigint as request_count,
        sum(number_value::hugeint * occurrences) as quantity,
        to_json({'counts': list([number_value, occurrences] order by number_value)})::varchar as counts,
        to_json(
            {'transactions': list([at_us, number_value, occurrences] order by at_us, number_value)}
        )::varchar as transactions,
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
    case when getvariable('is_ordered') then states.transactions else states.counts end as state,
from states
join request_outcomes as outcomes using (window_start, client_id, endpoint, method)
where outcomes.reason is null
