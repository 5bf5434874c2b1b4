-- traffic_held_streams. Grain: event_day, stream. From: traffic_hourly_resets, traffic_stream_days, traffic_streams, held_after
-- (streams that are known to be shared by two writers in the first hour of a day that is not scanned here, by the day before it).
-- More resets in a UTC clock hour of the day, or in the first of the next, than the node may have: two writers share the
-- key, and nothing of the day is billed. Two writers do not begin at midnight: the first wrong difference may be before it.
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
)
select stream_days.event_day, stream_days.stream_key
from traffic_stream_days as stream_days
semi join too_many using (event_day, stream_key)
