-- Grain: event_day. From: traffic_last_samples, traffic_stream_days. A digest of just those earlier samples that the day's
-- deltas rest on: a late sample of another stream leaves it as it is.
with
earlier as (
    select
        event_day,
        stream_key,
        lag(row_digest) over (partition by stream_key order by event_day) as row_digest,
    from traffic_last_samples
)
select event_day, bit_xor(earlier.row_digest)::varchar as digest, count(earlier.row_digest) as streams
from traffic_stream_days
join earlier using (event_day, stream_key)
group by event_day
