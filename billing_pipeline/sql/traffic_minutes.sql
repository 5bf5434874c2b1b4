-- traffic_minutes (view). Grain: event_day, stream, bucket_start (a UTC minute). From: traffic_samples in the order of its
-- files (see traffic_turns.sql), traffic_corrections, traffic_epochs. Minutes in which nothing happened are left out.
--
-- The last total of a minute less that of the minute before is the minute's traffic, so rows are compared with their neighbours
-- and nothing is sorted, grouped or kept. Totals 100 at :10 and 130 at :50, then 180 a minute later: 130 and 180 are left, and
-- 180 - 130 = 50. Where a total went down, or a day begins, the correction of the minute says what is booked instead:
-- totals 150, then 40 and 90 in one minute are 90 - 150 + (0 - (40 - 150)) = 50. HUGEINT: restarts of one minute may be more
-- than BIGINT holds, of a stream that is held for it (beyond_int64).
create or replace temp view traffic_minutes as
with
followed as (
    select
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
        stream_key,
        bucket_start,
        uplink_bytes,
        downlink_bytes,
        lag(uplink_bytes) over () as earlier_uplink_bytes,
        lag(downlink_bytes) over () as earlier_downlink_bytes,
    from followed
    where row_after_key is distinct from stream_key or row_after_bucket is distinct from bucket_start
),
corrected as (
    select
        minutes.stream_key,
        minutes.bucket_start,
        case
            when corrections.basis is null then minutes.uplink_bytes - minutes.earlier_uplink_bytes
            when corrections.has_head then minutes.uplink_bytes + corrections.uplink_correction
            else minutes.uplink_bytes - minutes.earlier_uplink_bytes + corrections.uplink_correction
        end as uplink_bytes,
        case
            when corrections.basis is null then minutes.downlink_bytes - minutes.earlier_downlink_bytes
            when corrections.has_head then minutes.downlink_bytes + corrections.downlink_correction
            else minutes.downlink_bytes - minutes.earlier_downlink_bytes + corrections.downlink_correction
        end as downlink_bytes,
        corrections.basis,
        corrections.suspected_loss_bytes,
    from last_of_minutes as minutes
    left join traffic_corrections as corrections using (stream_key, bucket_start)
)
select
    corrected.bucket_start::date as event_day,
    corrected.stream_key,
    corrected.bucket_start,
    corrected.uplink_bytes,
    corrected.downlink_bytes,
    coalesce(corrected.basis, 0) as basis,
    coalesce(epochs.epoch, 0)::bigint as epoch,
    coalesce(corrected.suspected_loss_bytes, 0) as suspected_loss_bytes,
from corrected
left join traffic_epochs as epochs
    on corrected.stream_key = epochs.stream_key
    and corrected.bucket_start >= epochs.from_bucket
    and corrected.bucket_start < epochs.to_bucket
where corrected.uplink_bytes > 0 or corrected.downlink_bytes > 0 or corrected.basis > 0
