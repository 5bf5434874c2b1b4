-- meter_states of a percentile meter. Grain: as api_requests. From: meter_records, request_outcomes.
-- state: {"counts": [[value, occurrences], ...]}, ascending. quantity: nearest rank of the row, ceil(n x percentile / 100), the
-- percentile as an exact fraction. Sorting each window's values is twice as fast as counting every value of every window first.
insert into meter_states by name
with
sorted_values as (
    select window_start, client_id, endpoint, method, list_sort(list(number_value)) as sorted
    from meter_records
    group by window_start, client_id, endpoint, method
),
ranked as (
    select
        window_start,
        client_id,
        endpoint,
        method,
        len(sorted) as request_count,
        sorted[
            greatest(
                1,
                (len(sorted)::hugeint * getvariable('percentile_numerator') + getvariable('percentile_denominator') - 1)
                // getvariable('percentile_denominator')
            )::bigint
        ] as quantity,
        to_json(
            {
                'counts': list_transform(
                    map_entries(list_aggregate(sorted, 'histogram')), lambda entry: [entry.key, entry.value]
                )
            }
        )::varchar as state,
    from sorted_values
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
