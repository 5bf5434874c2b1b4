-- traffic_streams. Grain: stream, with how its node is read. From: traffic_stream_days, traffic_tails, node_policies (a node that
-- is not configured has $default_on_first, $default_on_reset and $default_max_resets_per_hour).
create or replace temp table traffic_streams as
with
streams as (
    select stream_key, env, node, account_uuid, inbound_tag from traffic_stream_days
    union
    select stream_key, env, node, account_uuid, inbound_tag from traffic_tails
)
select
    streams.*,
    coalesce(policies.on_first, getvariable('default_on_first')) as on_first,
    coalesce(policies.on_reset, getvariable('default_on_reset')) as on_reset,
    coalesce(policies.max_resets_per_hour, getvariable('default_max_resets_per_hour')) as max_resets_per_hour,
    coalesce(policies.region, '') as region,
    coalesce(policies.line, '') as line,
from streams
left join node_policies as policies using (env, node)
