"""Show the state of an installation: deliveries, refusals, held days, builds, books, and what to do next.

Refused lines appear as file, position and reason; their text is in the source file only.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime

from rich.console import Console
from rich.markup import escape

from billing_pipeline.amounts import Money
from billing_pipeline.errors import BillingError
from billing_pipeline.records import Reason
from console.days import read_day
from console.near import did_you_mean
from console.screen import count, page, table
from resources.runtime import running
from resources.settings import Settings
from resources.status_reader import (
    Books,
    Build,
    FileRefusal,
    FileTally,
    GuardVerdict,
    LineRefusal,
    Status,
    read_open_conflicts,
    read_refused_files,
    read_refused_lines,
    read_status,
)
from resources.subscriptions.statements import read_findings
from resources.traffic_reader import SourceStatus

STATUS_STYLE = {"held": "bold red", "rejected": "red", "warned": "yellow", "released": "cyan", "duplicate": "dim"}
# More event days than this scroll the answer off the screen; older ones are summed up in a line.
_DAYS_SHOWN = 31


class ReasonUnknownError(BillingError):
    """A reason of refusal that does not exist."""


def show_status(settings: Settings) -> None:
    """Print what was delivered, refused, held and built, whether the books balance, and the next commands."""
    from assets.jobs import USAGE
    from console.due import due_days, unbooked_days
    from resources.stores import open_stores

    with running(settings) as runtime:
        stores = open_stores(settings, runtime.database)
        status = read_status(runtime.database)
        stale = tuple(sorted({day for asset in USAGE for day in due_days(stores, asset)}))
        unbooked = unbooked_days(stores)
        exporters = stores.traffic.statuses(datetime.now(UTC))
        with runtime.database.reading() as connection:
            waiting = len(read_findings(connection))
    console = page()
    if not status.tallies and not status.builds:
        print_exporters(console, exporters)
        console.print("Nothing was ingested yet.")
    else:
        print_deliveries(console, status.tallies)
        print_refusals(console, status)
        print_builds(console, status.builds, stale)
        print_exporters(console, exporters)
        print_verdicts(console, status.verdicts)
        print_books(console, status.books)
    if waiting:
        console.print(f"{count(waiting)} findings keep statements about subscriptions waiting: billing subscriptions")
    print_next_steps(console, status, sorted({*stale, *unbooked}))


def show_quarantine(settings: Settings, *, reason: str | None, day: str | None, limit: int) -> None:
    """Print refused files and up to `limit` refused lines.

    Raises:
        ReasonUnknownError: no line is ever refused for that reason.
    """
    if reason is not None and reason not in set(Reason):
        raise ReasonUnknownError(
            f"{reason!r} is no reason of refusal. {did_you_mean(reason, Reason)}",
            bill="Nothing was read or changed.",
            fix="Take a reason from `billing status`.",
        )
    delivery_day = None if day is None else read_day(day)
    with running(settings) as runtime:
        files = [
            one
            for one in read_refused_files(runtime.database)
            if reason in (None, one.reason) and delivery_day in (None, one.delivery_day)
        ]
        lines = read_refused_lines(runtime.database, reason=reason, delivery_day=delivery_day, limit=limit)
    console = page()
    print_refused_files(console, files)
    print_refused_lines(console, lines)
    if not files and not lines:
        console.print("Nothing is refused.")


def show_conflicts(settings: Settings, *, day: str | None) -> None:
    """Print every version of every request that waits for a decision."""
    with running(settings) as runtime:
        versions = read_open_conflicts(runtime.database, event_day=None if day is None else read_day(day))
    console = page()
    if not versions:
        console.print("No request waits for a decision.")
        return
    shown = table("Requests with different contents", "event day", "source", "request", "content", "file", "line")
    for one in versions:
        shown.add_row(
            str(one.event_day), one.source, one.event_id, one.content_sha256[:12], escape(one.key), str(one.line_number)
        )
    console.print(shown)
    console.print('Next: billing decide-conflict SOURCE REQUEST CONTENT --reason "…"')


def print_deliveries(console: Console, tallies: Iterable[FileTally]) -> None:
    """Print files and lines by source and status: lines read = accepted + rejected + duplicate + out of scope."""
    numbers = ("files", "lines read", "accepted", "rejected", "duplicate", "out of scope")
    shown = table("Deliveries", "source", "status", *numbers, numbers=numbers)
    for one in tallies:
        cells = (one.files, one.lines_read, one.accepted, one.rejected, one.duplicate, one.out_of_scope)
        shown.add_row(one.source, _styled(one.status), *map(count, cells))
    console.print(shown)


def print_refusals(console: Console, status: Status) -> None:
    """Print how many lines were refused and for what, which files, and how many requests nobody pays for."""
    if status.refused_lines_by_reason:
        shown = table("Refused lines", "reason", "lines", numbers=("lines",))
        for reason, lines in status.refused_lines_by_reason.items():
            shown.add_row(reason, count(lines))
        console.print(shown)
    print_refused_files(console, status.refused_files)
    if status.not_billable_by_reason:
        shown = table("Requests that nobody pays for", "reason", "requests", numbers=("requests",))
        for reason, requests in status.not_billable_by_reason.items():
            shown.add_row(reason, count(requests))
        console.print(shown)


def print_refused_files(console: Console, files: Sequence[FileRefusal]) -> None:
    """Print the files that are held, refused or copies; nothing if there are none."""
    if not files:
        return
    shown = table("Files held, refused or delivered twice", "delivered", "status", "reason", "file")
    for one in files:
        shown.add_row(str(one.delivery_day), _styled(one.status), one.reason, escape(one.key))
    console.print(shown)


def print_refused_lines(console: Console, lines: Sequence[LineRefusal]) -> None:
    """Print refused lines by file and position; nothing if there are none."""
    if not lines:
        return
    shown = table("Where refused lines are", "reason", "field", "file", "line", "sha256", numbers=("line",))
    for one in lines:
        shown.add_row(
            one.reason, one.field or "", escape(one.key), count(one.line_number), (one.line_sha256 or "")[:12]
        )
    console.print(shown)


def print_builds(console: Console, builds: Sequence[Build], stale: Sequence[date]) -> None:
    """Print the last build of the newest event days, a table for each kind of usage: records read = billable + not billable
    + duplicate + conflict. `stale`: days of API requests, traffic or storage that are to be built again."""
    numbers = ("records", "billable", "not billable", "duplicate", "conflict", "usage rows")
    for asset in dict.fromkeys(one.asset for one in builds):
        of_asset = [one for one in builds if one.asset == asset]
        shown = table(f"{asset} by event day", "event day", "state", *numbers, "built at", numbers=numbers)
        for one in of_asset[-_DAYS_SHOWN:]:
            state = "[yellow]stale[/]" if one.day in stale and one.state == "built" else _styled(one.state)
            cells = (one.records_read, one.billable, one.not_billable, one.duplicate, one.conflict, one.usage_rows)
            shown.add_row(str(one.day), state, *map(count, cells), f"{one.built_at:%Y-%m-%d %H:%M} UTC")
        console.print(shown)
        if len(of_asset) > _DAYS_SHOWN:
            console.print(f"… and {count(len(of_asset) - _DAYS_SHOWN)} earlier days.")


def print_exporters(console: Console, exporters: Sequence[SourceStatus]) -> None:
    """Print how far each exporter is read, how old that is, and what failed last; nothing without exporters."""
    if not exporters:
        return
    shown = table(
        "Exporters",
        "source",
        "node",
        "complete until",
        "delay",
        "attempted",
        "succeeded",
        "open gaps",
        "missing minutes",
        "last error",
        numbers=("delay", "open gaps", "missing minutes"),
    )
    for one in exporters:
        shown.add_row(
            one.source,
            f"{one.env}:{one.node}",
            _instant(one.completed_until),
            "" if one.delay_seconds is None else f"{count(one.delay_seconds)} s",
            _instant(one.last_attempted_at),
            _instant(one.last_succeeded_at),
            count(one.open_gaps),
            count(one.missing_minutes),
            escape(one.last_error or ""),
        )
    console.print(shown)


def _instant(at: datetime | None) -> str:
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def print_verdicts(console: Console, verdicts: Sequence[GuardVerdict]) -> None:
    """Print the guards that hold or warn, with what they say; nothing if all passed."""
    if not verdicts:
        return
    shown = table("Guards that did not simply pass", "status", "asset", "partition", "guard", "what it says")
    for one in verdicts:
        shown.add_row(_styled(one.status), one.asset, one.partition_key, one.guard, escape(one.message))
    console.print(shown)


def print_books(console: Console, books: Sequence[Books]) -> None:
    """Print what is charged in each currency, and whether the ledger says the same."""
    for one in books:
        verdict = "[green]books balance[/]" if one.balance else "[bold red]BOOKS DO NOT BALANCE[/]"
        console.print(
            f"{one.currency}: {count(one.charges)} charges in {count(one.revisions)} revisions = "
            f"{Money(one.charged_minor, one.currency)}; ledger receivable {Money(one.receivable_minor, one.currency)}, "
            f"all postings add up to {Money(one.postings_sum_minor, one.currency)}: {verdict}"
        )


def print_next_steps(console: Console, status: Status, stale: Sequence[date]) -> None:
    """Print the commands that bring this installation forward."""
    steps = []
    if not status.tallies:
        steps.append("billing demo, or put files into the landing folder and run: billing materialize")
    if status.pending_days or stale:
        due = len(set(status.pending_days) | set(stale))
        steps.append(f"billing materialize   (days with new or changed input: {count(due)})")
    held = [one for one in status.verdicts if one.status == "held"]
    if held:
        one = held[0]
        steps.append(f'billing release {one.asset} {one.partition_key} {one.guard} --reason "…"   ({len(held)} held)')
    if status.open_conflicts:
        steps.append(f"billing conflicts   (requests that wait for a decision: {count(status.open_conflicts)})")
    if any(one.status == "held" for one in status.refused_files):
        steps.append("billing quarantine   (files came again with other content and wait)")
    for step in steps or ["nothing is due"]:
        console.print(f"Next: {escape(step)}")


def _styled(status: str) -> str:
    style = STATUS_STYLE.get(status)
    return f"[{style}]{status}[/]" if style else status
