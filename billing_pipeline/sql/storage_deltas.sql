-- storage_deltas. Grain: action of the day on an object (R3). From: storage_writes, storage_held.
-- delta null: nobody can size it. sets_bytes false: the action changes nothing that is sold.
create or replace temp table storage_deltas as
with
-- Where the current version is sold, deleting another one changes nothing. Current is what was written or listed last.
version_deletes as (
    select
        writes.repository,
        writes.action_id,
        writes.action,
        writes.version_id,
        coalesce(
            lag(case when writes.action <> 'delete_version' then {'action': writes.action, 'version_id': writes.version_id} end
                ignore nulls) over object_history,
            {'action': 'held', 'version_id': held.version_id}
        ) as written_before,
    from storage_writes as writes
    join storage_held as held using (repository, epoch_at, object_id)
    where writes.object_id in (select object_id from storage_writes where action = 'delete_version')
    window object_history as (
        partition by writes.repository, writes.epoch_at, writes.object_id order by writes.event_at, writes.action_id
    )
),
without_effect as (
    select repository, action_id
    from version_deletes
    where action = 'delete_version' and written_before.action <> 'delete' and written_before.version_id <> version_id
),
compared as (
    select
        writes.*,
        row_number() over object_history = 1 as is_first,
        lag(writes.bytes) over object_history as bytes_before,
    from storage_writes as writes
    anti join without_effect using (repository, action_id)
    window object_history as (
        partition by writes.repository, writes.epoch_at, writes.object_id order by writes.event_at, writes.action_id
    )
),
judged as (
    select
        compared.*,
        not compared.is_first or held.is_seen as is_seen,
        case when compared.is_first then held.bytes else compared.bytes_before end as bytes_held,
    from compared
    join storage_held as held using (repository, epoch_at, object_id)
)
select
    repository,
    event_at,
    action_id,
    owner,
    epoch_at,
    object_id,
    action,
    version_id,
    bytes,
    case
        when is_seen then bytes - bytes_held
        when action not in ('delete', 'delete_version') then bytes
    end as delta,
    true as sets_bytes,
from judged
union all by name
select
    repository,
    event_at,
    action_id,
    owner,
    epoch_at,
    object_id,
    action,
    version_id,
    null::bigint as bytes,
    0::bigint as delta,
    false as sets_bytes,
from storage_writes
semi join without_effect using (repository, action_id)
