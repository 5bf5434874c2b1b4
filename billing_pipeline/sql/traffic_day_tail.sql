-- Grain: stream. From: traffic_last_samples. The last sample of every stream ever seen, at the end of $tail_day.
select env, node, account_uuid, inbound_tag, collected_at, uplink_bytes, downlink_bytes, is_held, row_digest
from traffic_last_samples
where event_day <= getvariable('tail_day')
qualify row_number() over (partition by stream_key order by event_day desc) = 1
order by env, node, account_uuid, inbound_tag
