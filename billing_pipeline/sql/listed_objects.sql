-- core/storage_objects of one inventory. Grain: object, version. From: listed_versions. Parameter all_versions, as in
-- listed_repositories.
select
    repository,
    object_id,
    version_id,
    bytes,
    is_latest as is_current,
from listed_versions
where not is_delete_marker and ($all_versions or is_latest)
