-- PostgreSQL. Grain: event day. What a day's usage is made of, and what it was last built from.
-- Parameter days; null: every day that has accepted files or was built. From: core, usage.build, usage.build_file.
--
-- inputs_digest: over source, content, profile version, reader and records of the day of every accepted file, and what people
-- decided about the day's conflicts. A decision that the build takes by itself follows from these and is left out.
with
files as (
    select
        file_day.event_day,
        file_day.accepted_rows,
        file.file_id,
        concat_ws(
            E'\t',
            'file',
            file.source,
            file.content_sha256,
            coalesce(file.profile_version, 0),
            coalesce(file.read_with, ''),
            file_day.accepted_rows
        ) as line
    from core.source_file_day as file_day
    join core.source_file as file using (file_id)
    where
        file.status = 'accepted'
        and file.dataset = %(dataset)s
        and (%(days)s::date[] is null or file_day.event_day = any(%(days)s::date[]))
),
decisions as (
    select distinct
        conflict.event_day,
        concat_ws(
            E'\t', 'decision', conflict.source, conflict.event_id, coalesce(decision.content_sha256, 'none')
        ) as line
    from core.request_conflict as conflict
    join core.request_conflict_decision as decision using (source, event_id)
    where
        decision.actor <> %(own_actor)s
        and (%(days)s::date[] is null or conflict.event_day = any(%(days)s::date[]))
),
builds as (
    select *
    from usage.build
    where asset = %(asset)s and (%(days)s::date[] is null or partition_key = any(%(days)s::date[]))
),
days as (
    select event_day from files
    union
    select partition_key from builds
    union
    select unnest(%(days)s::date[])
),
file_facts as (
    select event_day, sum(accepted_rows)::bigint as file_rows, array_agg(file_id order by file_id) as file_ids
    from files
    group by event_day
),
digests as (
    select
        event_day,
        encode(sha256(convert_to(string_agg(line, E'\n' order by line collate "C"), 'UTF8')), 'hex') as inputs_digest
    from (select event_day, line from files union all select event_day, line from decisions) as lines
    group by event_day
),
generations as (
    select
        generation_day.event_day,
        sum(generation_day.row_count)::bigint as lake_rows,
        jsonb_agg(
            jsonb_build_object(
                'partition', generation.partition_key,
                'generation', generation.generation,
                'uri', generation.uri,
                'rows', generation_day.row_count,
                'conflicts', generation.conflicting_identities
            )
            order by generation.partition_key
        ) as generations
    from core.lake_generation_day as generation_day
    join core.lake_partition as current_generation using (dataset, partition_key, generation)
    join core.lake_generation as generation using (dataset, partition_key, generation)
    where
        generation_day.dataset = %(dataset)s
        and (%(days)s::date[] is null or generation_day.event_day = any(%(days)s::date[]))
    group by generation_day.event_day
),
counted_files as (
    select partition_key as event_day, array_agg(file_id order by file_id) as counted_file_ids
    from usage.build_file
    where asset = %(asset)s and (%(days)s::date[] is null or partition_key = any(%(days)s::date[]))
    group by partition_key
)
select
    days.event_day,
    coalesce(digests.inputs_digest, encode(sha256(''), 'hex')) as inputs_digest,
    coalesce(file_facts.file_rows, 0) as file_rows,
    coalesce(file_facts.file_ids, '{}') as file_ids,
    coalesce(generations.lake_rows, 0) as lake_rows,
    coalesce(generations.generations, '[]') as generations,
    coalesce(counted_files.counted_file_ids, '{}') as counted_file_ids,
    builds.inputs_digest as built_inputs_digest,
    builds.rules_digest as built_rules_digest,
    coalesce(builds.state = 'held', false) as is_held
from days
left join digests using (event_day)
left join file_facts using (event_day)
left join generations using (event_day)
left join counted_files using (event_day)
left join builds on days.event_day = builds.partition_key
order by days.event_day
