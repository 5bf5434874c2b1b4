-- traffic. Grain: event_day, account_id, meter_id, period_start, env, node, inbound_tag. From: traffic_hours, traffic_streams,
-- meters. Sums are exact: HUGEINT, then DECIMAL(38, 9). Two uuids of an account may be cut at different instants of an hour, say
-- where one of them leaves it: what begins together is one row, up to the later end.
create or replace temp table traffic as
select
    hours.event_day,
    hours.account_id,
    meters.meter_id,
    hours.period_start,
    max(hours.period_end) as period_end,
    streams.env,
    streams.node,
    streams.inbound_tag,
    sum(
        case meters.field
            when 'uplink_bytes' then hours.uplink_bytes
            when 'downlink_bytes' then hours.downlink_bytes
            else hours.uplink_bytes + hours.downlink_bytes
        end
    )::decimal(38, 9) as quantity,
    meters.unit,
    sum(hours.bucket_count)::bigint as bucket_count,
from traffic_hours as hours
join traffic_streams as streams using (stream_key)
join meters on list_contains(meters.envs, streams.env)
where hours.account_id is not null and hours.held_for is null
group by all
having quantity > 0
