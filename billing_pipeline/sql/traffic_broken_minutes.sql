-- traffic_broken_minutes. Grain: event_day, stream, bucket_start; of days and streams with a restart or a reset, which are few.
-- From: traffic_samples, traffic_steps. The rule in full, by a window over their samples.
create or replace temp table traffic_broken_minutes as
with
broken as (
    select distinct event_day, stream_key
    from traffic_steps
    where begins_epoch
),
samples as (
    select
        samples.event_day,
        samples.stream_key,
        samples.collected_at,
        samples.uplink_bytes - lag(samples.uplink_bytes) over stream_day as uplink_difference,
        samples.downlink_bytes - lag(samples.downlink_bytes) over stream_day as downlink_difference,
    from traffic_samples as samples
    semi join broken using (event_day, stream_key)
    window stream_day as (partition by samples.event_day, samples.stream_key order by samples.collected_at)
),
deltas as (
    select
        samples.event_day,
        samples.stream_key,
        date_trunc('minute', samples.collected_at) as bucket_start,
        coalesce(steps.uplink_delta, samples.uplink_difference) as uplink_bytes,
        coalesce(steps.downlink_delta, samples.downlink_difference) as downlink_bytes,
        coalesce(steps.basis, 0) as basis,
        count(*) filter (steps.begins_epoch) over so_far as epoch,
        coalesce(steps.suspected_loss_bytes, 0) as suspected_loss_bytes,
    from samples
    left join traffic_steps as steps using (event_day, stream_key, collected_at)
    window so_far as (partition by samples.event_day, samples.stream_key order by samples.collected_at)
)
select
    event_day,
    stream_key,
    bucket_start,
    sum(uplink_bytes)::bigint as uplink_bytes,
    sum(downlink_bytes)::bigint as downlink_bytes,
    max(basis) as basis,
    max(epoch) as epoch,
    sum(suspected_loss_bytes) as suspected_loss_bytes,
from deltas
group by event_day, stream_key, bucket_start
