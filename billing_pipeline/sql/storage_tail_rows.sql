-- What is kept of a day for the next one: the rows of the lake's usage/storage_tails. Grain: kind, and the grain of each kind.
-- From: tail_repositories, tail_objects, tail_parts.
select
    'repository' as kind,
    repository,
    raw_bytes as bytes,
    is_anchored,
    has_changed,
    visibility,
    owner,
    unsized,
    began_on,
    snapshot_at as step_at,
    snapshot_source,
    snapshot_id,
    null::varchar as item_id,
    null::varchar as version_id,
    null::bigint as part_number,
from tail_repositories
union all by name
select 'object' as kind, repository, bytes, epoch_at as step_at, object_id as item_id, version_id
from tail_objects
union all by name
select 'part' as kind, repository, bytes, event_at as step_at, upload_id as item_id, action_id as version_id, part_number
from tail_parts
