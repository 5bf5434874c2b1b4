-- meter_states of a meter over fixed buckets. Grain: as api_requests. From: meter_records, request_outcomes.
-- A bucket's value is the meter's aggregation of it; of a percentile the sum of the field, or the number of records without one.
-- state: {"buckets": [[start, value], ...]}, start in epoch seconds. quantity: the meter's of the row; of a percentile nearest rank
-- over the row's buckets that hold records; empty ones count when periods are merged.
insert into meter_states by name
with
bucket_values as (
    select
        window_start,
        client_id,
        endpoint,
        method,
        epoch_us(event_at) // 1_000_000 // getvariable('bucket_seconds') * getvariable('bucket_seconds') as bucket_start,
        case
            when getvariable('meter_field') is null or getvariable('meter_aggregation') = 'count' then count(*)
            when getvariable('meter_aggregation') = 'max' then max(number_value)
            when getvariable('meter_aggregation') = 'min' then min(number_value)
            else sum(number_value)
        end::hugeint as value,
        count(*) as request_count,
    from meter_records
    group by window_start, client_id, endpoint, method, bucket_start
),
states as (
    select
        window_start,
        client_id,
        endpoint,
        method,
        sum(request_count)::bigint as request_count,
        case getvariable('meter_aggregation')
            when 'percentile'
                then
                    list(value order by value)[
                        greatest(
                            1,
                            (
                                count(*)::hugeint * getvariable('percentile_numerator')
                                + getvariable('percentile_denominator') - 1
                            ) // getvariable('percentile_denominator')
                        )::bigint
                    ]
            when 'max' then max(value)
            when 'min' then min(value)
            else sum(value)
        end as quantity,
        to_json({'buckets': list([bucket_start, value] order by bucket_start)})::varchar as state,
    from bucket_values
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
