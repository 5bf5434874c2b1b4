-- storage_hours. Grain: account, window (an hour, or a part of one that account_cuts end). From: storage_segments, account_cuts.
-- An account's level is a step function: what its segments add and take away, summed up. So the work follows the segments and the
-- hours, never segments x hours; and the result stands beside the segments' own sums as a second way to the same bytes.
create or replace temp table storage_hours as
with
billed as (
    select account_id, segment_start, segment_end, bytes, visibility
    from storage_segments
    where account_id is not null and bytes > 0
),
level_changes as (
    select
        account_id,
        step_at,
        coalesce(sum(change) filter (where visibility = 'private'), 0) as private_change,
        coalesce(sum(change) filter (where visibility = 'public'), 0) as public_change,
        sum(change) as change,
        coalesce(sum(count_change) filter (where visibility = 'private'), 0) as private_count_change,
        coalesce(sum(count_change) filter (where visibility = 'public'), 0) as public_count_change,
        sum(count_change) as count_change,
    from (
        select account_id, segment_start as step_at, visibility, bytes as change, 1 as count_change from billed
        union all
        select account_id, segment_end as step_at, visibility, -bytes as change, -1 as count_change from billed
    ) as changes
    group by account_id, step_at
),
accounts as (
    select distinct account_id from billed
),
bounds as (
    select accounts.account_id, getvariable('day_start') + to_hours(hour::integer) as step_at
    from accounts
    cross join range(24) as hours (hour)
    union
    select account_id, step_at
    from account_cuts
    semi join accounts using (account_id)
    where step_at > getvariable('day_start') and step_at < getvariable('day_start') + interval 1 day
),
windows as (
    select
        account_id,
        step_at,
        lead(step_at, 1, getvariable('day_start') + interval 1 day) over (partition by account_id order by step_at) as window_end,
    from bounds
),
instants as (
    select
        account_id,
        step_at,
        windows.step_at as window_start,
        windows.window_end,
        coalesce(private_change, 0) as private_change,
        coalesce(public_change, 0) as public_change,
        coalesce(change, 0) as change,
        coalesce(private_count_change, 0) as private_count_change,
        coalesce(public_count_change, 0) as public_count_change,
        coalesce(count_change, 0) as count_change,
    from level_changes
    full join windows using (account_id, step_at)
    where step_at < getvariable('day_end')
),
levels as (
    select
        account_id,
        last_value(window_start ignore nulls) over history as window_start,
        last_value(window_end ignore nulls) over history as window_end,
        epoch_us(lead(step_at, 1, getvariable('day_end')) over (partition by account_id order by step_at)) - epoch_us(step_at) as microseconds,
        sum(private_change) over history as private_bytes,
        sum(public_change) over history as public_bytes,
        sum(change) over history as bytes,
        sum(private_count_change) over history as private_count,
        sum(public_count_change) over history as public_count,
        sum(count_change) over history as repository_count,
    from instants
    window history as (partition by account_id order by step_at rows unbounded preceding)
)
select
    account_id,
    window_start as period_start,
    any_value(window_end) as period_end,
    sum(private_bytes * microseconds) as private_bytes,
    sum(public_bytes * microseconds) as public_bytes,
    sum(bytes * microseconds) as bytes,
    max(private_count)::bigint as private_count,
    max(public_count)::bigint as public_count,
    max(repository_count)::bigint as repository_count,
from levels
group by account_id, window_start
