-- api_requests. Grain: event_day, account_id, meter_id, period_start, endpoint, method, client_id.
-- From: request_outcomes (billable), meters that are folded: count, sum, max, min, mean, and unique over a dimension, of which a row
-- has just one value; meter_states for those that need the records again.
-- A mean is rounded to nine places, halves away from zero, in whole numbers; its state is exact.
-- Sums are exact: integers add as HUGEINT and become DECIMAL(38, 9).
create or replace temp table api_requests as
with
billable_endpoints_seen as (
    select distinct endpoint, method
    from request_outcomes
    where reason is null
),
metered_endpoints as (
    select meters.meter_id, meters.aggregation, meters.field, meters.unit, seen.endpoint, seen.method
    from meters
    cross join billable_endpoints_seen as seen
    where
        meters.is_folded
        and (meters.endpoints is null or list_contains(meters.endpoints, seen.endpoint))
        and (meters.methods is null or list_contains(meters.methods, seen.method))
),
metered as (
    select
        outcomes.event_day,
        outcomes.account_id,
        metered_endpoints.meter_id,
        outcomes.window_start as period_start,
        outcomes.window_end as period_end,
        outcomes.endpoint,
        outcomes.method,
        outcomes.client_id,
        metered_endpoints.aggregation,
        metered_endpoints.unit,
        case metered_endpoints.field
            when 'response_time_us' then outcomes.response_time_us_count
            when 'response_bytes' then outcomes.response_bytes_count
            when 'status_code' then outcomes.status_code_count
            else outcomes.request_count
        end as request_count,
        case metered_endpoints.field
            when 'response_time_us' then outcomes.response_time_us_sum
            when 'response_bytes' then outcomes.response_bytes_sum
            when 'status_code' then outcomes.status_code_sum
        end as field_sum,
        case metered_endpoints.field
            when 'response_time_us' then outcomes.response_time_us_max
            when 'response_bytes' then outcomes.response_bytes_max
            when 'status_code' then outcomes.status_code_max
        end as field_max,
        case metered_endpoints.field
            when 'response_time_us' then outcomes.response_time_us_min
            when 'response_bytes' then outcomes.response_bytes_min
            when 'status_code' then outcomes.status_code_min
        end as field_min,
        case metered_endpoints.field
            when 'endpoint' then outcomes.endpoint
            when 'method' then outcomes.method
            when 'client_id' then outcomes.client_id
        end as dimension,
    from request_outcomes as outcomes
    join metered_endpoints using (endpoint, method)
    where outcomes.reason is null
),
folded as (
    select
        event_day,
        account_id,
        meter_id,
        period_start,
        period_end,
        endpoint,
        method,
        client_id,
        case aggregation
            when 'count' then request_count
            when 'sum' then field_sum
            when 'max' then field_max
            when 'min' then field_min
            when 'unique' then 1
            when 'mean' then field_sum // request_count
        end::decimal(38, 9)
        + case
            when aggregation = 'mean'
                then
                    ((2_000_000_000 * (field_sum % request_count) + request_count) // (2 * request_count))::decimal(18, 0)
                    * 0.000000001::decimal(10, 9)
            else 0
        end as quantity,
        unit,
        request_count,
        case aggregation
            when 'unique' then '{"values": [' || to_json(dimension)::varchar || ']}'
            when 'mean' then '{"sum": ' || field_sum || ', "count": ' || request_count || '}'
        end as state,
    from metered
    where request_count > 0
)
select *
from folded
union all by name
select *
from meter_states
