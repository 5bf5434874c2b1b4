-- core/storage_snapshots of one inventory. Grain: repository. From: listed_versions. Parameter all_versions: sum every version
-- that is kept, not only the current one. A repository of which nothing is left but markers or old versions has 0 bytes.
select
    repository,
    min(owner) as owner,
    coalesce(sum(bytes) filter (where not is_delete_marker and ($all_versions or is_latest)), 0) as bytes,
    count(*) filter (where not is_delete_marker and ($all_versions or is_latest)) as object_count,
from listed_versions
group by repository
