-- Grain: stream, collected_at, each once; sorted by day, stream and time. From: traffic_samples, traffic_repeats.
-- The slow path: for files that are not sorted, or not without repeats.
select
    samples.env,
    samples.node,
    samples.account_uuid,
    samples.inbound_tag,
    samples.collected_at,
    min(samples.uplink_bytes) as uplink_bytes,
    min(samples.downlink_bytes) as downlink_bytes,
    min(samples.uptime_seconds) as uptime_seconds,
from traffic_samples as samples
left join traffic_repeats as repeats using (env, node, account_uuid, inbound_tag, collected_at)
where repeats.is_conflict is not true
group by samples.event_day, samples.env, samples.node, samples.account_uuid, samples.inbound_tag, samples.collected_at
order by samples.event_day, samples.env, samples.node, samples.account_uuid, samples.inbound_tag, samples.collected_at
