-- Grain: sample at an instant of lineage_instants (env, node, account_uuid, inbound_tag, collected_at).
-- From: core/traffic_samples, the files in $files.
select
    (env, node, account_uuid, inbound_tag) as stream,
    {
        'collected_at': collected_at,
        'uplink_bytes': uplink_bytes,
        'downlink_bytes': downlink_bytes,
        'uptime_seconds': uptime_seconds,
        'source': source,
        'file_id': file_id,
        'line_number': line_number,
    } as sample,
from read_parquet($files, hive_partitioning = false)
semi join lineage_instants using (env, node, account_uuid, inbound_tag, collected_at)
