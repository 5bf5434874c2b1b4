-- PostgreSQL. Grain: event day that has a partition of core/traffic_samples, was built or is in $days, ascending. What a day's traffic is made of, what was
-- derived from it last, and what its usage was last built from. From: core, guards, usage.traffic_day, usage.build.
with
partitions as (
    select partition_key as event_day, generation.generation, generation.uri, generation.file_sha256, generation.row_count
    from core.lake_partition as current_generation
    join core.lake_generation as generation using (dataset, partition_key, generation)
    where current_generation.dataset = %(dataset)s
),
days as (
    select event_day from partitions
    union
    select partition_key from usage.build where asset = %(asset)s
    union
    select unnest(%(days)s::date[])
),
held as (
    select partition_key, array_agg(guard order by guard) as guards
    from guards.verdict
    where asset = %(dataset)s and status = 'held'
    group by partition_key
)
select
    days.event_day as day,
    partitions.generation,
    partitions.uri,
    partitions.file_sha256,
    coalesce(partitions.row_count, 0) as rows,
    coalesce(held.guards, '{}') as held_upstream,
    derived.chain_digest,
    derived.content_digest,
    derived.tail_digest,
    derived.tail_generation,
    coalesce(derived.nodes, '[]') as nodes,
    coalesce(following.early_holds, '[]') as held_after,
    tail.uri as tail_uri,
    build.inputs_digest as built_inputs_digest,
    build.rules_digest as built_rules_digest,
    coalesce(build.state = 'held', false) as is_held
from days
left join partitions using (event_day)
left join held on held.partition_key = days.event_day::text
left join usage.traffic_day as derived using (event_day)
left join usage.traffic_day as following on following.event_day = days.event_day + 1
left join core.lake_generation as tail
    on tail.dataset = %(tails)s
    and tail.partition_key = derived.event_day
    and tail.generation = derived.tail_generation
left join usage.build as build on build.asset = %(asset)s and build.partition_key = days.event_day
order by days.event_day
