-- traffic_held_streams. Grain: event_day, stream. From: traffic_judged_turns, traffic_streams.
-- More resets in a UTC clock hour than the node may have: two writers share the key, and nothing of the day is billed.
create or replace temp table traffic_held_streams as
with
resets_per_hour as (
    select event_day, stream_key, date_trunc('hour', collected_at) as hour_start, count(*) as resets
    from traffic_judged_turns
    where is_reset
    group by all
)
select event_day, stream_key, sum(resets)::bigint as resets, max(resets) as resets_of_worst_hour
from resets_per_hour
join traffic_streams using (stream_key)
group by event_day, stream_key
having max(resets) > any_value(max_resets_per_hour)
