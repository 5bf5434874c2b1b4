-- traffic_steps. Grain: event_day, stream, collected_at. From: traffic_counted_turns, traffic_held_streams. What is booked for
-- each turn; every other sample is the difference to the one before. A difference to a sample that was held says nothing.
-- basis: billing_pipeline.counters.Basis. suspected_loss_bytes: what is left out and may have been traffic.
create or replace temp table traffic_steps as
with
turns as (
    select
        turns.*,
        turns.basis in (0, 5) and (coalesce(turns.earlier_was_held, false) or held.stream_key is not null) as is_after_hold,
    from traffic_counted_turns as turns
    left join traffic_held_streams as held
        on turns.is_head and turns.earlier_day = held.event_day and turns.stream_key = held.stream_key
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
    if(is_after_hold, 3, basis) as basis,
    if(is_after_hold, 0, uplink_delta) as uplink_delta,
    if(is_after_hold, 0, downlink_delta) as downlink_delta,
    (left_out_bytes + if(is_after_hold, uplink_delta::hugeint + downlink_delta, 0))::decimal(38, 0) as suspected_loss_bytes,
from turns
