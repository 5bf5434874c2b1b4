"""Follow a charge down: revisions and arithmetic, postings, the usage rows behind it, the raw rows behind those.

Every step is read from where it is kept. Not here: the queries (charge_reader, lineage_reader), the steps below usage of
traffic and storage (explain_traffic, explain_storage).
"""

from dataclasses import replace

from rich.console import Console
from rich.markup import escape

from billing_pipeline.amounts import to_scale
from billing_pipeline.charges import Charge
from billing_pipeline.errors import BillingError
from billing_pipeline.meters import MeterSource
from console.arithmetic import line_formula, line_place, lines_total, plain
from console.explain_storage import print_storage
from console.explain_traffic import print_prepaid, print_traffic
from console.screen import count, page, table
from resources.charge_reader import BookedCharge, ChargeExplanation, ChargeReader, Revision
from resources.lineage_reader import UsageRow, read_positions, read_usage_rows
from resources.past_charges import rated_again
from resources.prepaid_lineage import read_prepaid_entries
from resources.runtime import Runtime, running
from resources.settings import Settings


class RevisionUnknownError(BillingError):
    """A charge has no such revision."""


def show_revision(settings: Settings, charge_id: str, number: int) -> None:
    """Print a revision as it was known then: its arithmetic and catalog, and what rating comes to with that catalog again.

    Raises:
        ChargeNotFoundError: no charge's id begins so, or several do.
        RevisionUnknownError: it has no such revision.
    """
    with running(settings) as runtime:
        explained = ChargeReader(runtime.database).explain(charge_id)
        revision = next((one for one in explained.revisions if one.revision == number), None)
        if revision is None:
            raise RevisionUnknownError(
                f"charge {str(explained.charge.charge_id)[:8]} has no revision {number}; it has {len(explained.revisions)}",
                bill="nothing is shown; what is booked stays as it is",
                fix="take a number of the table `Revisions` of billing explain",
            )
        again = rated_again(runtime.database, explained.charge, revision)
    console = page()
    _print_head(
        console,
        replace(explained.charge, quantity=revision.quantity, amount=revision.amount, lines=revision.lines),
    )
    catalog = revision.catalog_sha256[:8]
    console.print(
        f"Revision {number} of {len(explained.revisions)}, booked {revision.booked_at:%Y-%m-%d %H:%M} UTC for "
        f"{revision.event_day} with catalog {catalog} by code {revision.code_version}; it added {revision.delta}"
    )
    console.print(_again_line(revision, again))
    console.print(f"What that catalog said otherwise than the one of now: billing catalog diff {catalog} loaded")


def _again_line(revision: Revision, again: Charge | None) -> str:
    if again is None:
        return "Rating does not make it again: it is prepaid, minute by minute, or no charge of that catalog."
    is_same = again.amount == revision.amount and tuple(line.as_text() for line in again.rated.lines) == revision.lines
    if is_same:
        return "Rated again with that catalog and the usage that is built now: the same, line by line."
    quantity = plain(to_scale(again.rated.quantity, digits=12))
    return (
        f"Rated again with that catalog and the usage that is built now: {again.amount} for {quantity} {again.rated.unit}; "
        "usage has come since, or the program was changed."
    )


def show_charge(settings: Settings, charge_id: str, *, usage_rows: int, lines: int) -> None:
    """Print the charge whose id begins so, `usage_rows` of its usage rows, and `lines` raw rows at each step below them.

    Raises:
        ChargeNotFoundError: no charge's id begins so, or several do.
        UsageNotBuiltError: a day of it has no build.
        LakeFileMissingError: records behind it are not in the lake any more.
    """
    with running(settings) as runtime:
        explained = ChargeReader(runtime.database).explain(charge_id)
        console = page()
        _print_head(console, explained.charge)
        _print_revisions(console, explained)
        _print_postings(console, explained)
        _print_usage(console, runtime, explained.charge, usage_rows=usage_rows, lines=lines)


def _print_head(console: Console, charge: BookedCharge) -> None:
    group = ", ".join(f"{name} {value}" for name, value in charge.group.items())
    console.print(f"[bold]Charge {charge.charge_id}[/]")
    console.print(
        f"  account {escape(charge.account_id)}, subscription {escape(charge.subscription_id)}, plan "
        f"{escape(charge.plan_id)}, price {escape(charge.price_id)}" + (f", {escape(group)}" if group else "")
    )
    console.print(f"  period {charge.period.start:%Y-%m-%d %H:%M:%S} to {charge.period.end:%Y-%m-%d %H:%M:%S} UTC")
    console.print(f"  quantity to date {plain(charge.quantity)} {charge.unit}")
    for line in charge.lines:
        console.print(f"    {escape(line_formula(line))}  [dim]({escape(line_place(line))})[/]")
    console.print(f"  exact {lines_total(charge.lines)}, rounded once: [bold]{charge.amount}[/]")


def _print_revisions(console: Console, explained: ChargeExplanation) -> None:
    numbers = ("quantity", "total to date", "this adds")
    shown = table("Revisions", "no.", "booked", "for day", *numbers, "catalog", "code", "run", numbers=numbers)
    for one in explained.revisions:
        shown.add_row(
            str(one.revision),
            f"{one.booked_at:%Y-%m-%d %H:%M} UTC",
            str(one.event_day),
            plain(one.quantity),
            str(one.amount),
            str(one.delta),
            one.catalog_sha256[:8],
            one.code_version,
            one.run_id[:8],
        )
    console.print(shown)


def _print_postings(console: Console, explained: ChargeExplanation) -> None:
    shown = table("Ledger postings", "revision", "account", "amount", numbers=("amount",))
    for one in explained.postings:
        shown.add_row(str(one.revision), escape(one.ledger_account), str(one.amount))
    console.print(shown)


def _print_usage(console: Console, runtime: Runtime, charge: BookedCharge, *, usage_rows: int, lines: int) -> None:
    match charge.source:
        case None:
            console.print("A flat fee: no usage stands behind it.")
        case MeterSource.API_REQUESTS:
            _print_requests(console, runtime, charge, usage_rows=usage_rows, lines=lines)
        case MeterSource.TRAFFIC:
            entries = read_prepaid_entries(runtime.database, charge.charge_id, limit=usage_rows)
            if entries.entries:
                print_prepaid(console, runtime, entries, currency=charge.amount.currency, lines=lines)
            else:
                print_traffic(console, runtime, charge, usage_rows=usage_rows, lines=lines)
        case MeterSource.STORAGE:
            print_storage(console, runtime, charge, usage_rows=usage_rows, lines=lines)


def _print_requests(console: Console, runtime: Runtime, charge: BookedCharge, *, usage_rows: int, lines: int) -> None:
    usage = read_usage_rows(
        runtime.database,
        account_id=charge.account_id,
        meter_id=charge.meter_id or "",
        period_start=charge.period.start,
        period_end=charge.period.end,
        group=charge.group,
        limit=usage_rows,
    )
    console.print(
        f"[bold]Usage[/] of meter {escape(charge.meter_id or '')}: {count(usage.rows)} rows of {count(usage.requests)} requests"
        f"; the first {count(len(usage.first))}:"
    )
    for row in usage.first:
        _print_request_row(console, runtime, row, lines=lines)
    if usage.rows > len(usage.first):
        console.print(f"  … and {count(usage.rows - len(usage.first))} more rows: --rows {usage.rows}")


def _print_request_row(console: Console, runtime: Runtime, row: UsageRow, *, lines: int) -> None:
    console.print(
        f"  {row.period_start:%Y-%m-%d %H:%M:%S} to {row.period_end:%H:%M:%S} UTC  {row.method} {escape(row.endpoint)}  "
        f"client {escape(row.client_id)}: {plain(row.quantity)} {row.unit}, {count(row.request_count)} requests"
    )
    positions = read_positions(runtime.database, runtime.settings, row, limit=lines)
    for position in positions.first:
        console.print(f"      {position.source}: {escape(position.key)} line {count(position.line_number)}")
    if positions.records > len(positions.first):
        console.print(f"      … and {count(positions.records - len(positions.first))} more lines")
