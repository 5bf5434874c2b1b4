"""Print invoices: one with its lines, many with their states, months, and changes that wait. Figures come from what is kept, or
from the compilation that makes it; nothing is calculated here.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.items import CompiledInvoice, InvoiceItem
from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.periods import Window
from console.arithmetic import grouped
from console.days import Period, read_period
from console.screen import count, page, table
from resources.invoicing.invoice_events import InvoiceEvent
from resources.invoicing.invoice_reader import CreditNote, InvoiceReader
from resources.invoicing.invoice_rows import InvoiceRow
from resources.invoicing.invoice_store import InvoiceStore
from resources.invoicing.policy_file import load_invoicing_policy
from resources.invoicing.proposal_store import ProposalStore
from resources.runtime import running
from resources.settings import Settings

_DAY = timedelta(days=1)


class NoInvoiceError(BillingError):
    """The account has no invoice in that period."""


def show_invoice(settings: Settings, name: str, period: str | None, *, in_detail: bool, now: datetime) -> None:
    """Print an invoice by its name, or those of an account's period.

    Raises:
        InvoiceUnknownError, DayUnreadableError, UnknownEntryError: see there.
        NoInvoiceError: the account has none in that period.
    """
    asked = None if period is None else read_period(period)
    with running(settings) as runtime:
        store = InvoiceStore(runtime.database, load_invoicing_policy(settings.catalog_dir))
        reader = InvoiceReader(runtime.database)
        if asked is None:
            rows: Sequence[InvoiceRow] = (store.find(name),)
        else:
            zone = store.zone_of(name)
            store.compile_invoices(as_of=now, accounts=[name])
            rows = _of_period(reader.of_account(name), asked, zone)
        if not rows:
            raise NoInvoiceError(
                f"account {name!r} has no invoice in {period}",
                bill="nothing is shown; what is billed stays as it is",
                fix=f"see `billing invoices {name}` for its periods, or `billing bill {name} {period}` for charges",
            )
        for row in rows:
            print_invoice(page(), store, reader, row, in_detail=in_detail, now=now)


def _of_period(rows: Sequence[InvoiceRow], asked: Period, zone: str) -> list[InvoiceRow]:
    """Return the invoices whose period begins in the month, or contains the day; void ones only where no other is there."""
    there = ZoneInfo(zone)
    found = []
    for row in rows:
        begins = row.key.period.start.astimezone(there).date()
        last = (row.key.period.end - timedelta(microseconds=1)).astimezone(there).date()
        if asked.first <= begins <= asked.last if asked.is_month else begins <= asked.first <= last:
            found.append(row)
    return [row for row in found if row.state is not InvoiceState.VOID] or found


def print_invoice(
    console: Console, store: InvoiceStore, reader: InvoiceReader, row: InvoiceRow, *, in_detail: bool, now: datetime
) -> None:
    """Print an invoice with everything that is known of it."""
    key = row.key
    at_stripe = f", {row.external_id} at Stripe" if row.external_id else ""
    again = f", issue {key.issue}" if key.issue > 1 else ""
    console.print(
        f"[bold]Invoice {escape(row.name)}[/] of {escape(key.account_id)} "
        f"({escape(key.subscription_id or 'no subscription')}), {dates(key.period)}: [bold]{row.state.value}[/]{again}{at_stripe}"
    )
    console.print(_lines(store.compiled(row), in_detail=in_detail))
    for note in reader.credit_notes(row.invoice_id):
        console.print(_note(note))
    for event in reader.events(row.invoice_id):
        console.print(_event(event), markup=False)
    if row.state is InvoiceState.DRAFT:
        for problem in store.incomplete(row, now=now).problems:
            console.print(f"  Open: {problem}.", markup=False)


def _lines(invoice: CompiledInvoice, *, in_detail: bool) -> Table:
    shown = table("", "line", "what", "period", "quantity", "amount", numbers=("quantity", "amount"))
    shown.title = None
    for item in invoice.items:
        _add_line(shown, item, invoice.period)
        for part in item.parts if in_detail else ():
            _add_line(shown, part, invoice.period, indent="  ")
    shown.add_section()
    shown.add_row("", "[bold]Total[/]", "", "", f"[bold]{_money(str(invoice.total))}[/]")
    return shown


def _add_line(shown: Table, item: InvoiceItem, period: Window, *, indent: str = "") -> None:
    reason = f"\n[dim]{escape(item.reason)}[/]" if item.reason else ""
    meter = "\n[dim]through Stripe's meter[/]" if item.by_meter else ""
    charge = str(item.charge_id)[:8] if item.charge_id else item.kind.value.replace("_", "-")
    shown.add_row(
        indent + charge,
        indent + escape(item.description) + reason + meter,
        "" if item.period == period else dates(item.period),
        item.quantity_text,
        _money(str(item.amount)),
    )


def _note(note: CreditNote) -> str:
    return (
        f"  Credit note {note.number} of {note.amount}, {note.issued_at:%Y-%m-%d}, by {escape(note.actor)}: "
        f"{escape(note.reason)}"
    )


def _event(event: InvoiceEvent) -> str:
    said = ", ".join(f"{name} {text}" for name, text in event.detail.items() if name not in ("problems", "id"))
    what = f"{event.kind.replace('_', '-')} by {event.actor}"
    return f"  {event.happened_at:%Y-%m-%d %H:%M} UTC {what}: {event.reason}" + (f" ({said})" if said else "")


def show_invoices(settings: Settings, account_id: str | None, *, state: str | None, limit: int) -> None:
    """Print a table of invoices, the newest period first, and what each state comes to."""
    with running(settings) as runtime:
        reader = InvoiceReader(runtime.database)
        rows = reader.listed(account_id=account_id, state=None if state is None else InvoiceState(state), limit=limit)
        overview = reader.overview(biggest=0)
    console = page()
    shown = table(
        "Invoices", "invoice", "account", "subscription", "period", "state", "lines", "total", numbers=("total",)
    )
    for row in rows:
        shown.add_row(
            row.name,
            escape(row.key.account_id),
            escape(row.key.subscription_id or "-"),
            dates(row.key.period),
            row.state.value,
            count(row.item_count),
            _money(str(row.total)),
        )
    console.print(shown)
    for one in overview.states:
        console.print(f"{one.state.value}: {count(one.invoices)} invoices, {_money(str(one.total))}")
    if overview.uninvoiced:
        console.print(f"On no invoice: {', '.join(_money(str(one)) for one in overview.uninvoiced)}")
    if overview.proposals_waiting:
        console.print(f"Waiting for a person: {count(overview.proposals_waiting)}; see billing proposals")


def show_months(settings: Settings, account_id: str | None) -> None:
    """Print what invoices that count come to, by the month in which their period begins."""
    with running(settings) as runtime:
        months = InvoiceReader(runtime.database).months(account_id=account_id)
    shown = table("Invoices by month", "month", "invoices", "total", numbers=("invoices", "total"))
    for one in months:
        shown.add_row(f"{one.month:%Y-%m}", count(one.invoices), _money(str(one.total)))
    page().print(shown)


def show_proposals(settings: Settings) -> None:
    """Print the changes that wait for a person, or for their booking."""
    with running(settings) as runtime:
        waiting = ProposalStore(runtime.database).waiting()
    console = page()
    if not waiting:
        console.print("No change of a final invoice waits for a person.")
        return
    numbers = ("booked", "proposed", "charges")
    shown = table("Proposals", "id", "account", "period", *numbers, "day", "decision", numbers=numbers)
    for one in waiting:
        shown.add_row(
            str(one.proposal_id)[:8],
            escape(one.account_id),
            dates(one.period),
            _money(str(one.booked)),
            _money(str(one.proposed)),
            count(one.charges),
            str(one.day),
            one.decision or "-",
        )
    console.print(shown)
    console.print("Next: billing approve ID --reason …, or billing reject ID --reason …")


def dates(period: Window) -> str:
    """Return a period's first and last day, UTC; one instant as its day."""
    if period.end - period.start < _DAY:
        return f"{period.start:%Y-%m-%d}"
    return f"{period.start:%Y-%m-%d} to {period.end:%Y-%m-%d}"


def _money(money: str) -> str:
    number, _, currency = money.partition(" ")
    return f"{grouped(number)} {currency}"
