-- traffic_judged_turns. Grain: event_day, stream, collected_at. From: traffic_turns, traffic_stream_days, traffic_streams,
-- traffic_tails. What each turn is, and for the first sample of a day the last one of the stream before that day.
--
-- is_restart: the uptime is shorter than the time since the sample before. It is rounded down, so totals that grew are only
-- doubted when it is shorter by a second. is_reset: a total went down and nothing tells why.
create or replace temp table traffic_judged_turns as
with
last_samples as (
    select event_day, stream_key, last_at, last_uplink_bytes, last_downlink_bytes, false as was_held
    from traffic_stream_days
    union all
    select collected_at::date, stream_key, collected_at, uplink_bytes, downlink_bytes, is_held
    from traffic_tails
),
before_days as (
    select
        event_day,
        stream_key,
        lag(event_day) over stream as earlier_day,
        lag(last_at) over stream as earlier_at,
        lag(last_uplink_bytes) over stream as earlier_uplink_bytes,
        lag(last_downlink_bytes) over stream as earlier_downlink_bytes,
        lag(was_held) over stream as earlier_was_held,
    from last_samples
    window stream as (partition by stream_key order by event_day)
),
turns as (
    select
        turns.event_day,
        turns.stream_key,
        turns.collected_at,
        turns.uplink_bytes,
        turns.downlink_bytes,
        turns.uptime_seconds,
        turns.is_head,
        before_days.earlier_day,
        before_days.earlier_was_held,
        coalesce(turns.earlier_at, before_days.earlier_at) as earlier_at,
        coalesce(turns.earlier_uplink_bytes, before_days.earlier_uplink_bytes) as earlier_uplink_bytes,
        coalesce(turns.earlier_downlink_bytes, before_days.earlier_downlink_bytes) as earlier_downlink_bytes,
    from traffic_turns as turns
    left join before_days
        on turns.is_head and turns.event_day = before_days.event_day and turns.stream_key = before_days.stream_key
),
compared as (
    select
        *,
        coalesce(uplink_bytes < earlier_uplink_bytes or downlink_bytes < earlier_downlink_bytes, false) as went_down,
        epoch_us(collected_at) - epoch_us(earlier_at) as elapsed_us,
    from turns
),
witnessed as (
    select
        *,
        coalesce(
            uptime_seconds < case when went_down then (elapsed_us + 999999) // 1000000 else elapsed_us // 1000000 end, false
        ) as is_restart,
    from compared
)
select * exclude (elapsed_us), went_down and not is_restart as is_reset
from witnessed
