-- meter_states of a percentile meter. Grain: as api_requests. From: meter_records, request_outcomes.
-- state: {"counts": [[value, occurrences], ...]}, ascending. quantity: nearest rank of the row, ceil(n x percentile / 100), the
-- percentile as an exact fraction $percentile_numerator / $percentile_denominator.
insert into meter_states by name
with
value_counts as (
    select window_start, client_id, endpoint, method, number_value as value, count(*) as occurrences
    from meter_records
    group by window_start, client_id, endpoint, method, number_value
),
states as (
    select
        window_start,
        client_id,
        endpoint,
        method,
        sum(occurrences)::bigint as request_count,
        greatest(
            1,
            (sum(occurrences) * getvariable('percentile_numerator') + getvariable('percentile_denominator') - 1)
            // getvariable('percentile_denominator')
        )::bigint as rank,
        list({'value': value, 'occurrences': occurrences} order by value) as counts,
    from value_counts
    group by window_start, client_id, endpoint, method
),
ranked as (
    select
        *,
        flatten(list_transform(counts, lambda count: list_resize([count.value], count.occurrences, count.value)))[rank]
            as quantity,
        to_json({'counts': list_transform(counts, lambda count: [count.value, count.occurrences])})::varchar as state,
    from states
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
    ranked.quantity::decimal(38, 9) as quantity,
    getvariable('meter_unit') as unit,
    ranked.request_count,
    ranked.state,
from ranked
join request_outcomes as outcomes using (window_start, client_id, endpoint, method)
where outcomes.reason is null
