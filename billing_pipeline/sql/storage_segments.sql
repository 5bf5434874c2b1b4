-- storage_segments. Grain: repository, state of the day, in one account. From: storage_steps, storage_bases, owner_windows (owner,
-- window_start, window_end, account_id: whose client the owner is, without gaps over the day).
-- Bytes x microseconds are HUGEINT: 10^15 bytes over a month are 2.7 x 10^27, of 1.7 x 10^38.
create or replace temp table storage_states as
with
-- before its first evidence a repository has a state too, from midnight on
points as (
    select
        repository, step_at, rank, raw_bytes, is_anchored, has_changed, visibility, owner, false as is_before_evidence
    from storage_steps
    union all by name
    select
        repository,
        getvariable('day_start') as step_at,
        -1 as rank,
        0 as raw_bytes,
        false as is_anchored,
        false as has_changed,
        null as visibility,
        null as owner,
        true as is_before_evidence,
    from storage_steps
    where not was_known
    group by repository
),
shown as (
    select
        points.repository,
        points.step_at,
        points.is_before_evidence,
        greatest(
            0, points.raw_bytes::hugeint + case when points.is_anchored then 0 else coalesce(bases.base_bytes, 0) end
        )::bigint as bytes,
        coalesce(points.visibility, bases.base_visibility) as visibility,
        coalesce(points.owner, bases.base_owner) as owner,
        case
            when points.is_anchored and points.has_changed then 'events'
            when points.is_anchored then 'snapshot'
            when bases.base_bytes is null then 'no_snapshot'
            else 'carried_back'
        end as basis,
        lead(points.step_at, 1, getvariable('day_end')) over (partition by points.repository order by points.step_at, points.rank) as next_at,
    from points
    left join storage_bases as bases using (repository)
),
changes as (
    select
        *,
        lag({'bytes': bytes, 'visibility': visibility, 'owner': owner, 'basis': basis}) over history
            is distinct from {'bytes': bytes, 'visibility': visibility, 'owner': owner, 'basis': basis} as is_change,
    from shown
    where step_at < next_at and not (is_before_evidence and bytes = 0)
    window history as (partition by repository order by step_at)
)
select
    repository,
    step_at as segment_start,
    lead(step_at, 1, getvariable('day_end')) over (partition by repository order by step_at) as segment_end,
    bytes,
    visibility,
    owner,
    basis,
from changes
where is_change;

create or replace temp table storage_segments as
select
    states.repository,
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
