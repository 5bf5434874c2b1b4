"""Print invoices: one with its lines, many with their states, months, and changes that wait. Figures come from what is kept, or
from the compilation that makes it; nothing is calculated here, and looking writes nothing.
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
    """Print an invoice by its name, as it is kept, or those of an account's period: drafts as they would be compiled now.

    Raises:
        InvoiceUnknownError, DayUnreadableError, UnknownEntryError: see there.
        NoInvoiceError: the account has none in that period.
    """
    asked = None if period is None else read_period(period)
    with running(settings) as runtime:
        store = InvoiceStore(runtime.database, load_invoicing_policy(settings.catalog_dir))
        reader = InvoiceReader(runtime.database)
        shown: list[tuple[InvoiceRow, CompiledInvoice, str]]
        if asked is None:
            row = store.find(name)
            shown = [(row, store.compiled(row), "")]
        else:
            shown = _of_account(store, reader, name, asked, now)
        if not shown:
            raise NoInvoiceError(
                f"account {name!r} has no invoice in {period}",
                bill="nothing is shown; what is billed stays as it is",
                fix=f"see `billing invoices {name}` for its periods, or `billing bill {name} {period}` for charges",
            )
        console = page()
        for row, compiled, note in shown:
            print_invoice(console, store, reader, row, compiled, in_detail=in_detail, now=now)
            if note:
                console.print(f"  {note}", markup=False)


def _of_account(
    store: InvoiceStore, reader: InvoiceReader, account_id: str, asked: Period, now: datetime
) -> list[tuple[InvoiceRow, CompiledInvoice, str]]:
    """Return the account's invoices of the period: those that are not open as they are kept, the others as compiled now, with
    what a draft that is kept says otherwise."""
    zone = store.zone_of(account_id)
    kept = {row.invoice_id: row for row in reader.of_account(account_id)}
    drafts = {one.invoice_id: one for one in store.preview(account_id, as_of=now).invoices}
    closed = [row for row in kept.values() if row.state is not InvoiceState.DRAFT]
    rows = _of_period([*closed, *(_row_of(one, now) for one in drafts.values())], asked, zone)
    return [
        (
            row,
            drafts[row.invoice_id] if row.invoice_id in drafts else store.compiled(row),
            _kept_otherwise(row, kept.get(row.invoice_id)),
        )
        for row in rows
    ]


def _row_of(invoice: CompiledInvoice, now: datetime) -> InvoiceRow:
    """Return a draft that was compiled for looking at, as it would be kept."""
    return InvoiceRow(
        invoice_id=invoice.invoice_id,
        key=invoice.key,
        state=InvoiceState.DRAFT,
        number=None,
        total=invoice.total,
        item_count=len(invoice.items),
        items_digest=invoice.digest,
        external_id=None,
        as_of=now,
        finalized_at=None,
        voided_at=None,
    )


def _kept_otherwise(row: InvoiceRow, kept: InvoiceRow | None) -> str:
    if kept is not None and kept.items_digest == row.items_digest:
        return ""
    before = "not kept yet" if kept is None else f"kept as {kept.total} since {kept.as_of:%Y-%m-%d %H:%M} UTC"
    return f"Shown as it is compiled now; {before}, until the next compilation (billing materialize, or hourly)."


def _of_period(rows: Sequence[InvoiceRow], asked: Period, zone: str) -> list[InvoiceRow]:
    """Return the invoices whose period begins in the month, or contains the day; void ones only where no other is there."""
    there = ZoneInfo(zone)
    found = []
    for row in rows:
        begins = row.key.period.start.astimezone(there).date()
        last = (row.key.period.end - timedelta(microseconds=1)).astimezone(there).date()
        if asked.first <= begins <= asked.last if asked.is_month else begins <= asked.first <= last:
            found.append(row)
    found.sort(key=lambda row: (row.key.period, row.key.subscription_id or "~", row.key.issue))
    return [row for row in found if row.state is not InvoiceState.VOID] or found


def print_invoice(
    console: Console,
    store: InvoiceStore,
    reader: InvoiceReader,
    row: InvoiceRow,
    compiled: CompiledInvoice,
    *,
    in_detail: bool,
    now: datetime,
) -> None:
    """Print an invoice with everything that is known of it."""
    key = row.key
    at_stripe = f", {row.external_id} at Stripe" if row.external_id else ""
    again = f", issue {key.issue}" if key.issue > 1 else ""
    console.print(
        f"[bold]Invoice {escape(row.name)}[/] of {escape(key.account_id)} "
        f"({escape(key.subscription_id or 'no subscription')}), {dates(key.period)}: [bold]{row.state.value}[/]{again}{at_stripe}"
    )
    console.print(_lines(compiled, in_detail=in_detail))
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
