-- PostgreSQL. Grain: event day, without gaps from the first evidence, or first_day, to the last, or last_day. What a day's storage is made of,
-- what it left to the next day, and what it was last built from.
--
-- own_digest: over the accepted files of storage's sources that have rows on the day. bases_digest: over what builds of later days
-- have found about repositories that had begun by the day. listing_digest: over the object listings of snapshots of the day.
-- snapshots: [source, snapshot_id, instant, bucket] that count on the day; one that lists nothing has no row in the lake.
-- held_deliveries: [dataset, delivery day, guard, inputs digest] that hold deliveries of the day, or with rows of it, unreleased.
with
files as (
    select
        file_day.event_day,
        concat_ws(
            E'\t', file.source, file.content_sha256, coalesce(file.profile_version, 0), coalesce(file.read_with, ''), file_day.accepted_rows
        ) as line
    from core.source_file_day as file_day
    join core.source_file as file using (file_id)
    where file.status = 'accepted' and file.source = any(%(sources)s)
),
taken_snapshots as (
    select
        (snapshot_at at time zone 'UTC')::date as event_day,
        jsonb_agg(
            jsonb_build_array(
                source, snapshot_id, to_char(snapshot_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), bucket
            )
            order by snapshot_at, source collate "C"
        ) as snapshots
    from core.storage_snapshot
    where status = 'accepted' and source = any(%(sources)s)
    group by (snapshot_at at time zone 'UTC')::date
),
extent as (
    select
        least(min(day), %(first_day)s::date) as first_day,
        greatest(max(day), %(last_day)s::date) as last_day
    from (
        select event_day as day from files
        union all
        select event_day as day from taken_snapshots
        union all
        select partition_key as day from usage.build where asset = %(asset)s
    ) as days
),
days as (
    select day::date as event_day
    from extent
    cross join generate_series(first_day::timestamp, last_day::timestamp, interval '1 day') as day
),
own as (
    select
        event_day,
        encode(sha256(convert_to(string_agg(line, E'\n' order by line collate "C"), 'UTF8')), 'hex') as own_digest
    from files
    group by event_day
),
generations as (
    select
        generation_day.event_day,
        jsonb_agg(
            jsonb_build_object(
                'dataset', generation.dataset,
                'partition', generation.partition_key,
                'generation', generation.generation,
                'uri', generation.uri,
                'rows', generation_day.row_count
            )
            order by generation.dataset, generation.partition_key
        ) as generations,
        string_agg(
            concat_ws(E'\t', generation.partition_key, generation.inputs_digest, generation_day.row_count),
            E'\n' order by generation.partition_key
        ) filter (where generation.dataset = 'core/storage_objects') as listing_lines
    from core.lake_generation_day as generation_day
    join core.lake_partition as current_generation using (dataset, partition_key, generation)
    join core.lake_generation as generation using (dataset, partition_key, generation)
    where
        generation_day.dataset in (
            'core/storage_snapshots', 'core/storage_objects', 'core/object_events', 'core/visibility_events'
        )
    group by generation_day.event_day
),
held as (
    select verdict.asset, verdict.partition_key::date as delivery_day, verdict.guard, verdict.inputs_digest
    from guards.verdict as verdict
    where
        verdict.asset in ('core/storage_snapshots', 'core/object_events', 'core/visibility_events')
        and verdict.status = 'held'
        and not exists (
            select from guards.release as release
            where
                release.asset = verdict.asset
                and release.partition_key = verdict.partition_key
                and release.guard = verdict.guard
                and release.inputs_digest = verdict.inputs_digest
        )
),
held_deliveries as (
    select
        event_day,
        jsonb_agg(jsonb_build_array(asset, delivery_day, guard, inputs_digest) order by asset, delivery_day, guard)
            as held_deliveries
    from (
        select delivery_day as event_day, held.* from held
        union
        select generation_day.event_day, held.*
        from held
        join core.lake_partition as current_generation
            on current_generation.dataset = held.asset and current_generation.partition_key = held.delivery_day
        join core.lake_generation_day as generation_day using (dataset, partition_key, generation)
    ) as reached
    group by event_day
),
bases as (
    select
        days.event_day,
        encode(
            sha256(
                convert_to(
                    string_agg(
                        concat_ws(
                            E'\t',
                            base.repository,
                            base.bucket,
                            base.event_day,
                            coalesce(base.base_bytes::text, '-'),
                            coalesce(base.base_visibility, '-'),
                            coalesce(base.base_owner, '-')
                        ),
                        E'\n' order by base.repository collate "C", base.bucket collate "C", base.event_day
                    ),
                    'UTF8'
                )
            ),
            'hex'
        ) as bases_digest
    from days
    join usage.storage_base as base on base.began_on <= days.event_day and base.event_day > days.event_day
    group by days.event_day
)
select
    days.event_day as day,
    coalesce(own.own_digest, '') as own_digest,
    coalesce(bases.bases_digest, '') as bases_digest,
    encode(sha256(convert_to(coalesce(generations.listing_lines, ''), 'UTF8')), 'hex') as listing_digest,
    coalesce(generations.generations, '[]') as generations,
    coalesce(taken_snapshots.snapshots, '[]') as snapshots,
    coalesce(held_deliveries.held_deliveries, '[]') as held_deliveries,
    tail.tail_digest,
    tail_generation.uri as tail_uri,
    coalesce(tail.index_days, '{}') as index_days,
    build.inputs_digest as built_inputs_digest,
    build.rules_digest as built_rules_digest,
    coalesce(build.state = 'held', false) as is_held
from days
left join own using (event_day)
left join bases using (event_day)
left join generations using (event_day)
left join taken_snapshots using (event_day)
left join held_deliveries using (event_day)
left join usage.storage_tail as tail using (event_day)
left join core.lake_partition as tail_partition
    on tail_partition.dataset = 'usage/storage_tails' and tail_partition.partition_key = days.event_day
left join core.lake_generation as tail_generation using (dataset, partition_key, generation)
left join usage.build as build on build.asset = %(asset)s and build.partition_key = days.event_day
order by days.event_day
