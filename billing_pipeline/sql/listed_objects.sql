-- core/storage_objects of one inventory. Grain: object, version. From: listed_versions. Parameter all_versions, as in
-- listed_repositories. Where every version is sold, each is an object of its own (storage_profile.version_object_id).
select
    repository,
    case
        when $all_versions then left(sha256(object_id || '|' || coalesce(version_id, '')), 32)
        else object_id
    end as object_id,
    version_id,
    bytes,
    is_latest as is_current,
from listed_versions
where not is_delete_marker and ($all_versions or is_latest)
