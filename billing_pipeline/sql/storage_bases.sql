-- storage_bases. Grain: repository: how it was before anything had said so (R5), as found on this day or, where not, later.
-- From: storage_steps, later_bases (repository, base_bytes, base_visibility, base_owner: found by the builds of later days).
create or replace temp table storage_bases as
with
found as (
    select
        repository,
        max(new_bytes) as base_bytes,
        max(new_visibility) as base_visibility,
        max(new_owner) as base_owner,
    from storage_steps
    where new_bytes is not null or new_visibility is not null or new_owner is not null
    group by repository
)
select
    repository,
    coalesce(found.base_bytes, later_bases.base_bytes) as base_bytes,
    coalesce(found.base_visibility, later_bases.base_visibility) as base_visibility,
    coalesce(found.base_owner, later_bases.base_owner) as base_owner,
    found.base_bytes as found_bytes,
    found.base_visibility as found_visibility,
    found.base_owner as found_owner,
from found
full join later_bases using (repository)
