-- traffic_minutes (view). Grain: event_day, stream, bucket_start (a UTC minute). From: traffic_samples in the order of its
-- files (see traffic_turns.sql), traffic_steps, traffic_broken_minutes. Minutes in which nothing happened are left out.
--
-- Of a stream without restart or reset the last total of a minute less that of the minute before is the minute's traffic, so
-- rows are compared with their neighbours and nothing is sorted, grouped or kept. Totals 100 at :10 and 130 at :50, then 180
-- a minute later: 130 and 180 are left, and 180 - 130 = 50. The first minute of a day begins at its head: what is booked for
-- the head, and the rest of the minute (130 - 100).
create or replace temp view traffic_minutes as
with
followed as (
    select
        event_day,
        stream_key,
        bucket_start,
        uplink_bytes,
        downlink_bytes,
        lead(stream_key) over () as row_after_key,
        lead(bucket_start) over () as row_after_bucket,
    from (select *, date_trunc('minute', collected_at) as bucket_start from traffic_samples) as samples
),
last_of_minutes as (
    select
        event_day,
        stream_key,
        bucket_start,
        uplink_bytes,
        downlink_bytes,
        lag(event_day) over () as row_before_day,
        lag(stream_key) over () as row_before_key,
        lag(uplink_bytes) over () as earlier_uplink_bytes,
        lag(downlink_bytes) over () as earlier_downlink_bytes,
    from followed
    where row_after_key is distinct from stream_key or row_after_bucket is distinct from bucket_start
),
whole_minutes as (
    select
        minutes.event_day,
        minutes.stream_key,
        minutes.bucket_start,
        case
            when heads.stream_key is null then minutes.uplink_bytes - minutes.earlier_uplink_bytes
            else heads.uplink_delta + (minutes.uplink_bytes - heads.uplink_bytes)
        end as uplink_bytes,
        case
            when heads.stream_key is null then minutes.downlink_bytes - minutes.earlier_downlink_bytes
            else heads.downlink_delta + (minutes.downlink_bytes - heads.downlink_bytes)
        end as downlink_bytes,
        coalesce(heads.basis, 0) as basis,
        0::bigint as epoch,
        coalesce(heads.suspected_loss_bytes, 0) as suspected_loss_bytes,
    from (
        select
            *,
            case
                when row_before_key is distinct from stream_key or row_before_day is distinct from event_day then stream_key
            end as head_key,
        from last_of_minutes
    ) as minutes
    anti join (select distinct event_day, stream_key from traffic_broken_minutes) as broken using (event_day, stream_key)
    left join (select * from traffic_steps where is_head) as heads
        on minutes.head_key = heads.stream_key and minutes.event_day = heads.event_day
)
select *
from whole_minutes
where uplink_bytes > 0 or downlink_bytes > 0 or basis > 0
union all
select *
from traffic_broken_minutes
where uplink_bytes > 0 or downlink_bytes > 0 or basis > 0
