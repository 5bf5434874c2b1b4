-- day_snapshots. Grain: repository, instant. From: snapshots of the day. Of two at one instant, the first by source and snapshot.
create or replace temp table day_snapshots as
select repository, snapshot_at, source, snapshot_id, visibility, owner, bytes
from snapshots
where snapshot_at >= getvariable('day_start') and snapshot_at < getvariable('day_end')
qualify row_number() over (partition by repository, snapshot_at order by source, snapshot_id, bytes, visibility, owner) = 1;

-- missing_listings. Grain: repository, snapshot that should name it and does not: sources in complete_sources name all that exists.
create or replace temp table missing_listings as
with
listings as (
    select source, snapshot_id, snapshot_at
    from day_snapshots
    semi join complete_sources using (source)
    group by source, snapshot_id, snapshot_at
),
named as (
    select repository, source, snapshot_at
    from day_snapshots
    semi join complete_sources using (source)
    union all
    select repository, snapshot_source as source, snapshot_at
    from tail_repositories
    where snapshot_source in (select source from complete_sources)
)
select named.repository, listings.snapshot_at, min(listings.source) as source, min(listings.snapshot_id) as snapshot_id
from listings
join named on listings.source = named.source and named.snapshot_at < listings.snapshot_at
anti join day_snapshots
    on named.repository = day_snapshots.repository and listings.snapshot_at = day_snapshots.snapshot_at
group by named.repository, listings.snapshot_at;

-- epochs. Grain: repository, snapshot that its object index may come from: the last before the day, and those of the day.
create or replace temp table epochs as
select repository, snapshot_at, source, snapshot_id from day_snapshots
union all
select repository, snapshot_at, source, snapshot_id from missing_listings
union all
select repository, snapshot_at, snapshot_source as source, snapshot_id from tail_repositories where snapshot_at is not null
