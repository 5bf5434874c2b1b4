-- traffic_held_streams. Grain: event_day, stream. From: traffic_hourly_resets, traffic_stream_days, traffic_streams,
-- traffic_counted_turns, held_after (streams that are known to be shared by two writers in the first hour of a day that is not
-- scanned here, by the day before it). Why nothing of the day is billed (reason: billing_pipeline.counters.HoldReason).
--
-- beyond_int64: a direction would come to more bytes of the day than 2^63 - 1: no node counts so much, and no BIGINT holds it.
-- More resets in a UTC clock hour of the day, or in the first of the next, than the node may have: two writers share the
-- key (split_brain). Two writers do not begin at midnight: the first wrong difference may be before it.
create or replace temp table traffic_held_streams as
with
resets as (
    select event_day, stream_key, resets from traffic_hourly_resets
    union all
    select event_day - 1, stream_key, resets from traffic_hourly_resets where hour_start = event_day
),
too_many as (
    select distinct resets.event_day, resets.stream_key
    from resets
    join traffic_streams as streams using (stream_key)
    where resets.resets > streams.max_resets_per_hour
    union
    select held_after.event_day, streams.stream_key
    from held_after
    join traffic_streams as streams using (env, node, account_uuid, inbound_tag)
),
turned as (
    select
        event_day,
        stream_key,
        sum(uplink_delta - if(is_head, 0, uplink_bytes - earlier_uplink_bytes)::hugeint) as uplink_bytes,
        sum(downlink_delta - if(is_head, 0, downlink_bytes - earlier_downlink_bytes)::hugeint) as downlink_bytes,
    from traffic_counted_turns
    group by event_day, stream_key
),
too_much as (
    select stream_days.event_day, stream_days.stream_key
    from traffic_stream_days as stream_days
    join turned using (event_day, stream_key)
    where
        greatest(
            turned.uplink_bytes + (stream_days.last_uplink_bytes - stream_days.first_uplink_bytes),
            turned.downlink_bytes + (stream_days.last_downlink_bytes - stream_days.first_downlink_bytes)
        ) > 9223372036854775807
)
select
    stream_days.event_day,
    stream_days.stream_key,
    if(too_many.stream_key is not null, 'split_brain', 'beyond_int64') as reason,
from traffic_stream_days as stream_days
left join too_many using (event_day, stream_key)
left join too_much using (event_day, stream_key)
where too_many.stream_key is not null or too_much.stream_key is not null
