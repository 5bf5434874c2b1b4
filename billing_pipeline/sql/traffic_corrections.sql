-- traffic_corrections. Grain: event_day, stream, bucket_start (a UTC minute) with a step that is more than a difference. From:
-- traffic_steps. What is booked for its steps, less the plain differences that traffic_minutes takes (a day's first sample: less all of it). has_head: the day of the stream begins in this minute.
create or replace temp table traffic_corrections as
select
    event_day,
    stream_key,
    date_trunc('minute', collected_at) as bucket_start,
    sum(uplink_delta - (uplink_bytes - if(is_head, 0, earlier_uplink_bytes))::hugeint) as uplink_correction,
    sum(downlink_delta - (downlink_bytes - if(is_head, 0, earlier_downlink_bytes))::hugeint) as downlink_correction,
    max(basis) as basis,
    bool_or(is_head) as has_head,
    sum(suspected_loss_bytes) as suspected_loss_bytes,
from traffic_steps
group by event_day, stream_key, bucket_start
