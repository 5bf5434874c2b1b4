-- traffic_not_billable. Grain: event_day, reason, stream. From: traffic_sample_outcomes, traffic_hours, traffic_streams.
create or replace temp table traffic_not_billable as
with
bytes as (
    select
        event_day,
        stream_key,
        coalesce(held_for, 'unknown_identity') as reason,
        sum(uplink_bytes)::decimal(38, 0) as uplink_bytes,
        sum(downlink_bytes)::decimal(38, 0) as downlink_bytes,
    from traffic_hours
    where held_for is not null or account_id is null
    group by all
)
select
    outcomes.event_day,
    outcomes.reason,
    streams.env,
    streams.node,
    streams.account_uuid,
    streams.inbound_tag,
    outcomes.sample_count,
    coalesce(bytes.uplink_bytes, 0) as uplink_bytes,
    coalesce(bytes.downlink_bytes, 0) as downlink_bytes,
from traffic_sample_outcomes as outcomes
join traffic_streams as streams using (stream_key)
left join bytes using (event_day, stream_key, reason)
where outcomes.reason is not null
