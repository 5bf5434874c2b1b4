-- traffic_suspects. Grain: event_day, stream. From: traffic_steps, traffic_held_streams, traffic_streams. What a person should look
-- at: totals that went down without a witness, differences after a held day, and streams that are held.
create or replace temp table traffic_suspects as
select
    steps.event_day,
    streams.env,
    streams.node,
    streams.account_uuid,
    streams.inbound_tag,
    case when any_value(held.stream_key) is not null then 'split_brain' else 'reset' end as reason,
    count(*) filter (steps.is_reset) as resets,
    min(steps.collected_at) as first_at,
    max(steps.collected_at) as last_at,
    sum(steps.suspected_loss_bytes)::decimal(38, 0) as suspected_loss_bytes,
    any_value(streams.on_reset) as on_reset,
from traffic_steps as steps
join traffic_streams as streams using (stream_key)
left join traffic_held_streams as held using (event_day, stream_key)
where steps.is_reset or steps.suspected_loss_bytes > 0
group by steps.event_day, streams.env, streams.node, streams.account_uuid, streams.inbound_tag
