-- snapshot_words. Grain: active repository, instant of snapshots. Of several buckets the first that says it. Only where several buckets are
-- measured; elsewhere a repository has one snapshot at an instant. From: day_snapshots, assumed_visibilities.
create or replace temp table snapshot_words as
select
    snapshots.repository_id,
    snapshots.snapshot_at as step_at,
    arg_min(snapshots.visibility, places.bucket) filter (where snapshots.visibility is not null) as visibility,
    arg_min(assumed.visibility, places.bucket) filter (where assumed.visibility is not null) as visibility_hint,
    arg_min(snapshots.owner, places.bucket) filter (where snapshots.owner is not null) as owner,
from day_snapshots as snapshots
semi join active_repositories using (repository_id)
join places using (place_id)
left join assumed_visibilities as assumed using (source)
group by snapshots.repository_id, snapshots.snapshot_at
