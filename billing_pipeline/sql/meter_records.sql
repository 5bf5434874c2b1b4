-- meter_records (view). Grain: the records that one meter measures, in one of $chunk_count shares of the clients.
-- From: counted_records, success_statuses, client_windows. Whether a record's endpoint and client are billable is asked of
-- request_outcomes, by the same keys, after grouping. Variables: meter_field, meter_endpoints, meter_methods (null: all).
create or replace temp view meter_records as
with
records as (
    select
        make_timestamp(epoch_us(event_at) // 3_600_000_000 * 3_600_000_000) as hour_start,
        event_at,
        case when getvariable('reads_event_id') then event_id end as event_id,
        client_id,
        endpoint,
        method,
        case getvariable('meter_field')
            when 'response_time_us' then response_time_us
            when 'response_bytes' then response_bytes
            when 'status_code' then status_code::bigint
        end as number_value,
    from counted_records
    where
        not is_simulated
        and status_code in (select status_code from success_statuses)
        and (getvariable('meter_endpoints') is null or list_contains(getvariable('meter_endpoints'), endpoint))
        and (getvariable('meter_methods') is null or list_contains(getvariable('meter_methods'), method))
        and hash(client_id) % getvariable('chunk_count') = getvariable('chunk')
)
select
    coalesce(client_windows.window_start, records.hour_start) as window_start,
    records.event_at,
    records.event_id,
    records.client_id,
    records.endpoint,
    records.method,
    records.number_value,
from records
left join client_windows
    on
        records.client_id = client_windows.client_id
        and records.hour_start = client_windows.hour_start
        and records.event_at >= client_windows.window_start
        and records.event_at < client_windows.window_end
where records.number_value is not null or getvariable('meter_field') is null
