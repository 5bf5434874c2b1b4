-- Temporary table versions. Grain: env, node, account_uuid, inbound_tag, collected_at, uplink_bytes, downlink_bytes.
-- What is known (current generation, earlier conflicts) and what came in of every stream and instant that came in. Of equal
-- versions one is left, the same in any order of arrival. From: incoming, current_samples, known_conflicts.
create or replace temporary table versions as
with
incoming_keys as (
    select distinct env, node, account_uuid, inbound_tag, collected_at
    from incoming
),
incoming_instants as (
    select distinct collected_at
    from incoming_keys
),
known_samples as (
    select current_samples.*, false as is_incoming, false as is_conflict
    from current_samples
    where current_samples.collected_at in (select incoming_instants.collected_at from incoming_instants)
    union all by name
    select known_conflicts.*, false as is_incoming, true as is_conflict
    from known_conflicts
),
all_samples as (
    select known_samples.*
    from known_samples
    semi join incoming_keys using (env, node, account_uuid, inbound_tag, collected_at)
    union all by name
    select incoming.*, true as is_incoming, false as is_conflict
    from incoming
),
distinct_versions as (
    select
        env,
        node,
        account_uuid,
        inbound_tag,
        collected_at,
        uplink_bytes,
        downlink_bytes,
        max(uptime_seconds) as uptime_seconds,
        max(xray_version) as xray_version,
        min({
            'source': source,
            'file_id': coalesce(file_id, 0),
            'line_number': coalesce(line_number, 0)
        }) as origin,
        count(*) filter (is_incoming) as incoming_rows,
        bool_or(not is_incoming) as is_known,
        bool_or(is_conflict) as is_known_conflict
    from all_samples
    group by all
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
    origin.source as source,
    nullif(origin.file_id, 0) as file_id,
    nullif(origin.line_number, 0) as line_number,
    incoming_rows,
    is_known,
    is_known_conflict,
    count(*) over (partition by env, node, account_uuid, inbound_tag, collected_at) > 1 as is_conflict
from distinct_versions
