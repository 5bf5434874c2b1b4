-- One row: what the guards of the day compare. From: all tables of the day.
-- The integral is made three ways: from the states' lengths; from their changes, each times what is left of the day; by account and hour.
with
read as (
    select
        (select count(*) from day_events) as object_events,
        (select count(*) from visibility_events where event_at >= getvariable('day_start') and event_at < getvariable('day_end'))
            as repository_events,
        (select count(*) from snapshots where snapshot_at >= getvariable('day_start') and snapshot_at < getvariable('day_end'))
            as snapshots,
        (select count(*) from storage_actions) as actions,
        (select coalesce(sum(copies), 0)::bigint from storage_conflicts) as events_in_conflict,
        (select count(*) from storage_conflicts) as conflicts,
        (
            select count(distinct {'repository': repository, 'event': event_id})
            from visibility_events
            where event_at >= getvariable('day_start') and event_at < getvariable('day_end')
        ) as repository_actions,
        (select count(*) from day_snapshots) as repository_snapshots,
),
integrals as (
    select
        coalesce(sum(byte_microseconds), 0) as of_segments,
        coalesce(sum(byte_microseconds) filter (where account_id is not null), 0) as of_accounts,
        coalesce(sum(byte_microseconds) filter (where account_id is not null and visibility = 'private'), 0) as private_of_accounts,
        coalesce(sum(byte_microseconds) filter (where account_id is null and visibility = 'private'), 0) as private_of_nobody,
        coalesce(sum(byte_microseconds) filter (where visibility = 'private'), 0) as private,
        coalesce(sum(byte_microseconds) filter (where visibility = 'public'), 0) as public,
        coalesce(sum(byte_microseconds) filter (where visibility is null), 0) as of_unknown_visibility,
        count(distinct repository_id) as repositories,
        count(*) as segments,
    from storage_segments
),
by_changes as (
    select coalesce(sum(change * microseconds_left), 0) as of_changes
    from (
        select
            bytes::hugeint - coalesce(lag(bytes) over (partition by repository_id order by segment_start), 0) as change,
            epoch_us(getvariable('day_end')) - epoch_us(segment_start) as microseconds_left,
        from storage_states
    ) as changes
),
by_hours as (
    select coalesce(sum(bytes), 0) as of_hours, coalesce(sum(private_bytes), 0) as private_of_hours
    from storage_hours
),
waiting as (
    select
        (select count(*) from storage_deltas where delta is null) as unsized_today,
        coalesce(sum(places.unsized), 0)::bigint as unsized_waiting,
        count(distinct places.repository_id) filter (where places.unsized > 0) as repositories_waiting,
    from tail_places as places
)
select *
from read, integrals, by_changes, by_hours, waiting
