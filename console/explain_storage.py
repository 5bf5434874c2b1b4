"""Print what stands behind a charge of storage: byte-seconds, hours, states of repositories, and the facts behind these.

Not here: the queries (storage_lineage, storage_evidence), the charge itself (explain_page).
"""

from datetime import datetime
from decimal import Decimal

from rich.console import Console
from rich.markup import escape

from billing_pipeline.timelines import MICROSECOND
from console.arithmetic import exact, plain
from console.explain_origin import origin_text
from console.screen import count
from resources.charge_reader import BookedCharge
from resources.lake import Lake
from resources.runtime import Runtime
from resources.storage_config import load_storage_policy, load_storage_sources
from resources.storage_evidence import StorageFact, read_evidence
from resources.storage_lineage import (
    StorageSegment,
    StorageUsageRow,
    StorageUsageRows,
    read_segments,
    read_storage_rows,
)
from resources.storage_policy import storage_policy

_BASES = {
    "snapshot": "by a snapshot",
    "events": "by a snapshot and events",
    "carried_back": "by a later snapshot, events undone",
    "no_snapshot": "by events alone",
}

# Repository and begin of a state whose facts are printed.
_Shown = set[tuple[str, datetime]]


def print_storage(console: Console, runtime: Runtime, charge: BookedCharge, *, usage_rows: int, lines: int) -> None:
    """Print the level that is priced and the first hours of the charge; of each `lines` states, of each of these `lines` facts."""
    usage = read_storage_rows(runtime.database, charge, limit=usage_rows)
    _print_level(console, charge, usage)
    console.print(
        f"[bold]Usage[/] of meter {escape(charge.meter_id or '')}: {plain(usage.byte_seconds)} byte-seconds in "
        f"{count(usage.rows)} rows; the first {count(len(usage.first))}:"
    )
    shown: _Shown = set()
    for row in usage.first:
        _print_row(console, runtime, usage, row, shown, lines=lines)
    if usage.rows > len(usage.first):
        console.print(f"  … and {count(usage.rows - len(usage.first))} more rows: --rows {usage.rows}")


def _print_level(console: Console, charge: BookedCharge, usage: StorageUsageRows) -> None:
    whole = usage.whole
    console.print(
        f"[bold]Level[/]: {plain(usage.byte_seconds)} byte-seconds / {count(whole.seconds)} seconds of the whole period "
        f"{whole.start:%Y-%m-%d %H:%M:%S} to {whole.end:%Y-%m-%d %H:%M:%S} = {exact(usage.mean_bytes)} byte on average"
        + ("" if charge.unit == "byte" else f", priced as {escape(charge.unit)}")
    )


def _print_row(
    console: Console, runtime: Runtime, usage: StorageUsageRows, row: StorageUsageRow, shown: _Shown, *, lines: int
) -> None:
    segments = read_segments(runtime.database, row, visibility=usage.visibility, limit=lines)
    console.print(
        f"  {row.period_start:%Y-%m-%d %H:%M:%S} to {row.period_end:%H:%M:%S} UTC: {plain(row.quantity)} byte-seconds, at most "
        f"{count(row.repository_count)} repositories at a time"
    )
    for segment in segments.first:
        _print_segment(console, runtime, segment, shown, lines=lines)
    if segments.segments > len(segments.first):
        console.print(f"      … {count(segments.segments)} states in all, {plain(segments.byte_seconds)} byte-seconds")


def _print_segment(console: Console, runtime: Runtime, segment: StorageSegment, shown: _Shown, *, lines: int) -> None:
    is_known = (segment.repository, segment.state_start) in shown
    shown.add((segment.repository, segment.state_start))
    seconds = Decimal((segment.end - segment.start) // MICROSECOND).scaleb(-6)
    console.print(
        f"      {escape(segment.repository)} from {segment.start:%H:%M:%S}: {count(segment.bytes)} byte x {plain(seconds)} s = "
        f"{plain(segment.byte_seconds)}  {segment.visibility or 'visibility unknown'}, owner "
        f"{escape(segment.owner or 'unknown')}, {_BASES[segment.basis]}" + (" (as above)" if is_known else "")
    )
    if is_known:
        return
    settings = runtime.settings
    lake = Lake(settings.lake_url, settings.scratch_dir)
    policy = storage_policy(load_storage_sources(settings.catalog_dir), load_storage_policy(settings.catalog_dir))
    evidence = read_evidence(runtime.database, lake, settings.scratch_dir, segment, limit=lines, policy=policy)
    actions: set[str] = set()
    for fact in evidence.first:
        again = fact.kind == "object" and fact.action_id in actions
        actions.add(fact.action_id or "")
        undone = evidence.is_undone and fact.kind == "object" and fact.at > segment.state_start
        note = ", the same action" if again else ", undone" if undone else ""
        where = "no row names it" if fact.origin is None else origin_text(fact.origin)
        console.print(f"          {fact.at:%Y-%m-%d %H:%M:%S}  {escape(_said(fact))}{note}  {escape(where)}")
    if evidence.facts > len(evidence.first):
        console.print(f"          … and {count(evidence.facts - len(evidence.first))} more facts")


def _said(fact: StorageFact) -> str:
    """Return what a fact says."""
    size = "no size" if fact.bytes is None else f"{count(fact.bytes)} byte"
    match fact.kind:
        case "snapshot":
            return ", ".join(part for part in ("snapshot", size, fact.visibility, fact.owner) if part)
        case "missing":
            return "a complete snapshot that does not name it, 0 byte"
        case "listed":
            return f"listed there, object {(fact.object_id or '')[:8]}, {size}"
        case "object":
            return f"{fact.name} of object {(fact.object_id or '')[:8]}, {size}"
        case _:
            return f"{fact.kind} {fact.visibility or fact.owner}"
