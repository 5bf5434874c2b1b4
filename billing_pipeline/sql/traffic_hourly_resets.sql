-- traffic_hourly_resets. Grain: event_day, stream, hour_start (UTC clock hour) with resets. From: traffic_judged_turns.
create or replace temp table traffic_hourly_resets as
select event_day, stream_key, date_trunc('hour', collected_at) as hour_start, count(*) as resets
from traffic_judged_turns
where is_reset
group by all
