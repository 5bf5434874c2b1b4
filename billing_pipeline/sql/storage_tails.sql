-- The next day's tail_repositories, tail_objects and tail_parts. Grain: repository; repository and object; repository, upload and part.
-- From: storage_steps, storage_deltas, storage_held, storage_parts, epochs, and the tails of the day before.
-- Objects are remembered since the repository's last snapshot alone, so that a late event changes nothing behind the next one.
create or replace temp table next_repositories as
with
last_steps as (
    select
        repository,
        arg_max(
            {
                'raw_bytes': raw_bytes,
                'is_anchored': is_anchored,
                'has_changed': has_changed,
                'visibility': visibility,
                'owner': owner,
                'unsized': unsized::bigint,
            },
            {'step_at': step_at, 'rank': rank}
        ) as state,
    from storage_steps
    group by repository
),
last_snapshots as (
    select
        repository,
        max(snapshot_at) as snapshot_at,
        arg_max(source, snapshot_at) as snapshot_source,
        arg_max(snapshot_id, snapshot_at) as snapshot_id,
    from epochs
    group by repository
)
select
    last_steps.repository,
    last_steps.state.raw_bytes,
    last_steps.state.is_anchored,
    last_steps.state.has_changed,
    last_steps.state.visibility,
    last_steps.state.owner,
    last_steps.state.unsized,
    -- when it began matters until nothing of how it was before can be found any more; so a late event before its first evidence
    -- changes no day behind its first snapshot
    case
        when last_steps.state.is_anchored and last_steps.state.visibility is not null and last_steps.state.owner is not null then null
        else coalesce(tail_repositories.began_on, getvariable('day_start')::date)
    end as began_on,
    last_snapshots.snapshot_at,
    last_snapshots.snapshot_source,
    last_snapshots.snapshot_id,
from last_steps
left join tail_repositories using (repository)
left join last_snapshots using (repository);

create or replace temp table next_objects as
with
in_last_epoch as (
    select deltas.*
    from storage_deltas as deltas
    join next_repositories as repositories using (repository)
    where deltas.epoch_at = coalesce(repositories.snapshot_at, timestamp '0001-01-01') and deltas.sets_bytes
),
-- deleting a version leaves the version that was written last the one that is known
written_last as (
    select
        repository,
        object_id,
        arg_max(
            {'version_id': case when action <> 'delete' then version_id end}, {'step_at': event_at, 'action_id': action_id}
        ) as written,
    from in_last_epoch
    where action <> 'delete_version'
    group by repository, object_id
),
touched as (
    select
        repository,
        object_id,
        any_value(epoch_at) as epoch_at,
        arg_max({'bytes': bytes}, {'step_at': event_at, 'action_id': action_id}) as held,
    from in_last_epoch
    group by repository, object_id
)
select
    touched.repository,
    touched.epoch_at,
    touched.object_id,
    touched.held.bytes as bytes,
    case when written_last.object_id is not null then written_last.written.version_id else held.version_id end as version_id,
from touched
left join written_last using (repository, object_id)
left join storage_held as held
    on touched.repository = held.repository and touched.object_id = held.object_id and touched.epoch_at = held.epoch_at
union all by name
select tail_objects.repository, tail_objects.epoch_at, tail_objects.object_id, tail_objects.bytes, tail_objects.version_id
from tail_objects
join next_repositories as repositories using (repository)
anti join touched using (repository, object_id)
where tail_objects.epoch_at = coalesce(repositories.snapshot_at, timestamp '0001-01-01');

create or replace temp table next_parts as
select repository, upload_id, part_number, event_at, action_id, bytes
from storage_parts
where event_at >= getvariable('day_end') - to_days(getvariable('upload_days'));

create or replace temp table tail_repositories as select * from next_repositories;
create or replace temp table tail_objects as select * from next_objects;
create or replace temp table tail_parts as select * from next_parts
