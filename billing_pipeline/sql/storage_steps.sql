-- storage_steps. Grain: repository, instant, and there the events (rank 0) before the snapshot (rank 1); rank -1 is how the day begins.
-- From: tail_repositories, storage_deltas, visibility_events and snapshots of the day, missing_listings (repositories that a complete
-- snapshot does not name). R1, R4: a snapshot anchors bytes from its instant on.
--
-- raw_bytes of a repository without a snapshot count from 0; so they can be below 0, as can derived ones. before_*: what the step
-- found. new_*: what nobody had said before (R5), to be carried back. visibility_hint: what is assumed of a snapshot's repositories
-- (assumed_visibilities, by source); any word about one outdoes it.
create or replace temp table storage_steps as
with
facts as (
    select
        repository,
        event_at as step_at,
        0 as rank,
        sum(delta) as delta,
        count(*) filter (where delta is null) as unsized,
        arg_min(owner, action_id) filter (where owner is not null) as owner_hint,
        null::varchar as visibility,
        null::varchar as visibility_hint,
        null::varchar as owner,
        null::bigint as anchor_bytes,
        false as is_missing,
    from storage_deltas
    group by repository, event_at
    union all by name
    select
        repository,
        event_at as step_at,
        0 as rank,
        max_by(value, {'id': event_id, 'value': value}) filter (where kind = 'visibility') as visibility,
        max_by(value, {'id': event_id, 'value': value}) filter (where kind = 'owner') as owner,
    from visibility_events
    where event_at >= getvariable('day_start') and event_at < getvariable('day_end')
    group by repository, event_at
    union all by name
    select
        repository,
        snapshot_at as step_at,
        1 as rank,
        day_snapshots.visibility,
        assumed_visibilities.visibility as visibility_hint,
        owner,
        bytes as anchor_bytes,
        false as is_missing,
    from day_snapshots
    left join assumed_visibilities using (source)
    union all by name
    select repository, snapshot_at as step_at, 1 as rank, 0 as anchor_bytes, true as is_missing
    from missing_listings
),
-- object events and visibility events of one instant are one step
merged as (
    select
        repository,
        step_at,
        rank,
        coalesce(sum(delta), 0) as delta,
        coalesce(sum(unsized), 0)::bigint as unsized,
        max(owner_hint) as owner_hint,
        max(visibility) as visibility,
        max(visibility_hint) as visibility_hint,
        max(owner) as owner,
        max(anchor_bytes) as anchor_bytes,
        bool_or(coalesce(is_missing, false)) as is_missing,
        false as is_known,
        false as was_anchored,
        false as had_changed,
    from facts
    group by repository, step_at, rank
    union all by name
    select
        repository,
        getvariable('day_start') as step_at,
        -1 as rank,
        0 as delta,
        unsized,
        visibility,
        owner,
        raw_bytes as anchor_bytes,
        false as is_missing,
        true as is_known,
        is_anchored as was_anchored,
        has_changed as had_changed,
    from tail_repositories
),
anchored as (
    select
        *,
        sum((rank = 1)::integer) over history as anchor_number,
        first_value(is_known) over history as was_known,
        first_value(was_anchored) over history as began_anchored,
        first_value(step_at) over history as first_at,
        coalesce(
            last_value(visibility ignore nulls) over history, first_value(visibility_hint ignore nulls) over history
        ) as visibility_now,
        coalesce(
            last_value(owner ignore nulls) over history, first_value(owner_hint ignore nulls) over history
        ) as owner_now,
    from merged
    window history as (partition by repository order by step_at, rank rows unbounded preceding)
),
levels as (
    select
        *,
        -- storage_beyond keeps it below 2^63; below 0 nothing is shown of it
        greatest(
            coalesce(first_value(anchor_bytes) over since_anchor, 0) + sum(delta) over since_anchor, -9223372036854775807
        )::bigint as raw_bytes,
        sum(unsized) over since_anchor as unsized_now,
        began_anchored or anchor_number > 0 as is_anchored,
        bool_or(rank = 0 or had_changed) over since_anchor as has_changed,
    from anchored
    window since_anchor as (partition by repository, anchor_number order by step_at, rank rows unbounded preceding)
),
compared as (
    select
        *,
        coalesce(lag(raw_bytes) over history, 0) as before_bytes,
        coalesce(lag(is_anchored) over history, false) as before_is_anchored,
        coalesce(lag(unsized_now) over history, 0) as before_unsized,
        lag(visibility_now) over history as before_visibility,
        lag(owner_now) over history as before_owner,
    from levels
    window history as (partition by repository order by step_at, rank)
)
select
    repository,
    step_at,
    rank,
    raw_bytes,
    is_anchored,
    has_changed,
    visibility_now as visibility,
    owner_now as owner,
    unsized_now as unsized,
    was_known,
    first_at,
    anchor_bytes,
    is_missing,
    before_bytes,
    before_is_anchored,
    before_unsized,
    before_visibility,
    visibility as said_visibility,
    case when rank = 1 and not before_is_anchored then anchor_bytes - before_bytes end as new_bytes,
    case
        when rank >= 0 and before_visibility is null and visibility_now is not null
            then
                case
                    when rank = 1 then visibility_now
                    -- an event that nothing precedes says nothing about what was before
                    when not was_known and step_at = first_at then null
                    when visibility_now = 'public' then 'private'
                    else 'public'
                end
    end as new_visibility,
    case
        when rank >= 0 and before_owner is null and owner_now is not null and (rank = 1 or owner is null) then owner_now
    end as new_owner,
from compared
