-- Grain: event_day. From: traffic_stream_days (first and last totals, found without order), traffic_steps. The day's bytes once
-- more, without looking at any minute: last less first of each stream, what is booked for its first sample, and for each
-- restart and reset what is booked instead of the difference. Totals 100, 150, 40, 90 after 0: 90 - 100 + 100 + (0 - (40 - 150)) = 200.
with
grown as (
    select
        event_day,
        sum(
            (last_uplink_bytes - first_uplink_bytes)::hugeint + (last_downlink_bytes - first_downlink_bytes)::hugeint
        ) as bytes,
    from traffic_stream_days
    group by event_day
),
turned as (
    select
        event_day,
        sum(
            (uplink_delta::hugeint + downlink_delta)
            - case
                when is_head then 0
                else (uplink_bytes - earlier_uplink_bytes)::hugeint + (downlink_bytes - earlier_downlink_bytes)
            end
        ) as bytes,
    from traffic_steps
    group by event_day
)
select event_day, (grown.bytes + turned.bytes)::decimal(38, 0) as bytes
from grown
join turned using (event_day)
