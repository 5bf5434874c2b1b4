-- traffic_last_samples. Grain: stream, event_day, and the tail before the first day. From: traffic_stream_days, traffic_tails,
-- traffic_held_streams. row_digest: content of the row; a set of rows is told by the exclusive or of theirs.
create or replace temp table traffic_last_samples as
with
last_samples as (
    select
        stream_days.event_day,
        streams.env,
        streams.node,
        streams.account_uuid,
        streams.inbound_tag,
        stream_days.stream_key,
        stream_days.last_at as collected_at,
        stream_days.last_uplink_bytes as uplink_bytes,
        stream_days.last_downlink_bytes as downlink_bytes,
        held.stream_key is not null as is_held,
    from traffic_stream_days as stream_days
    join traffic_streams as streams using (stream_key)
    left join traffic_held_streams as held using (event_day, stream_key)
    union all
    select
        collected_at::date, env, node, account_uuid, inbound_tag, stream_key, collected_at, uplink_bytes, downlink_bytes, is_held,
    from traffic_tails
)
select
    *,
    md5_number(
        concat_ws(
            chr(9), env, node, account_uuid, inbound_tag, epoch_us(collected_at), uplink_bytes, downlink_bytes, is_held
        )
    ) as row_digest,
from last_samples
