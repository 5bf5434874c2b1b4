-- traffic_samples (view). Grain: stream (env, node, account_uuid, inbound_tag), collected_at. From: core/traffic_samples, the
-- files in $sample_files, in the order of their days. Each file is sorted by stream and time; traffic_turns.sql proves it.
-- stream_key stands for the four texts: 64 bits are compared instead of them. That no two streams share one is proven before
-- it is used (traffic_streams.sql); $key_salt is changed if they do.
create or replace temp view traffic_samples as
select
    collected_at::date as event_day,
    env,
    node,
    account_uuid,
    inbound_tag,
    hash(env, node, account_uuid, inbound_tag, getvariable('key_salt')) as stream_key,
    collected_at,
    uplink_bytes,
    downlink_bytes,
    uptime_seconds,
from read_parquet(getvariable('sample_files'), hive_partitioning = false)
