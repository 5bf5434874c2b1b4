-- storage_levels. Grain: repository, instant and rank: what it holds in all of its buckets together. From: storage_steps. Only where
-- several buckets are measured; elsewhere a repository is its only place.
create or replace temp table storage_levels as
with
changes as (
    select
        places.repository_id,
        steps.step_at,
        steps.rank,
        steps.bytes::hugeint - coalesce(lag(steps.bytes) over history, 0) as change,
        (coalesce(steps.basis = 1, false)::integer - coalesce(lag(steps.basis) over history = 1, false)::integer) as events,
        (coalesce(steps.basis = 2, false)::integer - coalesce(lag(steps.basis) over history = 2, false)::integer) as carried_back,
        (coalesce(steps.basis = 3, false)::integer - coalesce(lag(steps.basis) over history = 3, false)::integer) as no_snapshot,
        (coalesce(steps.basis, -1) >= 0)::integer - (coalesce(lag(steps.basis) over history, -1) >= 0)::integer as known,
    from storage_steps as steps
    join places using (place_id)
    window history as (partition by steps.place_id order by steps.step_at, steps.rank)
),
merged as (
    select
        repository_id,
        step_at,
        rank,
        sum(change) as change,
        sum(events) as events,
        sum(carried_back) as carried_back,
        sum(no_snapshot) as no_snapshot,
        sum(known) as known,
    from changes
    group by repository_id, step_at, rank
)
select
    repository_id,
    step_at,
    rank,
    least(sum(change) over history, 9223372036854775807)::bigint as bytes,
    -- where buckets differ, what is known least of
    case
        when sum(no_snapshot) over history > 0 then 3
        when sum(carried_back) over history > 0 then 2
        when sum(events) over history > 0 then 1
        when sum(known) over history > 0 then 0
    end as basis,
from merged
window history as (partition by repository_id order by step_at, rank rows unbounded preceding)
