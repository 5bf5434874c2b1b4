-- storage_held. Grain: repository, object, epoch: what an object held when the epoch began, of the objects that the day's actions
-- touch. Each snapshot of a repository begins an epoch. From: storage_actions, storage_uploads, storage_beyond, epochs, listed_objects (source, snapshot_id,
-- repository, object_id, version_id, bytes: what snapshots list), tail_objects (what events since the last snapshot have left).
--
-- bytes null: it holds something, nobody can tell how much. is_seen false: neither a snapshot nor an event has named it.
create or replace temp table storage_writes as
with
written as (
    select
        actions.* exclude (bytes),
        case
            when actions.action = 'delete' then 0
            when storage_beyond.repository is not null then null
            when actions.event_name = 'CompleteMultipartUpload' then uploads.bytes::bigint
            when actions.action = 'put' then actions.bytes
        end as bytes,
    from storage_actions as actions
    left join storage_uploads as uploads using (repository, action_id)
    left join storage_beyond using (repository)
    where actions.event_name not in ('UploadPart', 'UploadPartCopy') and actions.action <> 'delete_marker'
)
select
    written.*,
    -- the snapshot's instant names the epoch: two at one instant are one
    coalesce(epochs.snapshot_at, timestamp '0001-01-01') as epoch_at,
    epochs.source as index_source,
    epochs.snapshot_id as index_id,
from written
asof left join epochs
    on written.repository = epochs.repository and written.event_at > epochs.snapshot_at;

create or replace temp table storage_held as
with
touched as (
    select distinct repository, epoch_at, index_source, index_id, object_id
    from storage_writes
),
listed as (
    select
        touched.repository,
        touched.epoch_at,
        touched.object_id,
        sum(listed_objects.bytes)::bigint as bytes,
        max(listed_objects.version_id) as version_id,
    from touched
    join listed_objects
        on
            touched.repository = listed_objects.repository
            and touched.index_source = listed_objects.source
            and touched.index_id = listed_objects.snapshot_id
            and touched.object_id = listed_objects.object_id
    group by touched.repository, touched.epoch_at, touched.object_id
)
select
    touched.repository,
    touched.epoch_at,
    touched.object_id,
    tail_objects.object_id is not null or listed.object_id is not null as is_seen,
    case when tail_objects.object_id is not null then tail_objects.bytes else listed.bytes end as bytes,
    case when tail_objects.object_id is not null then tail_objects.version_id else listed.version_id end as version_id,
from touched
left join listed using (repository, epoch_at, object_id)
left join tail_objects using (repository, epoch_at, object_id)
