"""What support and bookkeeping decide about invoices, carried out and said back. Not here: the rules (resources/invoicing)."""

import re
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from rich.markup import escape

from assets.code_version import code_version
from billing_pipeline.amounts import exact_text
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import Window
from console.days import Period, read_period
from console.invoice_pages import dates
from console.screen import page
from resources.charge_store import ChargeStore
from resources.database import Database
from resources.invoicing.added_store import AddedLine, AddedStore, Decision
from resources.invoicing.invoice_rows import InvoiceRow
from resources.invoicing.invoice_store import InvoiceStore
from resources.invoicing.policy_file import load_invoicing_policy
from resources.invoicing.proposal_desk import ProposalDesk
from resources.invoicing.proposal_store import ProposalStore
from resources.runtime import running
from resources.settings import Settings

_AMOUNT = re.compile(r"-?\d{1,20}(\.\d{1,12})?")


class AmountUnreadableError(BillingError):
    """What was typed is no amount."""


def read_amount(text: str) -> Decimal:
    """Return the exact amount that `text` names, such as -5.00 or 0.0001.

    Raises:
        AmountUnreadableError: it is none.
    """
    if not _AMOUNT.fullmatch(text.strip()):
        raise AmountUnreadableError(
            f"{text!r} is no amount",
            bill="nothing was added or posted",
            fix="write plain digits with a point, such as -5.00, at most 12 places",
        )
    return Decimal(text.strip())


def reach_of(period: Period, zone: str) -> Window:
    """Return the window of the month or day in the account's zone."""
    there = ZoneInfo(zone)
    start, end = (
        datetime(day.year, day.month, day.day, tzinfo=there) for day in (period.first, period.last + timedelta(days=1))
    )
    return Window(start, end)


def adjust(
    settings: Settings,
    account_id: str,
    period: str,
    amount: str,
    *,
    actor: str,
    reason: str,
    subscription_id: str | None,
    key: str,
    now: datetime,
) -> None:
    """Add an adjustment, and print what the invoice comes to.

    Raises:
        AmountUnreadableError, DayUnreadableError, UnknownEntryError, AdjustmentRefusedError: see there.
    """
    wanted, exact = read_period(period), read_amount(amount)
    with running(settings) as runtime:
        invoices, added = _stores(settings, runtime.database)
        line = added.adjust(
            account_id,
            reach=reach_of(wanted, invoices.zone_of(account_id)),
            amount=exact,
            decision=Decision(actor=actor, reason=reason, now=now, key=key),
            subscription_id=subscription_id,
        )
    _print_added("Adjusted by", line, account_id)


def sell_once(
    settings: Settings,
    account_id: str,
    description: str,
    *,
    quantity: str,
    unit: str,
    unit_price: str,
    sold_at: datetime,
    actor: str,
    reason: str,
    subscription_id: str | None,
    key: str,
    now: datetime,
) -> None:
    """Add a one-off item, and print what the invoice comes to.

    Raises:
        AmountUnreadableError, UnknownEntryError, AdjustmentRefusedError: see there.
    """
    count, price = read_amount(quantity), read_amount(unit_price)
    with running(settings) as runtime:
        _, added = _stores(settings, runtime.database)
        line = added.sell_once(
            account_id,
            description=description,
            quantity=count,
            unit=unit,
            unit_price=price,
            sold_at=sold_at,
            decision=Decision(actor=actor, reason=reason, now=now, key=key),
            subscription_id=subscription_id,
        )
    _print_added("Sold for", line, account_id)


def credit(settings: Settings, invoice: str, amount: str, *, actor: str, reason: str, key: str, now: datetime) -> None:
    """Issue a credit note, and print what is left of the invoice.

    Raises:
        AmountUnreadableError, InvoiceUnknownError, CreditRefusedError: see there.
    """
    exact = read_amount(amount)
    with running(settings) as runtime:
        _, added = _stores(settings, runtime.database)
        decision = Decision(actor=actor, reason=reason, now=now, key=key)
        issued = added.credit(invoice, amount=exact, decision=decision)
    said = "Issued" if issued.is_new else "Issued before, with the same words; nothing was added:"
    page().print(
        f"{said} credit note {issued.number} of {issued.amount} on invoice {issued.invoice.name}. Left of it: {issued.left}."
    )


def finalize(settings: Settings, invoice: str, *, actor: str, reason: str, now: datetime) -> None:
    """Make a draft final.

    Raises:
        InvoiceUnknownError, InvoiceStateError, InvoiceHeldError, InvoiceIncompleteError: see there.
    """
    with running(settings) as runtime:
        invoices, _ = _stores(settings, runtime.database)
        row = invoices.finalize(invoice, actor=actor, reason=reason, now=now)
    page().print(f"Final: invoice {_named(row)}, {row.total}.")


def hold(settings: Settings, invoice: str, *, actor: str, reason: str, now: datetime) -> None:
    """Hold a draft.

    Raises:
        InvoiceUnknownError, InvoiceStateError: see there.
    """
    with running(settings) as runtime:
        invoices, _ = _stores(settings, runtime.database)
        row = invoices.hold(invoice, actor=actor, reason=reason, now=now)
    page().print(f"Held: invoice {_named(row)}. It goes on following the books.")
    page().print(f"Next: billing release-invoice {row.name} --reason …")


def release(settings: Settings, invoice: str, *, actor: str, reason: str, now: datetime) -> None:
    """Lift a draft's hold, and let through what is missing.

    Raises:
        InvoiceUnknownError, InvoiceStateError: see there.
    """
    with running(settings) as runtime:
        invoices, _ = _stores(settings, runtime.database)
        row, incomplete = invoices.release(invoice, actor=actor, reason=reason, now=now)
    page().print(f"Released: invoice {_named(row)}.")
    for problem in incomplete.problems:
        page().print(f"  It may become final although {problem}.", markup=False)
    page().print(f"Next: billing finalize {row.name} --reason …")


def void(settings: Settings, invoice: str, *, actor: str, reason: str, now: datetime) -> None:
    """Make a final invoice void.

    Raises:
        InvoiceUnknownError, InvoiceStateError, InvoiceCreditedError: see there.
    """
    with running(settings) as runtime:
        invoices, _ = _stores(settings, runtime.database)
        row = invoices.void(invoice, actor=actor, reason=reason, now=now)
    page().print(f"Void: invoice {_named(row)}. Nothing of it is charged until its period is issued again.")
    page().print(f"Next: billing reissue {row.name} --reason …")


def reissue(settings: Settings, invoice: str, *, actor: str, reason: str, now: datetime) -> None:
    """Open the period of a void invoice again.

    Raises:
        InvoiceUnknownError, InvoiceStateError: see there.
    """
    with running(settings) as runtime:
        invoices, _ = _stores(settings, runtime.database)
        row = invoices.reissue(invoice, actor=actor, reason=reason, now=now)
    page().print(f"Open again: draft {_named(row)}, {row.total}.")


def approve(settings: Settings, proposal: str, *, actor: str, reason: str, now: datetime) -> None:
    """Approve a proposal and book its event day.

    Raises:
        ProposalUnknownError: see there.
    """
    with running(settings) as runtime:
        desk = _desk(settings, runtime.database)
        done = desk.approve(
            proposal, actor=actor, reason=reason, now=now, run_id="approve", code_version=code_version()
        )
    found = done.proposal
    what = f"{found.account_id}, {dates(found.period)}: {found.booked} becomes {found.proposed}"
    if done.is_booked:
        page().print(f"Approved and booked: {what}", markup=False)
    else:
        page().print(f"Approved, and not booked: what is rated has changed since. {what}", markup=False)
        page().print("Next: billing proposals")


def reject(settings: Settings, proposal: str, *, actor: str, reason: str, now: datetime) -> None:
    """Reject a proposal.

    Raises:
        ProposalUnknownError: see there.
    """
    with running(settings) as runtime:
        found = _desk(settings, runtime.database).reject(proposal, actor=actor, reason=reason, now=now).proposal
    page().print(f"Rejected: {found.account_id}, {dates(found.period)} stays at {found.booked}.", markup=False)


def _desk(settings: Settings, database: Database) -> ProposalDesk:
    policy = load_invoicing_policy(settings.catalog_dir)
    return ProposalDesk(
        proposals=ProposalStore(database),
        charges=ChargeStore(database, policy.thresholds, settings.catalog_dir),
        invoices=InvoiceStore(database, policy),
    )


def _stores(settings: Settings, database: Database) -> tuple[InvoiceStore, AddedStore]:
    policy = load_invoicing_policy(settings.catalog_dir)
    return InvoiceStore(database, policy), AddedStore(database, policy)


def _named(row: InvoiceRow) -> str:
    return f"{row.name} of {escape(row.key.account_id)}, {dates(row.key.period)}"


def _print_added(what: str, line: AddedLine, account_id: str) -> None:
    console = page()
    if not line.is_new:
        console.print("It is there already, with the same words; nothing was added. To add it again, give a --key.")
    exact = "" if line.amount.major == line.exact else f" (exact: {exact_text(line.exact)})"
    if line.invoice is None:
        console.print(f"{what} {line.amount}{exact}: {escape(account_id)} has no open invoice for it yet.")
        return
    console.print(f"{what} {line.amount}{exact}: invoice {_named(line.invoice)}, now comes to {line.invoice.total}.")
