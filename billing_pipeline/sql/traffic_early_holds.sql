-- Grain: event_day, stream with more resets in the first hour of the day than its node may have: the day before is held as well.
-- From: traffic_hourly_resets, traffic_streams.
select resets.event_day, streams.env, streams.node, streams.account_uuid, streams.inbound_tag
from traffic_hourly_resets as resets
join traffic_streams as streams using (stream_key)
where resets.hour_start = resets.event_day and resets.resets > streams.max_resets_per_hour
order by all
