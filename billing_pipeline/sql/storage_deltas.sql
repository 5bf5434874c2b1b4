-- storage_writes. Grain: action of the day on an object, with what was counted of the object when its epoch began. From: storage_actions,
-- storage_uploads, storage_beyond, index_epochs, listed_objects (source, snapshot_id, repository, object_id, version_id, bytes: what
-- snapshots list), tail_objects (what events have left since the last index).
--
-- An epoch begins with the snapshot that the object index comes from. counted_bytes: what the size of the place has of an object; null:
-- nobody can tell. bytes: what it has afterwards; null: the action says no size, and changes nothing of it.
create or replace temp table storage_writes as
with
written as (
    select
        actions.* exclude (bytes),
        case
            when actions.action = 'delete' then 0
            when storage_beyond.place_id is not null then null
            when actions.event_name = 'CompleteMultipartUpload' then uploads.bytes::bigint
            when actions.action = 'put' then actions.bytes
        end as bytes,
    from storage_actions as actions
    left join storage_uploads as uploads using (place_id, action_id)
    left join storage_beyond using (place_id)
    where actions.event_name not in ('UploadPart', 'UploadPartCopy') and actions.action <> 'delete_marker'
),
epochs as (
    select index_epochs.*
    from index_epochs
    semi join written using (place_id)
),
placed as (
    select
        written.*,
        coalesce(listed.index_at, latest.index_at, timestamp '0001-01-01') as epoch_at,
        case when listed.index_at is not null then listed.index_source else latest.index_source end as index_source,
        case when listed.index_at is not null then listed.index_id else latest.index_id end as index_id,
    from written
    asof left join (select * from epochs where is_listed) as listed
        on written.place_id = listed.place_id and written.event_at > listed.index_at
    asof left join epochs as latest
        on written.place_id = latest.place_id and written.event_at > latest.index_at
),
listed as (
    select
        placed.place_id,
        placed.epoch_at,
        placed.object_id,
        sum(listed_objects.bytes) as bytes,
        max(listed_objects.version_id) as version_id,
    from (select distinct place_id, epoch_at, index_source, index_id, object_id from placed) as placed
    join places using (place_id)
    join listed_objects
        on
            places.repository = listed_objects.repository
            and placed.index_source = listed_objects.source
            and placed.index_id = listed_objects.snapshot_id
            and placed.object_id = listed_objects.object_id
    group by placed.place_id, placed.epoch_at, placed.object_id
)
select
    placed.* exclude (index_source, index_id),
    case when tail_objects.object_id is not null then tail_objects.bytes else listed.bytes::bigint end as counted_bytes,
    case when tail_objects.object_id is not null then tail_objects.version_id else listed.version_id end as held_version_id,
from placed
left join listed using (place_id, epoch_at, object_id)
left join tail_objects using (place_id, epoch_at, object_id);

-- storage_deltas. Grain: action of the day on an object (R3). From: storage_writes. delta null: nobody can size it.
create or replace temp table storage_deltas as
with
-- Where the current version is sold, deleting another one changes nothing. Current is what was written or listed last.
version_deletes as (
    select
        place_id,
        action_id,
        action,
        version_id,
        coalesce(
            lag(case when action <> 'delete_version' then {'action': action, 'version_id': version_id} end ignore nulls)
                over object_history,
            {'action': 'held', 'version_id': held_version_id}
        ) as written_before,
    from storage_writes
    where object_id in (select object_id from storage_writes where action = 'delete_version')
    window object_history as (partition by place_id, epoch_at, object_id order by event_at, action_id)
),
without_effect as (
    select place_id, action_id
    from version_deletes
    where action = 'delete_version' and written_before.action <> 'delete' and written_before.version_id <> version_id
),
compared as (
    select
        *,
        coalesce(lag(bytes ignore nulls) over object_history, counted_bytes) as bytes_before,
    from storage_writes
    window object_history as (partition by place_id, epoch_at, object_id order by event_at, action_id)
)
select
    compared.place_id,
    compared.event_at,
    compared.action_id,
    compared.owner,
    compared.epoch_at,
    compared.object_id,
    compared.action,
    compared.version_id,
    compared.bytes,
    compared.held_version_id,
    compared.counted_bytes,
    case
        when without_effect.action_id is not null then 0
        when compared.bytes_before is not null then compared.bytes - compared.bytes_before
        when compared.action <> 'delete' then compared.bytes
    end as delta,
from compared
left join without_effect using (place_id, action_id)
