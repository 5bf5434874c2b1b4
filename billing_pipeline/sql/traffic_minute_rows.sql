-- Rows of usage.traffic_minute. From: traffic_owned_minutes, traffic_streams. Of $wanted_days: what a known account pays for.
select
    minutes.event_day,
    minutes.account_id,
    minutes.bucket_start,
    streams.env,
    streams.node,
    streams.inbound_tag,
    streams.region,
    streams.line,
    streams.account_uuid,
    minutes.uplink_bytes::bigint as uplink_bytes,
    minutes.downlink_bytes::bigint as downlink_bytes,
    streams.on_first,
    streams.on_reset,
    getvariable('bases')[minutes.basis + 1] as basis,
    minutes.epoch,
    minutes.suspected_loss_bytes,
from traffic_owned_minutes as minutes
join traffic_streams as streams using (stream_key)
where
    minutes.account_id is not null
    and minutes.held_for is null
    and list_contains(getvariable('wanted_days'), minutes.event_day)
