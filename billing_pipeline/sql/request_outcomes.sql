-- request_outcomes. Grain: event_day, window_start, client_id, endpoint, method, is_successful, is_simulated.
-- From: counted_records, success_statuses, client_windows (client_id, hour_start, window_start, window_end: the parts of an hour
-- that a billing period or a client's account cuts), client_accounts, billable_endpoints.
--
-- reason is null: billable. Else the first of: not_successful, simulated, endpoint_not_billable, unknown_client.
-- Of a field that no meter asks for nothing is made, nor are windows looked for where there are none: their variables are false, and
-- DuckDB drops what nobody asks for then.
create or replace temp table request_outcomes as
with
classified as (
    select
        -- whole hours by integers: twice as fast as date_trunc
        make_timestamp(epoch_us(event_at) // 3_600_000_000 * 3_600_000_000) as hour_start,
        event_at,
        client_id,
        endpoint,
        method,
        status_code in (select status_code from success_statuses) as is_successful,
        is_simulated,
        response_time_us,
        response_bytes,
        status_code,
    from counted_records
),
counted as (
    select
        coalesce(client_windows.window_start, classified.hour_start) as window_start,
        any_value(client_windows.window_end) as cut_end,
        classified.client_id,
        classified.endpoint,
        classified.method,
        classified.is_successful,
        classified.is_simulated,
        count(*) as request_count,
        count(classified.response_time_us) as response_time_us_count,
        sum(classified.response_time_us) as response_time_us_sum,
        max(classified.response_time_us) as response_time_us_max,
        min(classified.response_time_us) as response_time_us_min,
        count(classified.response_bytes) as response_bytes_count,
        sum(classified.response_bytes) as response_bytes_sum,
        max(classified.response_bytes) as response_bytes_max,
        min(classified.response_bytes) as response_bytes_min,
        count(classified.status_code) as status_code_count,
        sum(classified.status_code) as status_code_sum,
        max(classified.status_code) as status_code_max,
        min(classified.status_code) as status_code_min,
    from classified
    left join client_windows
        on
            getvariable('has_client_windows')
            and classified.client_id = client_windows.client_id
            and classified.hour_start = client_windows.hour_start
            and classified.event_at >= client_windows.window_start
            and classified.event_at < client_windows.window_end
    group by
        coalesce(client_windows.window_start, classified.hour_start),
        classified.client_id,
        classified.endpoint,
        classified.method,
        classified.is_successful,
        classified.is_simulated
)
select
    counted.* exclude (cut_end) replace (
        case when getvariable('reads_response_time_us_count') then response_time_us_count end as response_time_us_count,
        case when getvariable('reads_response_time_us_sum') then response_time_us_sum end as response_time_us_sum,
        case when getvariable('reads_response_time_us_max') then response_time_us_max end as response_time_us_max,
        case when getvariable('reads_response_time_us_min') then response_time_us_min end as response_time_us_min,
        case when getvariable('reads_response_bytes_count') then response_bytes_count end as response_bytes_count,
        case when getvariable('reads_response_bytes_sum') then response_bytes_sum end as response_bytes_sum,
        case when getvariable('reads_response_bytes_max') then response_bytes_max end as response_bytes_max,
        case when getvariable('reads_response_bytes_min') then response_bytes_min end as response_bytes_min,
        case when getvariable('reads_status_code_count') then status_code_count end as status_code_count,
        case when getvariable('reads_status_code_sum') then status_code_sum end as status_code_sum,
        case when getvariable('reads_status_code_max') then status_code_max end as status_code_max,
        case when getvariable('reads_status_code_min') then status_code_min end as status_code_min
    ),
    counted.window_start::date as event_day,
    coalesce(counted.cut_end, counted.window_start + interval 1 hour) as window_end,
    client_accounts.account_id,
    case
        when not counted.is_successful then 'not_successful'
        when counted.is_simulated then 'simulated'
        when
            not exists (
                select 1
                from billable_endpoints
                where billable_endpoints.endpoint = counted.endpoint and billable_endpoints.method in ('*', counted.method)
            )
            then 'endpoint_not_billable'
        when client_accounts.account_id is null then 'unknown_client'
    end as reason,
from counted
left join client_accounts
    on
        counted.client_id = client_accounts.client_id
        and counted.window_start >= client_accounts.valid_from
        and counted.window_start < client_accounts.valid_to
