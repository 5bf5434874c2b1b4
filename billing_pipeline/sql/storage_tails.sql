-- The next day's tail_places, tail_objects and tail_parts. Grain: place; place and object; place, upload and part. From: storage_epochs,
-- storage_words, storage_deltas, day_snapshots, missing_listings, snapshot_ages (source, age_us: how far its snapshots are carried),
-- and the tails of the day before.
-- Objects are remembered since the last object index of their place alone, so that a late event changes nothing behind the next one.
create or replace temp table next_places as
with
day_listings as (
    select
        snapshots.place_id,
        max(snapshots.snapshot_at) as snapshot_at,
        arg_max({'source': snapshots.source, 'id': snapshots.snapshot_id}, snapshots.snapshot_at) as last,
        arg_max({'source': snapshots.source, 'id': snapshots.snapshot_id, 'at': snapshots.snapshot_at}, snapshots.snapshot_at)
            filter (where sources.is_indexed) as last_indexed,
        arg_max(snapshots.source, snapshots.snapshot_at) filter (where sources.is_complete) as listed_by,
        max(snapshots.snapshot_at + to_microseconds(coalesce(sources.age_us, getvariable('default_age_us')))) as fresh_until,
    from (
        select place_id, source, snapshot_id, snapshot_at from day_snapshots
        union all
        select place_id, source, snapshot_id, snapshot_at from missing_listings
    ) as snapshots
    left join snapshot_sources as sources using (source)
    group by snapshots.place_id
),
-- what the last words of each active repository say
said as (
    select
        repository_id,
        arg_max(visibility, {'step_at': step_at, 'rank': rank}) filter (where visibility is not null) as visibility,
        arg_max(owner, {'step_at': step_at, 'rank': rank}) filter (where owner is not null) as owner,
    from (
        select repository_id, event_at as step_at, 0 as rank, visibility, owner from day_words
        union all by name
        select repository_id, step_at, 1 as rank, visibility, owner from snapshot_words
        union all by name
        select repository_id, visibility_place.step_at as step_at, visibility_place.rank as rank, visibility
        from first_words
        where visibility_place.is_hint
        union all by name
        select repository_id, owner_place.step_at as step_at, owner_place.rank as rank, owner
        from first_words
        where owner_place.is_hint
    ) as every_word
    group by repository_id
),
words as (
    select
        coalesce(said.repository_id, tail_words.repository_id) as repository_id,
        coalesce(said.visibility, tail_words.visibility) as visibility,
        coalesce(said.owner, tail_words.owner) as owner,
        case when tail_words.repository_id is null then getvariable('day_start')::date else tail_words.began_on end as began_on,
    from tail_words
    full join said using (repository_id)
),
closed as (
    select
        epochs.place_id,
        places.repository_id,
        epochs.end_bytes as raw_bytes,
        epochs.is_anchored,
        epochs.end_has_changed as has_changed,
        epochs.end_unsized as unsized,
        words.visibility,
        words.owner,
        -- when it began matters until nothing of how it was before can be found any more; so a late event before its first evidence
        -- changes no day behind its first snapshot
        case when not epochs.is_anchored then coalesce(tail_places.began_on, getvariable('day_start')::date) end as began_on,
        case
            when words.visibility is null or words.owner is null then coalesce(words.began_on, getvariable('day_start')::date)
        end as repository_began_on,
        coalesce(tail_places.is_anchored, false) as was_anchored,
        tail_places.fresh_until,
        tail_places.snapshot_at,
        tail_places.snapshot_source,
        tail_places.listed_by,
        tail_places.index_at,
        tail_places.index_source,
        tail_places.index_id,
        tail_places.index_is_listed,
    from storage_epochs as epochs
    join places using (place_id)
    left join words on places.repository_id = words.repository_id
    left join tail_places on epochs.place_id = tail_places.place_id
    where epochs.is_last
    union all by name
    select *, is_anchored as was_anchored
    from tail_places
    anti join active_repositories using (repository_id)
)
select
    closed.* exclude (was_anchored)
    replace (
        case
            when not closed.is_anchored
                then coalesce(closed.fresh_until, getvariable('day_start') + to_microseconds(getvariable('default_age_us')))
            when closed.was_anchored then greatest(closed.fresh_until, listings.fresh_until)
            else listings.fresh_until
        end as fresh_until,
        coalesce(listings.snapshot_at, closed.snapshot_at) as snapshot_at,
        coalesce(listings.last.source, closed.snapshot_source) as snapshot_source,
        coalesce(listings.listed_by, closed.listed_by) as listed_by,
        case
            when listings.last_indexed is not null then listings.last_indexed.at
            when listings.last is null or coalesce(closed.index_is_listed, false) then closed.index_at
            else listings.snapshot_at
        end as index_at,
        case
            when listings.last_indexed is not null then listings.last_indexed.source
            when listings.last is null or coalesce(closed.index_is_listed, false) then closed.index_source
            else listings.last.source
        end as index_source,
        case
            when listings.last_indexed is not null then listings.last_indexed.id
            when listings.last is null or coalesce(closed.index_is_listed, false) then closed.index_id
            else listings.last.id
        end as index_id,
        listings.last_indexed is not null or coalesce(closed.index_is_listed, false) as index_is_listed
    ),
from closed
left join day_listings as listings using (place_id);

create or replace temp table next_objects as
with
in_last_epoch as (
    select deltas.*
    from storage_deltas as deltas
    join next_places using (place_id)
    where deltas.epoch_at = coalesce(next_places.index_at, timestamp '0001-01-01')
),
-- deleting a version leaves the version that was written last the one that is known
touched as (
    select
        place_id,
        object_id,
        any_value(epoch_at) as epoch_at,
        arg_max(bytes, {'step_at': event_at, 'action_id': action_id}) filter (where bytes is not null) as bytes,
        any_value(counted_bytes) as counted_bytes,
        arg_max(
            {'version_id': case when action <> 'delete' then version_id end}, {'step_at': event_at, 'action_id': action_id}
        ) filter (where action <> 'delete_version') as written,
        any_value(held_version_id) as held_version_id,
    from in_last_epoch
    group by place_id, object_id
)
select
    place_id,
    epoch_at,
    object_id,
    coalesce(bytes, counted_bytes) as bytes,
    case when written is not null then written.version_id else held_version_id end as version_id,
from touched
union all by name
select tail_objects.*
from tail_objects
join next_places using (place_id)
anti join touched on tail_objects.place_id = touched.place_id and tail_objects.object_id = touched.object_id
where tail_objects.epoch_at = coalesce(next_places.index_at, timestamp '0001-01-01');

create or replace temp table next_parts as
select place_id, upload_id, part_number, event_at, action_id, bytes
from storage_parts
where event_at >= getvariable('day_end') - to_days(getvariable('upload_days'));

create or replace temp table tail_places as select * from next_places;
create or replace temp table tail_objects as select * from next_objects;
create or replace temp table tail_parts as select * from next_parts
