-- storage_uploads. Grain: completed upload of the day. From: storage_actions, tail_parts (place_id, upload_id, part_number,
-- event_at, bytes: of the days before). bytes (HUGEINT) is null unless all of the parts 1..n are known: nothing is guessed.
create or replace temp table storage_parts as
select place_id, upload_id, part_number, event_at, action_id, bytes
from tail_parts
union all
select place_id, upload_id, part_number, event_at, action_id, bytes
from storage_actions
where event_name in ('UploadPart', 'UploadPartCopy') and upload_id is not null and part_number is not null;

create or replace temp table storage_uploads as
with
completed as (
    select place_id, upload_id, action_id, event_id, event_at
    from storage_actions
    where event_name = 'CompleteMultipartUpload' and upload_id is not null
),
last_parts as (
    select
        completed.place_id,
        completed.action_id,
        any_value(completed.event_id) as event_id,
        parts.part_number,
        arg_max({'bytes': parts.bytes}, {'step_at': parts.event_at, 'action_id': parts.action_id}).bytes as bytes,
    from completed
    join storage_parts as parts
        on
            completed.place_id = parts.place_id
            and completed.upload_id = parts.upload_id
            and {'step_at': parts.event_at, 'action_id': parts.action_id}
                < {'step_at': completed.event_at, 'action_id': completed.action_id}
            and parts.event_at >= completed.event_at - to_days(getvariable('upload_days'))
    group by completed.place_id, completed.action_id, parts.part_number
)
select
    place_id,
    action_id,
    any_value(event_id) as event_id,
    case
        when min(part_number) = 1 and max(part_number) = count(*) and count(bytes) = count(*) then sum(bytes)
    end as bytes,
from last_parts
group by place_id, action_id;

-- storage_beyond. Grain: place that would come to more than 2^63 - 1 bytes on the day, with the largest of its events. Nobody
-- stores so much: its writes of the day are forged or broken, and unsized. From: storage_actions, storage_uploads, day_snapshots,
-- tail_places.
create or replace temp table storage_beyond as
with
written as (
    select place_id, event_id, bytes::hugeint as bytes
    from storage_actions
    where action = 'put' and bytes is not null
    union all
    select place_id, event_id, bytes
    from storage_uploads
    where bytes is not null
),
added as (
    select place_id, sum(bytes) as bytes, max(bytes) as largest
    from written
    group by place_id
),
held as (
    select place_id, raw_bytes as bytes from tail_places
    union all
    select place_id, bytes from day_snapshots
),
most_held as (
    select place_id, max(bytes)::hugeint as bytes
    from held
    semi join added using (place_id)
    group by place_id
),
beyond as (
    select added.place_id, added.largest
    from added
    left join most_held using (place_id)
    where added.bytes + greatest(coalesce(most_held.bytes, 0), 0) > 9223372036854775807
)
select beyond.place_id, min(written.event_id) as event_id, beyond.largest as event_bytes
from beyond
join written on beyond.place_id = written.place_id and beyond.largest = written.bytes
group by beyond.place_id, beyond.largest
