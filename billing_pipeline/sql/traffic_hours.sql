-- traffic_hours. Grain: event_day, stream, account_id (null: unknown), window (an hour, or a part where a period is cut).
-- From: traffic_owned_minutes, traffic_streams, client_windows. A minute belongs to the window that its start is in.
create or replace temp table traffic_hours as
with
stream_windows as (
    select streams.stream_key, windows.hour_start, windows.window_start, windows.window_end
    from client_windows as windows
    join traffic_streams as streams on streams.account_uuid = windows.client_id
),
windowed as (
    select
        minutes.*,
        coalesce(windows.window_start, date_trunc('hour', minutes.bucket_start)) as period_start,
        coalesce(windows.window_end, date_trunc('hour', minutes.bucket_start) + interval 1 hour) as period_end,
    from traffic_owned_minutes as minutes
    left join stream_windows as windows
        on minutes.stream_key = windows.stream_key
        and date_trunc('hour', minutes.bucket_start) = windows.hour_start
        and minutes.bucket_start >= windows.window_start
        and minutes.bucket_start < windows.window_end
)
select
    event_day,
    stream_key,
    account_id,
    held_for,
    period_start,
    period_end,
    sum(uplink_bytes) as uplink_bytes,
    sum(downlink_bytes) as downlink_bytes,
    count(*) filter (uplink_bytes > 0 or downlink_bytes > 0) as bucket_count,
from windowed
group by all
