-- storage_drifts. Grain: repository, snapshot that says something else than the events before it. From: storage_steps.
-- What events gave is what was shown: never less than nothing. A drift is a failure where no unsized event explains it and it is more than drift_millionths of the larger side.
create or replace temp table storage_drifts as
select
    repository,
    step_at as snapshot_at,
    case when before_is_anchored then greatest(before_bytes, 0) end as derived_bytes,
    anchor_bytes as snapshot_bytes,
    case when before_is_anchored then anchor_bytes - greatest(before_bytes, 0) else 0 end as drift_bytes,
    before_visibility as derived_visibility,
    said_visibility as snapshot_visibility,
    coalesce(before_visibility <> said_visibility, false) as visibility_mismatch,
    before_unsized::bigint as unsized_events,
    is_missing,
    before_is_anchored
        and before_unsized = 0
        and abs(anchor_bytes::hugeint - greatest(before_bytes, 0)) * 1_000_000
            > greatest(anchor_bytes, before_bytes)::hugeint * getvariable('drift_millionths') as is_failure,
from storage_steps
where rank = 1 and (before_is_anchored and anchor_bytes <> greatest(before_bytes, 0) or coalesce(before_visibility <> said_visibility, false))
