-- listed_versions. Grain: object, version, content: one row where an inventory lists it any number of times. From: listed (position,
-- repository, owner, object_id, version_id, is_latest, is_delete_marker, bytes).
create or replace temp table listed_versions as
select
    object_id,
    version_id,
    repository,
    min(owner) as owner,
    is_latest,
    is_delete_marker,
    bytes,
    count(*) as copies,
from listed
group by object_id, version_id, repository, is_latest, is_delete_marker, bytes
