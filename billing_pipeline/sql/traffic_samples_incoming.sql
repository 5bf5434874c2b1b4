-- Temporary table incoming. Grain: one sample that was read, of the snapshots that are new. From: draft_samples, draft_snapshots.
create or replace temporary table incoming as
select
    draft_snapshots.env,
    draft_snapshots.node,
    draft_samples.account_uuid,
    draft_samples.inbound_tag,
    draft_snapshots.collected_at,
    draft_samples.uplink_bytes,
    draft_samples.downlink_bytes,
    draft_snapshots.uptime_seconds,
    draft_snapshots.xray_version,
    draft_snapshots.source,
    draft_snapshots.file_id,
    draft_samples.line_number
from draft_samples
inner join draft_snapshots using (snapshot_number)
