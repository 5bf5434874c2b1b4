-- storage_uploads. Grain: completed upload of the day. From: storage_actions, tail_parts (repository, upload_id, part_number,
-- event_at, bytes: of the days before). bytes is null unless all of the parts 1..n are known: nothing is guessed.
create or replace temp table storage_parts as
select repository, upload_id, part_number, event_at, action_id, bytes
from tail_parts
union all
select repository, upload_id, part_number, event_at, action_id, bytes
from storage_actions
where event_name in ('UploadPart', 'UploadPartCopy') and upload_id is not null and part_number is not null;

create or replace temp table storage_uploads as
with
completed as (
    select repository, upload_id, action_id, event_at
    from storage_actions
    where event_name = 'CompleteMultipartUpload' and upload_id is not null
),
last_parts as (
    select
        completed.repository,
        completed.action_id,
        parts.part_number,
        arg_max({'bytes': parts.bytes}, {'step_at': parts.event_at, 'action_id': parts.action_id}).bytes as bytes,
    from completed
    join storage_parts as parts
        on
            completed.repository = parts.repository
            and completed.upload_id = parts.upload_id
            and {'step_at': parts.event_at, 'action_id': parts.action_id}
                < {'step_at': completed.event_at, 'action_id': completed.action_id}
            and parts.event_at >= completed.event_at - to_days(getvariable('upload_days'))
    group by completed.repository, completed.action_id, parts.part_number
)
select
    repository,
    action_id,
    case
        when min(part_number) = 1 and max(part_number) = count(*) and count(bytes) = count(*) then sum(bytes)::bigint
    end as bytes,
from last_parts
group by repository, action_id
