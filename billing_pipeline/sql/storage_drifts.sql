-- storage_drifts. Grain: place, snapshot that says something else than the events before it. From: storage_epochs, storage_words.
-- What events gave is what was shown: never less than nothing. A drift is a failure where no unsized event explains it and it is more
-- than drift_millionths of the larger side.
create or replace temp table storage_drifts as
with
anchors as (
    select
        epochs.place_id,
        places.repository_id,
        epochs.anchor_at,
        epochs.anchor_bytes,
        case when epochs.before_is_anchored then greatest(epochs.before_bytes, 0) end as derived_bytes,
        epochs.before_unsized,
        snapshots.visibility,
        snapshots.place_id is null as is_missing,
    from storage_epochs as epochs
    join places using (place_id)
    left join day_snapshots as snapshots on epochs.place_id = snapshots.place_id and epochs.anchor_at = snapshots.snapshot_at
    where
        epochs.anchor_at > timestamp '0001-01-01'
        and (epochs.anchor_bytes <> greatest(epochs.before_bytes, 0) and epochs.before_is_anchored or snapshots.visibility is not null)
),
said as (
    select repository_id, event_at as said_at, visibility, 0 as rank from day_words where visibility is not null
    union all
    select repository_id, step_at, visibility, 1 as rank from snapshot_words where visibility is not null
    union all
    select repository_id, visibility_place.step_at, visibility, visibility_place.rank from first_words where visibility_place.is_hint
    union all
    select repository_id, timestamp '0001-01-01', visibility, -1 as rank from tail_words where visibility is not null
),
-- the last word before the snapshots of an instant, an event of that instant included
words as (
    select
        anchors.repository_id,
        anchors.anchor_at,
        arg_max(said.visibility, {'said_at': said.said_at, 'rank': said.rank}) as visibility,
    from (select distinct repository_id, anchor_at from anchors) as anchors
    join said on anchors.repository_id = said.repository_id
    where said.said_at < anchors.anchor_at or (said.said_at = anchors.anchor_at and said.rank = 0)
    group by anchors.repository_id, anchors.anchor_at
)
select
    anchors.place_id,
    anchors.anchor_at as snapshot_at,
    anchors.derived_bytes,
    anchors.anchor_bytes as snapshot_bytes,
    coalesce(anchors.anchor_bytes - anchors.derived_bytes, 0) as drift_bytes,
    words.visibility as derived_visibility,
    anchors.visibility as snapshot_visibility,
    coalesce(words.visibility <> anchors.visibility, false) as visibility_mismatch,
    anchors.before_unsized as unsized_events,
    anchors.is_missing,
    coalesce(
        anchors.before_unsized = 0
        and abs(anchors.anchor_bytes::hugeint - anchors.derived_bytes) * 1_000_000
            > greatest(anchors.anchor_bytes, anchors.derived_bytes)::hugeint * getvariable('drift_millionths'),
        false
    ) as is_failure,
from anchors
left join words using (repository_id, anchor_at)
where anchors.anchor_bytes <> anchors.derived_bytes or coalesce(words.visibility <> anchors.visibility, false)
