-- traffic_sample_outcomes. Grain: event_day, stream, reason (null: billable). From: traffic_stream_days, traffic_owners,
-- traffic_held_streams, and traffic_samples of the streams whose owner changes inside a day: the others are counted whole.
create or replace temp table traffic_sample_outcomes as
with
changing as (
    select distinct stream_days.event_day, stream_days.stream_key
    from traffic_stream_days as stream_days
    join traffic_owners as owners using (stream_key)
    where
        owners.valid_from > stream_days.event_day and owners.valid_from < stream_days.event_day + interval 1 day
        or owners.valid_to > stream_days.event_day and owners.valid_to < stream_days.event_day + interval 1 day
),
counted as (
    select event_day, stream_key, event_day::timestamp as bucket_start, sample_count
    from traffic_stream_days
    anti join changing using (event_day, stream_key)
    union all
    select samples.event_day, samples.stream_key, date_trunc('minute', samples.collected_at) as bucket_start, count(*)
    from traffic_samples as samples
    semi join changing using (event_day, stream_key)
    group by all
)
select
    counted.event_day,
    counted.stream_key,
    case
        when held.reason is not null then held.reason
        when owners.stream_key is null then 'unknown_identity'
    end as reason,
    sum(counted.sample_count)::bigint as sample_count,
from counted
left join traffic_owners as owners
    on counted.stream_key = owners.stream_key
    and counted.bucket_start >= owners.valid_from
    and counted.bucket_start < owners.valid_to
left join traffic_held_streams as held
    on counted.event_day = held.event_day and counted.stream_key = held.stream_key
group by all
