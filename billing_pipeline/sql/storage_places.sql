-- places. Grain: repository, bucket, for as long as a scan lasts. From: what is said on the day. Adds what was not known before.
-- A place stands for what a repository holds in a bucket; repository_id is the place_id of its first. Where all that is measured is one,
-- every bucket is '' and a place is a repository. What events say of a repository as a whole is of its place ''.
insert into places
with
said as (
    select repository, bucket
    from snapshots
    where snapshot_at >= getvariable('day_start') and snapshot_at < getvariable('day_end')
    union all
    select repository, bucket
    from object_events
    where event_at >= getvariable('day_start') and event_at < getvariable('day_end')
    union all
    select repository, '' as bucket
    from visibility_events
    where event_at >= getvariable('day_start') and event_at < getvariable('day_end')
),
unseen as (
    select distinct repository, bucket
    from said
    anti join places using (repository, bucket)
),
numbered as (
    select
        repository,
        bucket,
        (select count(*) from places) + row_number() over (order by repository, bucket) as place_id,
    from unseen
),
known as (
    select repository, min(repository_id) as repository_id
    from places
    semi join unseen using (repository)
    group by repository
)
select
    numbered.place_id::integer as place_id,
    coalesce(known.repository_id, min(numbered.place_id) over (partition by numbered.repository))::integer as repository_id,
    numbered.repository,
    numbered.bucket,
from numbered
left join known using (repository)
