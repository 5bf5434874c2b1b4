-- traffic_epochs. Grain: stream, [from_bucket, to_bucket) of a day after its first restart or reset. From: traffic_steps.
create or replace temp table traffic_epochs as
with
beginnings as (
    select event_day, stream_key, date_trunc('minute', collected_at) as from_bucket, count(*) as begun
    from traffic_steps
    where begins_epoch
    group by event_day, stream_key, from_bucket
)
select
    stream_key,
    from_bucket,
    lead(from_bucket, 1, event_day + interval 1 day) over stream_day as to_bucket,
    sum(begun) over stream_day as epoch,
from beginnings
window stream_day as (partition by event_day, stream_key order by from_bucket)
