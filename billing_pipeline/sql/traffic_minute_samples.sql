-- Grain: sample of the minutes in lineage_minutes (env, node, account_uuid, inbound_tag, bucket_start), in order of time.
-- From: core/traffic_samples, the files in $files, which are one day's. earlier: the stream's sample before it, null where the
-- files have none.
with
streams as (
    select distinct env, node, account_uuid, inbound_tag
    from lineage_minutes
),
samples as (
    select
        env,
        node,
        account_uuid,
        inbound_tag,
        collected_at,
        uplink_bytes,
        downlink_bytes,
        uptime_seconds,
        source,
        file_id,
        line_number,
    from read_parquet($files, hive_partitioning = false)
    semi join streams using (env, node, account_uuid, inbound_tag)
),
stepped as (
    select
        *,
        date_trunc('minute', collected_at) as bucket_start,
        lag({
            'collected_at': collected_at,
            'uplink_bytes': uplink_bytes,
            'downlink_bytes': downlink_bytes,
            'uptime_seconds': uptime_seconds,
            'source': source,
            'file_id': file_id,
            'line_number': line_number,
        }) over (partition by env, node, account_uuid, inbound_tag order by collected_at) as earlier,
    from samples
)
select
    (env, node, account_uuid, inbound_tag) as stream,
    bucket_start,
    {
        'collected_at': collected_at,
        'uplink_bytes': uplink_bytes,
        'downlink_bytes': downlink_bytes,
        'uptime_seconds': uptime_seconds,
        'source': source,
        'file_id': file_id,
        'line_number': line_number,
    } as sample,
    earlier,
from stepped
semi join lineage_minutes using (env, node, account_uuid, inbound_tag, bucket_start)
order by env, node, account_uuid, inbound_tag, collected_at
