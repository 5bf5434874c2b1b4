-- Grain: fact behind a state, in order of time; facts: how many there are. From: repository_facts (storage_evidence).
-- The facts in $chosen (the snapshot that bytes count from, who said visibility and owner), the object events of $after < at <= $through,
-- what the snapshot lists of their objects, and the parts of uploads that are completed there.
with
changes as (
    select *
    from repository_facts
    where kind = 'object' and not is_part and fact_at > $after and fact_at <= $through
),
behind as (
    select *
    from changes
    union all by name
    select *
    from repository_facts
    where list_contains($chosen, fact_id) or kind = 'listed'
    union all by name
    select parts.*
    from repository_facts as parts
    where
        parts.is_part
        and exists (
            from changes
            where
                changes.name = 'CompleteMultipartUpload'
                and changes.upload_id = parts.upload_id
                and parts.fact_at <= changes.fact_at
                and parts.fact_at >= changes.fact_at - to_days($upload_days)
        )
)
select
    fact_at,
    kind,
    name,
    bytes,
    visibility,
    owner,
    object_id,
    action_id,
    source,
    file_id,
    line_number,
    count(*) over () as facts,
from behind
order by fact_at, kind in ('snapshot', 'missing', 'listed'), kind <> 'snapshot', action_id, object_id, source, file_id, line_number
limit $limit
