-- traffic_repeats. Grain: stream, collected_at with more than one sample. From: traffic_samples.
-- Ingest leaves none of them; where it did, equal totals count once and different ones not at all.
create or replace temp table traffic_repeats as
select
    event_day,
    env,
    node,
    account_uuid,
    inbound_tag,
    collected_at,
    count(*) as sample_count,
    count(distinct (uplink_bytes, downlink_bytes)) > 1 as is_conflict,
from traffic_samples
group by event_day, env, node, account_uuid, inbound_tag, collected_at
having count(*) > 1
