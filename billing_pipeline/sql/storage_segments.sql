-- storage_states. Grain: repository, state of the day. From: storage_levels, day_words, snapshot_words, first_words, word_bases, tail_words;
-- of repositories that are not active, tail_places.
create or replace temp table storage_states as
with
-- most repositories are told every day what they were told the day before: that is no step
retold as (
    select repository_id from day_words
    union
    select snapshot_words.repository_id
    from snapshot_words
    left join tail_words using (repository_id)
    where
        (snapshot_words.visibility is not null and snapshot_words.visibility is distinct from tail_words.visibility)
        or (snapshot_words.owner is not null and snapshot_words.owner is distinct from tail_words.owner)
),
points as (
    select
        levels.repository_id, levels.step_at, levels.rank, levels.bytes, levels.basis,
        case when levels.rank = -1 then tail_words.visibility end as visibility,
        case when levels.rank = -1 then tail_words.owner end as owner,
    from storage_levels as levels
    left join tail_words using (repository_id)
    union all by name
    -- of some nothing is known but words
    select repository_id, getvariable('day_start') as step_at, -1 as rank, visibility, owner
    from tail_words
    anti join (select repository_id from storage_levels where rank = -1) as begun using (repository_id)
    union all by name
    select repository_id, event_at as step_at, 0 as rank, visibility, owner
    from day_words
    union all by name
    select repository_id, step_at, 1 as rank, visibility, owner
    from snapshot_words
    semi join retold using (repository_id)
    where visibility is not null or owner is not null
    union all by name
    select repository_id, visibility_place.step_at as step_at, visibility_place.rank as rank, visibility
    from first_words
    where visibility_place.is_hint
    union all by name
    select repository_id, owner_place.step_at as step_at, owner_place.rank as rank, owner
    from first_words
    where owner_place.is_hint
),
-- all that is said at one step is in the last of its points; the others last no time
shown as (
    select
        repository_id,
        step_at,
        lead(step_at, 1, getvariable('day_end')) over (partition by repository_id order by step_at, rank) as next_at,
        last_value(bytes ignore nulls) over history as bytes,
        last_value(basis ignore nulls) over history as basis,
        last_value(visibility ignore nulls) over history as visibility,
        last_value(owner ignore nulls) over history as owner,
    from points
    window history as (partition by repository_id order by step_at, rank rows unbounded preceding)
),
known as (
    select
        shown.repository_id,
        shown.step_at,
        shown.next_at,
        coalesce(shown.bytes, 0) as bytes,
        coalesce(shown.basis, 3) as basis,
        coalesce(shown.visibility, word_bases.base_visibility) as visibility,
        coalesce(shown.owner, word_bases.base_owner) as owner,
    from shown
    left join word_bases using (repository_id)
    where shown.step_at < shown.next_at
),
changes as (
    select
        *,
        lag({'bytes': bytes, 'visibility': visibility, 'owner': owner, 'basis': basis}) over history
            is distinct from {'bytes': bytes, 'visibility': visibility, 'owner': owner, 'basis': basis} as is_change,
    from known
    window history as (partition by repository_id order by step_at)
)
select
    repository_id,
    step_at as segment_start,
    lead(step_at, 1, getvariable('day_end')) over (partition by repository_id order by step_at) as segment_end,
    bytes,
    visibility,
    owner,
    case basis when 0 then 'snapshot' when 1 then 'events' when 2 then 'carried_back' else 'no_snapshot' end as basis,
from changes
where is_change
union all by name
select
    repository_id,
    getvariable('day_start') as segment_start,
    getvariable('day_end') as segment_end,
    least(sum(greatest(0, raw_bytes)), 9223372036854775807)::bigint as bytes,
    any_value(visibility) as visibility,
    any_value(owner) as owner,
    case when bool_or(has_changed and is_anchored) then 'events' else 'snapshot' end as basis,
from tail_places
anti join active_repositories using (repository_id)
group by repository_id;

-- storage_segments. Grain: repository, state of the day, in one account. From: storage_states, owner_windows (owner, window_start, window_end,
-- account_id: whose client the owner is, without gaps over the day).
-- Bytes x microseconds are HUGEINT: 10^15 bytes over a month are 2.7 x 10^27, of 1.7 x 10^38.
create or replace temp table storage_segments as
select
    states.repository_id,
    greatest(states.segment_start, coalesce(windows.window_start, states.segment_start)) as segment_start,
    least(states.segment_end, coalesce(windows.window_end, states.segment_end)) as segment_end,
    states.bytes,
    states.visibility,
    states.owner,
    windows.account_id,
    states.basis,
    states.bytes::hugeint
        * (
            epoch_us(least(states.segment_end, coalesce(windows.window_end, states.segment_end)))
            - epoch_us(greatest(states.segment_start, coalesce(windows.window_start, states.segment_start)))
        ) as byte_microseconds,
from storage_states as states
left join owner_windows as windows
    on
        states.owner = windows.owner
        and states.segment_start < windows.window_end
        and states.segment_end > windows.window_start
