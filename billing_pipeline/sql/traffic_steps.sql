-- traffic_steps. Grain: event_day, stream, collected_at. From: traffic_judged_turns, traffic_held_streams, traffic_tails,
-- traffic_stream_days, traffic_streams. What is booked for each turn; every other sample is the difference to the one before.
-- basis: billing_pipeline.counters.Basis. suspected_loss_bytes: what the policy leaves out and may have been traffic.
create or replace temp table traffic_steps as
with
turns as (
    select
        turns.*,
        stream_days.is_first_of_node,
        streams.on_first = 'full' as bills_first,
        streams.on_reset = 'from_zero' as bills_resets,
        coalesce(turns.earlier_was_held, false) or held.stream_key is not null as is_after_hold,
    from traffic_judged_turns as turns
    join traffic_streams as streams using (stream_key)
    join traffic_stream_days as stream_days using (event_day, stream_key)
    left join traffic_held_streams as held
        on turns.is_head and turns.earlier_day = held.event_day and turns.stream_key = held.stream_key
),
based as (
    select
        *,
        case
            when earlier_at is null and is_first_of_node then 2
            when earlier_at is null then 1
            when is_restart then 4
            when is_after_hold then 3
            when is_reset then 5
            else 0
        end as basis,
        case
            when uplink_bytes >= earlier_uplink_bytes then uplink_bytes - earlier_uplink_bytes
            when bills_resets then uplink_bytes
            else 0
        end as uplink_difference,
        case
            when downlink_bytes >= earlier_downlink_bytes then downlink_bytes - earlier_downlink_bytes
            when bills_resets then downlink_bytes
            else 0
        end as downlink_difference,
        case when uplink_bytes < earlier_uplink_bytes and not bills_resets then uplink_bytes else 0 end::hugeint
            + case when downlink_bytes < earlier_downlink_bytes and not bills_resets then downlink_bytes else 0 end
            as left_out_bytes,
    from turns
)
select
    event_day,
    stream_key,
    collected_at,
    uplink_bytes,
    downlink_bytes,
    earlier_at,
    earlier_uplink_bytes,
    earlier_downlink_bytes,
    is_head,
    is_reset,
    is_reset or basis = 4 as begins_epoch,
    basis,
    case
        when basis in (1, 4) or basis = 2 and bills_first then uplink_bytes
        when basis in (2, 3) then 0
        else uplink_difference
    end as uplink_delta,
    case
        when basis in (1, 4) or basis = 2 and bills_first then downlink_bytes
        when basis in (2, 3) then 0
        else downlink_difference
    end as downlink_delta,
    case
        when basis = 3 then left_out_bytes + uplink_difference + downlink_difference
        when basis in (0, 5) then left_out_bytes
        else 0
    end::decimal(38, 0) as suspected_loss_bytes,
from based
