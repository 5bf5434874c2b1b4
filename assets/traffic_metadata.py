"""Say on the pages of `core/traffic_samples` and `usage/traffic` what a day's run did: results of the stores -> metadata. Pure."""

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
from assets.plots import Cell, heat_map, hourly_bars
from resources.traffic_day_writer import TrafficDayBuild
from resources.traffic_reader import NodeDay
from resources.traffic_store import DayCollected

_HOURS = range(24)
_DAY_WINDOWS = {"complete": Cell.GOOD, "closed": Cell.CLOSED, "partial": Cell.PARTIAL, "gap": Cell.BAD}


def collection_metadata(collected: DayCollected, *, in_detail: bool) -> Metadata:
    """Return what was read for a day: samples read = kept + duplicate + conflict + rejected; windows as they are now."""
    samples = collected.samples
    metadata = numbers(
        {
            "dagster/row_count": collected.rows,
            "snapshots_new": collected.new_snapshots,
            "snapshots_repeated": collected.repeated_snapshots,
            "samples_read": samples.read,
            "samples_kept": samples.kept,
            "samples_duplicate": samples.duplicate,
            "samples_in_conflict": samples.conflict,
            "samples_rejected": samples.rejected,
            "minutes_missing": sum(one.missing_minutes for one in collected.windows),
        }
    )
    if collected.failures:
        metadata["sources_not_read"] = markdown_table(("source", "why"), sorted(collected.failures.items()))
    if in_detail:
        if collected.windows:
            metadata["hours_covered"] = dg.MetadataValue.md(
                _hours_map(collected.windows, title=f"{collected.day}, UTC")
            )
        metadata["guards"] = verdicts_table(collected.verdicts)
        if collected.uri:
            metadata["lake_file"] = dg.MetadataValue.path(collected.uri)
    return metadata


def coverage_metadata(coverage: Sequence[NodeDay]) -> Metadata:
    """Return the windows of each node on each day of the run, as a table and as a heat map."""
    if not coverage:
        return {}
    rows = [
        (one.node, one.env, one.day, one.complete, one.partial, one.gap, one.closed, one.missing_minutes)
        for one in coverage
    ]
    head = ("node", "env", "day", "complete", "partial", "gap", "closed", "missing minutes")
    metadata = {"coverage": markdown_table(head, rows)}
    days = sorted({one.day for one in coverage})
    if len(days) > 1:
        by_place = {(one.source, one.day): one for one in coverage}
        sources = list(dict.fromkeys(one.source for one in coverage))
        cells = [[_day_cell(by_place.get((source, day))) for day in days] for source in sources]
        names = {one.source: one.node for one in coverage}
        picture = heat_map(
            [names[source] for source in sources],
            cells,
            columns={0: f"{days[0]:%m-%d}", len(days) - 1: f"{days[-1]:%m-%d}"},
            title="Nodes by day",
        )
        metadata["nodes_by_day"] = dg.MetadataValue.md(picture)
    return metadata


def traffic_metadata(build: TrafficDayBuild, *, in_detail: bool) -> Metadata:
    """Return where the samples of an event day went, and how many bytes they come to."""
    metadata = numbers(
        {
            "dagster/row_count": build.usage_rows,
            "samples_read": build.samples_read,
            "samples_billable": build.billable,
            "samples_not_billable": sum(build.not_billable_by_reason.values()),
            "samples_duplicate": build.duplicates,
            "samples_in_conflict": build.conflicts,
            "bytes": sum(build.bytes_by_hour),
            "bytes_suspected_lost": build.suspected_loss_bytes,
            "streams_held": build.held_streams,
            "unknown_identities": build.unknown_identities,
        }
    )
    metadata["state"] = dg.MetadataValue.text(str(build.state))
    if build.not_billable_by_reason:
        metadata["not_billable_by_reason"] = counts_table("reason", "samples", build.not_billable_by_reason)
    if in_detail:
        plot = hourly_bars(build.bytes_by_hour, title=f"Bytes by hour of {build.day}, UTC")
        metadata |= {
            "bytes_by_hour": dg.MetadataValue.md(plot),
            "bytes_by_node": counts_table("node", "bytes", build.bytes_by_node),
            "quantity_by_meter": markdown_table(("meter", "bytes"), sorted(build.quantity_by_meter.items())),
            "biggest_accounts": markdown_table(("account", "bytes"), build.top_accounts[:LISTED_ROWS]),
            "guards": verdicts_table(build.verdicts),
            "inputs_digest": dg.MetadataValue.text(build.inputs_digest),
            "charges_of_this_day": partition_link("billing/charges", build.day),
        }
    return metadata


def _hours_map(windows: Sequence[NodeDay], *, title: str) -> str:
    cells = []
    for one in windows:
        by_hour = dict(one.hours)
        cells.append([_DAY_WINDOWS.get(by_hour.get(hour, ""), Cell.NONE) for hour in _HOURS])
    columns = {hour: f"{hour:02d}" for hour in _HOURS if hour % 6 == 0}
    return heat_map([one.node for one in windows], cells, columns=columns, title=title)


def _day_cell(one: NodeDay | None) -> Cell:
    if one is None:
        return Cell.NONE
    if one.gap:
        return Cell.BAD
    if one.partial:
        return Cell.PARTIAL
    return Cell.CLOSED if one.closed else Cell.GOOD
