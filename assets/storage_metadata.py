"""Say on the pages of the storage assets what a day's run did: results of the stores -> metadata. Pure."""

from collections.abc import Sequence

import dagster as dg

from assets.metadata import (
    LISTED_ROWS,
    Metadata,
    counts_table,
    markdown_table,
    numbers,
    partition_link,
    verdicts_table,
)
from assets.timeline_plot import timeline_picture
from resources.storage_day import StorageDayIngest
from resources.storage_usage_store import StorageDayBuild
from resources.timeline_reader import RepositoryTimeline, TimelineDrift


def delivery_metadata(ingest: StorageDayIngest, *, in_detail: bool) -> Metadata:
    """Return what became of a delivery day's rows: rows in = accepted + rejected + duplicate + out of scope."""
    counts = ingest.counts
    metadata = numbers(
        {
            "dagster/row_count": ingest.rows,
            "files": len(ingest.files),
            "rows_read": counts.lines_read,
            "rows_accepted": counts.accepted,
            "rows_rejected": counts.rejected,
            "rows_duplicate": counts.duplicate,
            "rows_out_of_scope": counts.out_of_scope,
        }
    )
    if ingest.rejected_by_reason:
        metadata["rejected_by_reason"] = counts_table("reason", "rows", ingest.rejected_by_reason)
    if in_detail:
        metadata["guards"] = verdicts_table(ingest.verdicts)
        if ingest.event_days:
            metadata["event_days"] = counts_table("event day", "rows", ingest.event_days)
        if aside := [(file.key, file.status, file.reason or "") for file in ingest.files if file.status != "accepted"]:
            metadata["files_not_taken"] = markdown_table(("file", "status", "reason"), aside[:LISTED_ROWS])
        if ingest.uri:
            metadata["lake_file"] = dg.MetadataValue.path(ingest.uri)
    return metadata


def storage_metadata(build: StorageDayBuild, *, in_detail: bool) -> Metadata:
    """Return how many repositories held how much for how long on an event day, and what does not agree."""
    metadata = numbers(
        {
            "dagster/row_count": build.usage_rows,
            "repositories": build.repositories,
            "repositories_rebuilt": build.rebuilt,
            "events_read": build.events_read,
            "snapshots_read": build.snapshots_read,
            "events_duplicate": build.duplicates,
            "events_without_size": build.unsized_waiting,
            "drift_failures": build.drift_failures,
            "visibility_mismatches": build.visibility_mismatches,
        }
    )
    metadata["state"] = dg.MetadataValue.text(str(build.state))
    if in_detail:
        held = (
            ("private", build.private_byte_seconds),
            ("public", build.public_byte_seconds),
            ("private, nobody pays", build.unbilled_byte_seconds),
        )
        metadata |= {
            "byte_seconds": markdown_table(("what", "byte-seconds"), held),
            "biggest_accounts": markdown_table(("account", "private byte-seconds"), build.top_accounts[:LISTED_ROWS]),
            "guards": verdicts_table(build.verdicts),
            "inputs_digest": dg.MetadataValue.text(build.inputs_digest),
            "charges_of_this_day": partition_link("billing/charges", build.day),
        }
    return metadata


def timeline_metadata(timeline: RepositoryTimeline | str | None, drifts: Sequence[TimelineDrift]) -> Metadata:
    """Return the picture of a repository, or why there is none, and where the day's snapshots disagree with events."""
    metadata: Metadata = {}
    if timeline is not None:
        shown = timeline if isinstance(timeline, str) else timeline_picture(timeline)
        metadata["timeline"] = dg.MetadataValue.md(shown)
    if drifts:
        metadata["drifts"] = markdown_table(
            ("repository", "snapshot", "events gave", "snapshot says", "drift", "visibility", "events without size"),
            [
                (
                    one.repository,
                    f"{one.snapshot_at:%H:%M:%S}" + (" (not named)" if one.is_missing else ""),
                    "nothing" if one.derived_bytes is None else one.derived_bytes,
                    one.snapshot_bytes,
                    one.drift_bytes,
                    f"{one.derived_visibility}, now {one.snapshot_visibility}" if one.visibility_mismatch else "",
                    one.unsized_events,
                )
                for one in drifts
            ],
        )
    return metadata
