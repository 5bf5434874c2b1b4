-- traffic_suspects. Grain: event_day, stream. From: traffic_steps, traffic_stream_days, traffic_held_streams, traffic_streams. What a
-- person should look at: totals that went down without a witness, differences after a held day, and streams that are held.
create or replace temp table traffic_suspects as
with
suspected as (
    select
        event_day,
        stream_key,
        count(*) filter (is_reset) as resets,
        min(collected_at) as first_at,
        max(collected_at) as last_at,
        sum(suspected_loss_bytes)::decimal(38, 0) as suspected_loss_bytes,
    from traffic_steps
    where is_reset or suspected_loss_bytes > 0
    group by event_day, stream_key
)
select
    stream_days.event_day,
    streams.env,
    streams.node,
    streams.account_uuid,
    streams.inbound_tag,
    coalesce(held.reason, 'reset') as reason,
    coalesce(suspected.resets, 0) as resets,
    coalesce(suspected.first_at, stream_days.first_at) as first_at,
    coalesce(suspected.last_at, stream_days.last_at) as last_at,
    coalesce(suspected.suspected_loss_bytes, 0) as suspected_loss_bytes,
    streams.on_reset,
from traffic_stream_days as stream_days
join traffic_streams as streams using (stream_key)
left join suspected using (event_day, stream_key)
left join traffic_held_streams as held using (event_day, stream_key)
where suspected.stream_key is not null or held.stream_key is not null
