-- Grain: fact behind a state, in order of time; facts: how many there are. From: repository_facts, spans (storage_evidence).
-- The facts in $chosen (the snapshots that bytes count from, who said visibility and owner), the object events of each bucket in its
-- span, after_at < at <= through_at, what snapshots list of their objects, and the parts of uploads that are completed there.
with
changes as (
    select facts.*
    from repository_facts as facts
    join spans using (bucket)
    where facts.kind = 'object' and not facts.is_part and facts.fact_at > spans.after_at and facts.fact_at <= spans.through_at
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
                and changes.bucket = parts.bucket
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
