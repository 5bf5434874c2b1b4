-- storage_writes. Grain: action of the day on an object, with what was counted of the object when its epoch began. From: storage_actions,
-- storage_uploads, storage_beyond, storage_anchors, listed_objects (source, snapshot_id, repository, object_id, version_id, bytes: what
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
placed as materialized (
    select
        written.*,
        anchors.anchor_at,
        coalesce(anchors.index_at, timestamp '0001-01-01') as epoch_at,
        anchors.index_source,
        anchors.index_id,
    from written
    asof join storage_anchors as anchors on written.place_id = anchors.place_id and written.event_at > anchors.anchor_at
),
listed as (
    select
        placed.place_id,
        placed.epoch_at,
        placed.object_id,
        sum(listed_objects.bytes) as bytes,
        max(listed_objects.version_id) as version_id,
    from (
        select distinct place_id, epoch_at, index_source, index_id, object_id from placed where index_source is not null
    ) as placed
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
-- most objects are written once: the others alone need a look at their neighbours
rewritten as materialized (
    select place_id, epoch_at, object_id
    from storage_writes
    group by place_id, epoch_at, object_id
    having count(*) > 1 or bool_or(action = 'delete_version')
),
once as (
    select *, counted_bytes as bytes_before, false as has_no_effect
    from storage_writes
    anti join rewritten using (place_id, epoch_at, object_id)
),
often as (
    select
        *,
        coalesce(lag(bytes ignore nulls) over object_history, counted_bytes) as bytes_before,
        -- Where the current version is sold, deleting another one changes nothing. Current is what was written or listed last.
        coalesce(
            lag(case when action <> 'delete_version' then {'action': action, 'version_id': version_id} end ignore nulls)
                over object_history,
            {'action': 'held', 'version_id': held_version_id}
        ) as written_before,
    from storage_writes
    semi join rewritten using (place_id, epoch_at, object_id)
    window object_history as (partition by place_id, epoch_at, object_id order by event_at, action_id)
),
compared as (
    select * from once
    union all by name
    select
        * exclude (written_before),
        coalesce(
            action = 'delete_version' and written_before.action <> 'delete' and written_before.version_id <> version_id, false
        ) as has_no_effect,
    from often
)
select
    place_id,
    anchor_at,
    event_at,
    action_id,
    owner,
    epoch_at,
    object_id,
    action,
    version_id,
    bytes,
    held_version_id,
    counted_bytes,
    case
        when has_no_effect then 0
        when bytes_before is not null then bytes - bytes_before
        when action <> 'delete' then bytes
    end as delta,
from compared
