-- traffic_turns. Grain: event_day, stream, collected_at; the few samples that are more than the difference to the one before.
-- From: traffic_samples, read in the order of its files: the connection keeps it, so the sample before is the row before.
--
-- Proof of the order, judged by the caller: no row is_disordered, and there are as many heads (first row of a day and stream)
-- as days and streams. Then each stream is one run of rows, ascending in time.
create or replace temp table traffic_turns as
with
neighbours as (
    select
        event_day,
        stream_key,
        collected_at,
        uplink_bytes,
        downlink_bytes,
        uptime_seconds,
        lag(stream_key) over () as row_before_key,
        lag(collected_at) over () as earlier_at,
        lag(uplink_bytes) over () as earlier_uplink_bytes,
        lag(downlink_bytes) over () as earlier_downlink_bytes,
    from traffic_samples
),
steps as (
    select
        *,
        row_before_key is distinct from stream_key or earlier_at::date is distinct from event_day as is_head,
        epoch_us(collected_at) - epoch_us(earlier_at) as elapsed_us,
    from neighbours
)
select
    event_day,
    stream_key,
    collected_at,
    uplink_bytes,
    downlink_bytes,
    uptime_seconds,
    is_head,
    not is_head and elapsed_us <= 0 as is_disordered,
    case when not is_head then earlier_at end as earlier_at,
    case when not is_head then earlier_uplink_bytes end as earlier_uplink_bytes,
    case when not is_head then earlier_downlink_bytes end as earlier_downlink_bytes,
from steps
where
    is_head
    or elapsed_us <= 0
    or uplink_bytes < earlier_uplink_bytes
    or downlink_bytes < earlier_downlink_bytes
    or uptime_seconds <= (elapsed_us - 1) // 1000000
