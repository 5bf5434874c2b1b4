"""Print a bill: its charges with their arithmetic, the total, and what may still change it.

Amounts come from what is booked; nothing is calculated here. Not here: reading the books (charge_reader).
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from billing_pipeline.errors import BillingError
from billing_pipeline.meters import MeterSource
from billing_pipeline.periods import Window
from console.arithmetic import grouped, line_formula, line_place, plain
from console.bill_invoices import invoice_sentences
from console.days import Period, read_period
from console.screen import count, page, table
from console.subscription_notes import subscription_notes
from resources.charge_reader import Bill, BookedCharge, ChargeReader
from resources.database import Database
from resources.runtime import running
from resources.settings import Settings
from resources.status_reader import Status, read_open_conflicts, read_status
from resources.usage_reader import read_billed_months

# The digits of a charge's id that a person types.
ID_DIGITS = 8
_NOON = time(12, tzinfo=UTC)
_GROUP_TITLES: Mapping[MeterSource | None, str] = {
    MeterSource.API_REQUESTS: "API requests",
    MeterSource.TRAFFIC: "Traffic bytes",
    MeterSource.STORAGE: "Stored bytes",
    None: "Fees",
}


class NothingBilledError(BillingError):
    """The account has no charge in that period."""


def show_bill(settings: Settings, account_id: str, period: str) -> None:
    """Print the account's bill of the period.

    Raises:
        DayUnreadableError: `period` is neither a month nor a day.
        UnknownAccountError: there is no such account.
        NothingBilledError: nothing is charged in that period; the message names the months that have charges.
    """
    asked = read_period(period)
    with running(settings) as runtime:
        print_bill(page(), runtime.database, account_id, asked)


def print_bill(console: Console, database: Database, account_id: str, asked: Period) -> None:
    """Print the account's bill of the period on `console`; raises as `show_bill`."""
    when = asked.text if asked.is_month else datetime.combine(asked.first, _NOON)
    bill = ChargeReader(database).bill(account_id, when)
    if not bill.charges:
        raise _nothing_billed(database, account_id, asked)
    status = read_status(database)
    print_charges(console, bill)
    for sentence in (
        *_notes(bill),
        *invoice_sentences(database, bill),
        *open_points(bill, status, conflict_days=_conflict_days(database)),
    ):
        console.print(f"  {escape(sentence)}")
    # A metered one leads on to files and lines.
    example = max(bill.charges, key=lambda charge: (charge.meter_id is not None, charge.amount.minor_units))
    console.print(f"Every charge explains itself: billing explain {str(example.charge_id)[:ID_DIGITS]}")


def print_charges(console: Console, bill: Bill) -> None:
    """Print the head, a group of rows for each kind of usage with its sum, the arithmetic of each charge, and the total."""
    console.print(
        f"[bold]Bill of {escape(bill.account_name)}[/] ({escape(bill.account_id)}) for {bill.asked_for[:10]}, "
        f"times in {bill.time_zone}"
    )
    numbers = ("quantity", "amount")
    shown = table("", "charge", "price", "period", "quantity", "arithmetic", "amount", numbers=numbers)
    shown.title = None
    for source, charges, subtotal in bill.line_groups:
        shown.add_section()
        shown.add_row("", f"[bold]{_GROUP_TITLES[source]}[/]", "", "", "", _grouped_money(str(subtotal)))
        _add_charges(shown, charges, bill.time_zone)
    shown.add_section()
    shown.add_row("", "[bold]Total[/]", "", "", "", f"[bold]{_grouped_money(str(bill.total))}[/]")
    console.print(shown)


def _add_charges(shown: Table, charges: Sequence[BookedCharge], time_zone: str) -> None:
    for charge in charges:
        formulas = [f"{escape(line_formula(line))}  [dim]({escape(line_place(line))})[/]" for line in charge.lines]
        shown.add_row(
            str(charge.charge_id)[:ID_DIGITS],
            escape(_what(charge)),
            _local_period(charge, time_zone),
            f"{plain(charge.quantity)} {charge.unit}",
            "\n".join(formulas) or "included, nothing to charge",
            _amount(charge),
        )


def _notes(bill: Bill) -> Iterator[str]:
    """Yield what happened to the subscriptions in the time of the bill's usage, or of its fees where there is none."""
    metered = [charge.period for charge in bill.charges if charge.meter_id is not None]
    periods = metered or [charge.period for charge in bill.charges]
    window = Window(min(period.start for period in periods), max(period.end for period in periods))
    for subscription in bill.subscriptions:
        yield from subscription_notes(subscription, window, bill.time_zone)


def open_points(bill: Bill, status: Status, *, conflict_days: Mapping[str, int]) -> tuple[str, ...]:
    """Return what may still change the bill: days that are not built, held or in conflict. `conflict_days`: day -> requests."""
    start = min(charge.period.start for charge in bill.charges)
    end = max(charge.period.end for charge in bill.charges)
    first, last = start.date(), (end - timedelta(microseconds=1)).date()
    whole = (last - first).days + 1
    held = [
        one
        for one in status.verdicts
        if one.status == "held" and first.isoformat() <= one.partition_key <= last.isoformat()
    ]
    conflicts = {
        day: requests for day, requests in conflict_days.items() if first.isoformat() <= day <= last.isoformat()
    }
    points = []
    for source, title in _GROUP_TITLES.items():
        if source is None or all(charge.source is not source for charge in bill.charges):
            continue
        built = sorted(
            build.day
            for build in status.builds
            if build.asset == f"usage/{source}" and first <= build.day <= last and build.state == "built"
        )
        if len(built) < whole:
            seen = f", {built[0]} to {built[-1]}" if built else ""
            points.append(
                f"Open: {title} are in for {count(len(built))} of {count(whole)} days (UTC) of these periods{seen}."
            )
    points += [f"Held: {one.asset} {one.partition_key} by {one.guard}; see billing status." for one in held]
    if conflicts:
        points.append(
            f"Undecided: {count(sum(conflicts.values()))} contradictory requests on {', '.join(sorted(conflicts))}; "
            "see billing conflicts."
        )
    return tuple(points)


def _conflict_days(database: Database) -> Mapping[str, int]:
    """Return event day -> requests in undecided conflict."""
    requests: dict[str, set[tuple[str, str]]] = {}
    for one in read_open_conflicts(database):
        requests.setdefault(one.event_day.isoformat(), set()).add((one.source, one.event_id))
    return {day: len(ids) for day, ids in requests.items()}


def _nothing_billed(database: Database, account_id: str, asked: Period) -> NothingBilledError:
    months = sorted({one.month for one in read_billed_months(database, account_id)})
    there = (
        f"It has charges in {', '.join(months[-12:])}." if months else "It has none at all: is it subscribed to a plan?"
    )
    return NothingBilledError(
        f"Account {account_id} has no charge in {asked.text}. {there}",
        bill="Nothing is shown; nothing was changed.",
        fix="Ask for one of these months, or build the days first: billing materialize",
    )


def _what(charge: BookedCharge) -> str:
    group = " ".join(charge.group.values())
    return f"{charge.price_id}\n{group}" if group else charge.price_id


def _local_period(charge: BookedCharge, time_zone: str) -> str:
    zone = ZoneInfo(time_zone)
    return " to\n".join(
        f"{instant.astimezone(zone):%Y-%m-%d %H:%M}" for instant in (charge.period.start, charge.period.end)
    )


def _amount(charge: BookedCharge) -> str:
    corrected = f"\n[dim]revision {charge.revision}[/]" if charge.revision > 1 else ""
    return _grouped_money(str(charge.amount)) + corrected


def _grouped_money(money: str) -> str:
    number, _, currency = money.partition(" ")
    return f"{grouped(number)} {currency}"
