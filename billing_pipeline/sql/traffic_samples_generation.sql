-- core/traffic_samples of a day. Grain: env, node, account_uuid, inbound_tag, collected_at; sorted by them.
-- The current generation without the streams and instants that came in, and of these the one version there is.
-- From: current_samples, versions.
with
incoming_instants as (
    select distinct collected_at
    from versions
),
untouched_samples as (
    select current_samples.*
    from current_samples
    where current_samples.collected_at not in (select incoming_instants.collected_at from incoming_instants)
    union all by name
    select current_samples.*
    from current_samples
    anti join versions using (env, node, account_uuid, inbound_tag, collected_at)
    where current_samples.collected_at in (select incoming_instants.collected_at from incoming_instants)
),
kept_samples as (
    select untouched_samples.*
    from untouched_samples
    union all by name
    select versions.* exclude (incoming_rows, is_known, is_known_conflict, is_conflict)
    from versions
    where not versions.is_conflict
)
select
    env,
    node,
    account_uuid,
    inbound_tag,
    collected_at,
    uplink_bytes,
    downlink_bytes,
    uptime_seconds,
    xray_version,
    source,
    file_id,
    line_number
from kept_samples
order by env, node, account_uuid, inbound_tag, collected_at
