-- traffic_counted_turns. Grain: event_day, stream, collected_at. From: traffic_judged_turns, traffic_streams, traffic_stream_days.
-- What each turn is worth by the policy of its node, before anybody asks whether its stream is held.
-- basis: billing_pipeline.counters.Basis. left_out_bytes: what the policy leaves out and may have been traffic.
create or replace temp table traffic_counted_turns as
with
turns as (
    select
        turns.*,
        streams.on_reset = 'from_zero' as bills_resets,
        case
            when turns.earlier_at is null and stream_days.is_first_of_node then 2
            when turns.earlier_at is null then 1
            when turns.is_restart then 4
            when turns.is_reset then 5
            else 0
        end as basis,
        basis in (1, 4) or basis = 2 and streams.on_first = 'full' as is_whole,
    from traffic_judged_turns as turns
    join traffic_streams as streams using (stream_key)
    join traffic_stream_days as stream_days using (event_day, stream_key)
)
select
    * exclude (bills_resets, is_whole),
    case
        when is_whole then uplink_bytes
        when basis = 2 then 0
        when uplink_bytes >= earlier_uplink_bytes then uplink_bytes - earlier_uplink_bytes
        when bills_resets then uplink_bytes
        else 0
    end as uplink_delta,
    case
        when is_whole then downlink_bytes
        when basis = 2 then 0
        when downlink_bytes >= earlier_downlink_bytes then downlink_bytes - earlier_downlink_bytes
        when bills_resets then downlink_bytes
        else 0
    end as downlink_delta,
    case
        when basis in (0, 5) and not bills_resets
            then if(uplink_bytes < earlier_uplink_bytes, uplink_bytes, 0)::hugeint
                + if(downlink_bytes < earlier_downlink_bytes, downlink_bytes, 0)
        else 0
    end as left_out_bytes,
from turns
