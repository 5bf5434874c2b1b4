-- What is kept of a day for the next one: the rows of the lake's usage/storage_tails. Grain: kind, and the grain of each kind.
-- From: tail_places, tail_objects, tail_parts, places.
select
    'place' as kind,
    places.repository,
    places.bucket,
    tail_places.raw_bytes as bytes,
    tail_places.is_anchored,
    tail_places.has_changed,
    tail_places.unsized,
    tail_places.visibility,
    tail_places.owner,
    tail_places.began_on,
    tail_places.repository_began_on,
    tail_places.fresh_until,
    tail_places.snapshot_at,
    tail_places.snapshot_source,
    tail_places.listed_by,
    tail_places.index_at,
    tail_places.index_source,
    tail_places.index_id,
    tail_places.index_is_listed,
    null::varchar as item_id,
    null::varchar as version_id,
    null::bigint as part_number,
from tail_places
join places using (place_id)
union all by name
select
    'object' as kind,
    places.repository,
    places.bucket,
    tail_objects.bytes,
    tail_objects.epoch_at as index_at,
    tail_objects.object_id as item_id,
    tail_objects.version_id,
from tail_objects
join places using (place_id)
union all by name
select
    'part' as kind,
    places.repository,
    places.bucket,
    tail_parts.bytes,
    tail_parts.event_at as snapshot_at,
    tail_parts.upload_id as item_id,
    tail_parts.action_id as version_id,
    tail_parts.part_number,
from tail_parts
join places using (place_id)
