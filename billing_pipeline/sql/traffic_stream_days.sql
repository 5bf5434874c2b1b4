-- traffic_stream_days. Grain: event_day, stream. From: traffic_samples. Needs no order of rows.
-- is_first_of_node: the stream was in the first snapshot ever of its node, be it in a version that contradicts another.
create or replace temp table traffic_stream_days as
with
stream_days as (
    select
        event_day,
        env,
        node,
        account_uuid,
        inbound_tag,
        count(*) as sample_count,
        min(collected_at) as first_at,
        arg_min(uplink_bytes, collected_at) as first_uplink_bytes,
        arg_min(downlink_bytes, collected_at) as first_downlink_bytes,
        max(collected_at) as last_at,
        arg_max(uplink_bytes, collected_at) as last_uplink_bytes,
        arg_max(downlink_bytes, collected_at) as last_downlink_bytes,
    from traffic_samples
    group by event_day, env, node, account_uuid, inbound_tag
)
select
    stream_days.*,
    hash(env, node, account_uuid, inbound_tag, getvariable('key_salt')) as stream_key,
    first_conflicts.env is not null or coalesce(stream_days.first_at <= first_snapshots.first_at, false) as is_first_of_node,
from stream_days
left join first_snapshots using (env, node)
left join first_conflicts using (env, node, account_uuid, inbound_tag)
