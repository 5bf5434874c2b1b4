-- traffic_owned_minutes (view). Grain: event_day, stream, bucket_start. From: traffic_minutes, traffic_owners,
-- traffic_held_streams. account_id is null where nobody is known to pay at bucket_start,
-- held_for where the stream's day is not held.
create or replace temp view traffic_owned_minutes as
select
    minutes.event_day,
    minutes.stream_key,
    minutes.bucket_start,
    minutes.uplink_bytes,
    minutes.downlink_bytes,
    minutes.basis,
    minutes.epoch,
    minutes.suspected_loss_bytes,
    owners.account_id,
    held.reason as held_for,
from traffic_minutes as minutes
left join traffic_owners as owners
    on minutes.stream_key = owners.stream_key
    and minutes.bucket_start >= owners.valid_from
    and minutes.bucket_start < owners.valid_to
left join traffic_held_streams as held
    on minutes.event_day = held.event_day and minutes.stream_key = held.stream_key
