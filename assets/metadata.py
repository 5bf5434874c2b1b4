"""Say on an asset's page what a day's materialization did: results of the stores -> Dagster metadata. Pure.

Plain integers are what Dagster plots over the partitions. Tables and plots are for a person who opens one day; they are
left out of long ranges, where they would only fill the event log. Nothing here comes from a request's own text.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import TypeVar

import dagster as dg

from assets.plots import hourly_bars
from billing_pipeline.checks import Verdict, VerdictStatus
from resources.catalog_store import CatalogLoad
from resources.charge_store import DayBooking
from resources.request_ingest import DayIngest
from resources.usage_store import DayBuild

# A longer range gets numbers only, or 400 days would be megabytes of event log.
MAX_DAYS_WITH_DETAIL = 31
LISTED_ROWS = 10

Metadata = dict[str, dg.MetadataValue]
_Key = TypeVar("_Key", str, date)

_MARKS = {
    VerdictStatus.PASSED: "✓ passed",
    VerdictStatus.WARNED: "⚠ warned",
    VerdictStatus.HELD: "✗ **held**",
    VerdictStatus.RELEASED: "✓ released",
}


def ingest_metadata(ingest: DayIngest, *, in_detail: bool) -> Metadata:
    """Return what became of the lines of a delivery day: rows in = accepted + rejected + duplicate + out of scope."""
    counts = ingest.counts
    metadata = numbers(
        {
            "dagster/row_count": counts.accepted,
            "files": len(ingest.files),
            "lines_read": counts.lines_read,
            "lines_accepted": counts.accepted,
            "lines_rejected": counts.rejected,
            "lines_duplicate": counts.duplicate,
            "lines_out_of_scope": counts.out_of_scope,
        }
    )
    if ingest.rejected_by_reason:
        metadata["rejected_by_reason"] = counts_table("reason", "lines", ingest.rejected_by_reason)
    if in_detail:
        metadata |= {
            "event_days": dg.MetadataValue.int(len(ingest.event_days)),
            "largest_event_days": _event_days_table(ingest.event_days),
            "guards": verdicts_table(ingest.verdicts),
            "lake_file": dg.MetadataValue.path(ingest.uri),
        }
        if ingest.seconds:
            metadata["seconds_by_step"] = markdown_table(("step", "seconds"), sorted(ingest.seconds.items()))
        if aside := [(file.key, file.status, file.reason or "") for file in ingest.files if file.status != "accepted"]:
            metadata["files_not_taken"] = markdown_table(("file", "status", "reason"), aside[:LISTED_ROWS])
    return metadata


def usage_metadata(build: DayBuild, *, in_detail: bool) -> Metadata:
    """Return where the records of an event day went, and how much was used of what."""
    not_billable = sum(build.not_billable_by_reason.values())
    metadata = numbers(
        {
            "dagster/row_count": build.usage_rows,
            "records_read": build.records_read,
            "records_billable": build.billable,
            "records_not_billable": not_billable,
            "records_duplicate": build.duplicates,
            "records_in_conflict": build.conflicts,
        }
    )
    metadata["state"] = dg.MetadataValue.text(str(build.state))
    if not_billable:
        metadata["not_billable_by_reason"] = counts_table("reason", "records", build.not_billable_by_reason)
    if in_detail:
        plot = hourly_bars(build.requests_by_hour, title=f"Requests by hour of {build.day}, UTC")
        metadata |= {
            "requests_by_hour": dg.MetadataValue.md(plot),
            "quantity_by_meter": markdown_table(("meter", "quantity"), sorted(build.quantity_by_meter.items())),
            "biggest_accounts": markdown_table(("account", "requests"), build.top_accounts[:LISTED_ROWS]),
            "guards": verdicts_table(build.verdicts),
            "inputs_digest": dg.MetadataValue.text(build.inputs_digest),
            "charges_of_this_day": partition_link("billing/charges", build.day),
        }
    return metadata


def charges_metadata(booking: DayBooking, *, in_detail: bool) -> Metadata:
    """Return what was rated for a day and what it added to the bills, in minor units per currency."""
    metadata = numbers(
        {
            "dagster/row_count": booking.revisions_booked,
            "charges_rated": booking.charges_rated,
            "revisions_booked": booking.revisions_booked,
            "guards_holding": len(booking.held),
            **_by_currency(booking),
        }
    )
    if booking.held:
        metadata["held_by"] = dg.MetadataValue.text(", ".join(booking.held))
    if in_detail:
        metadata |= {
            "biggest_accounts": markdown_table(("account", "charged to date"), booking.top_accounts[:LISTED_ROWS]),
            "guards": verdicts_table(booking.verdicts),
            "usage_of_this_day": partition_link("usage/api_requests", booking.day),
            "ledger_of_this_day": partition_link("billing/ledger", booking.day),
        }
    return metadata


def ledger_metadata(booking: DayBooking, *, in_detail: bool) -> Metadata:
    """Return what a day's run posted. Zero-sum: what is receivable is revenue."""
    metadata = numbers({"transactions_posted": booking.revisions_booked, **_by_currency(booking)})
    if in_detail:
        metadata["charges_of_this_day"] = partition_link("billing/charges", booking.day)
    return metadata


def catalog_metadata(load: CatalogLoad, *, folder: str, row_count: int) -> Metadata:
    """Return which catalog is loaded and what the load changed."""
    metadata = numbers({"dagster/row_count": row_count, "entries": load.entries})
    metadata |= {
        "catalog_sha256": dg.MetadataValue.text(load.catalog_sha256),
        "folder": dg.MetadataValue.path(folder),
        "changed": dg.MetadataValue.bool(load.changed),
    }
    changes = [
        (change, name)
        for change, names in (("added", load.added), ("edited", load.edited), ("removed", load.removed))
        for name in names
    ]
    if changes:
        metadata["changes"] = markdown_table(("change", "entry"), changes[:LISTED_ROWS])
    if load.left_out:
        waiting = [(one.place, one.subscription_id, f"{one.field}: {one.message}", one.fix) for one in load.left_out]
        head = ("where it says so", "subscription", "why it waits", "what to do")
        metadata["statements_waiting"] = markdown_table(head, waiting[:LISTED_ROWS])
    return metadata


def verdicts_table(verdicts: Iterable[Verdict]) -> dg.MetadataValue:
    """Return what each guard says, as a table. What was expected and found is in the asset's checks."""
    rows = [(verdict.guard, _MARKS[verdict.status]) for verdict in verdicts]
    return dg.MetadataValue.md(_markdown(("guard", "verdict"), rows, trusted_columns=(1,)))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> dg.MetadataValue:
    """Return rows as a Markdown table. Numbers get thousands separators, exactly; text is escaped."""
    return dg.MetadataValue.md(_markdown(head, rows))


def _markdown(head: Sequence[str], rows: Iterable[Sequence[object]], *, trusted_columns: Sequence[int] = ()) -> str:
    lines = [
        "| "
        + " | ".join(str(cell) if place in trusted_columns else _cell(cell) for place, cell in enumerate(row))
        + " |"
        for row in rows
    ]
    if not lines:
        return "none"
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines])


def _cell(value: object) -> str:
    if isinstance(value, Decimal):
        plain = f"{value:,f}"
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    if isinstance(value, int):
        return f"{value:,}"
    return "".join("\\" + letter if letter in "\\`*_{}[]<>|#!" else letter for letter in str(value).replace("\n", " "))


def counts_table(name: str, unit: str, counts: Mapping[_Key, int]) -> dg.MetadataValue:
    return markdown_table((name, unit), _largest_first(counts))


def _largest_first(counts: Mapping[_Key, int]) -> list[tuple[_Key, int]]:
    """Return the entries by falling count; equal ones in the order of their keys."""
    return sorted(sorted(counts.items()), key=lambda entry: entry[1], reverse=True)


def _event_days_table(event_days: Mapping[date, int]) -> dg.MetadataValue:
    rows = [
        (f"[{day}]({_partition_path('usage/api_requests', day)})", f"{count:,}")
        for day, count in _largest_first(event_days)[:LISTED_ROWS]
    ]
    return dg.MetadataValue.md(_markdown(("event day", "records"), rows, trusted_columns=(0, 1)))


def partition_link(asset: str, day: date) -> dg.MetadataValue:
    return dg.MetadataValue.md(f"[{asset} {day}]({_partition_path(asset, day)})")


def _partition_path(asset: str, day: date) -> str:
    return f"/assets/{asset}?view=partitions&partition={day.isoformat()}"


def _by_currency(booking: DayBooking) -> dict[str, int]:
    return {f"added_minor_{currency}": amount for currency, amount in sorted(booking.delta_by_currency.items())}


def numbers(numbers: Mapping[str, int]) -> Metadata:
    return {name: dg.MetadataValue.int(number) for name, number in numbers.items()}
