-- traffic_minutes (view). Grain: event_day, stream, bucket_start (a UTC minute). From: traffic_samples in the order of its
-- files (see traffic_turns.sql), traffic_corrections, traffic_epochs. Minutes in which nothing happened are left out.
--
-- The last total of a minute less that of the minute before is the minute's traffic, so rows are compared with their neighbours
-- and nothing is sorted, grouped or kept. Totals 100 at :10 and 130 at :50, then 180 a minute later: 130 and 180 are left, and
-- 180 - 130 = 50. Where a total went down, or a day begins, the correction of the minute says what is booked instead:
-- totals 150, then 40 and 90 in one minute are 90 - 150 + (0 - (40 - 150)) = 50.
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
grown as (
    select
        event_day,
        stream_key,
        bucket_start,
        uplink_bytes - if(is_head, 0, earlier_uplink_bytes) as uplink_growth,
        downlink_bytes - if(is_head, 0, earlier_downlink_bytes) as downlink_growth,
    from (
        select
            *,
            row_before_key is distinct from stream_key or row_before_day is distinct from event_day as is_head,
        from last_of_minutes
    ) as minutes
),
corrected as (
    select
        grown.event_day,
        grown.stream_key,
        grown.bucket_start,
        case
            when corrections.basis is null then uplink_growth
            else (uplink_growth + corrections.uplink_correction)::bigint
        end as uplink_bytes,
        case
            when corrections.basis is null then downlink_growth
            else (downlink_growth + corrections.downlink_correction)::bigint
        end as downlink_bytes,
        coalesce(corrections.basis, 0) as basis,
        coalesce(corrections.suspected_loss_bytes, 0) as suspected_loss_bytes,
    from grown
    left join traffic_corrections as corrections using (stream_key, bucket_start)
)
select
    corrected.event_day,
    corrected.stream_key,
    corrected.bucket_start,
    corrected.uplink_bytes,
    corrected.downlink_bytes,
    corrected.basis,
    coalesce(epochs.epoch, 0)::bigint as epoch,
    corrected.suspected_loss_bytes,
from corrected
left join traffic_epochs as epochs
    on corrected.stream_key = epochs.stream_key
    and corrected.bucket_start >= epochs.from_bucket
    and corrected.bucket_start < epochs.to_bucket
where corrected.uplink_bytes > 0 or corrected.downlink_bytes > 0 or corrected.basis > 0
