"""Commands of `billing` about invoices: arguments in, one job done. Translates only.

`hold` and `release-invoice` are about invoices, `release` is about guards. Imports stay light here; each command imports what it
needs.
"""

import getpass
from datetime import UTC, datetime
from typing import Annotated

import typer

from console import completion
from console.instants import instant_or_now
from resources.settings import Settings

Account = Annotated[str, typer.Argument(help="An account id.", autocompletion=completion.accounts)]
Invoice = Annotated[str, typer.Argument(help="Its number, such as INV-000012, the first digits of its id, or in_...")]
Amount = Annotated[str, typer.Argument(help="Major units, exact, such as -5.00.")]
Actor = Annotated[str, typer.Option(help="Who decides; the login name if not given.", default_factory=getpass.getuser)]
Reason = Annotated[str, typer.Option(help="Why, for whoever audits the bill.")]
Key = Annotated[str, typer.Option(help="Tells two with the same words apart, such as a ticket's number.")]
Proposal = Annotated[str, typer.Argument(help="The first digits of its id; `billing proposals` names it.")]
Subscription = Annotated[str | None, typer.Option(metavar="ID", help="Whose invoice, where the account has several.")]


def invoice(
    name: Annotated[
        str,
        typer.Argument(
            metavar="INVOICE|ACCOUNT",
            help="A number, the first digits of an id, or an account with a period.",
            autocompletion=completion.accounts,
        ),
    ],
    period: Annotated[
        str | None, typer.Argument(help="A month as 2026-03, or any day inside a billing period.")
    ] = None,
    detail: Annotated[bool, typer.Option("--detail", help="Take lines apart that group others.")] = False,
) -> None:
    """Print an invoice: its lines, its total, who did what to it, and what keeps a draft from becoming final."""
    from console.invoice_pages import show_invoice

    show_invoice(Settings.from_environment(), name, period, in_detail=detail, now=datetime.now(UTC))


def invoices(
    account: Annotated[
        str | None, typer.Argument(help="Only of this account.", autocompletion=completion.accounts)
    ] = None,
    months: Annotated[bool, typer.Option("--months", help="Totals by month instead.")] = False,
    state: Annotated[str | None, typer.Option(help="Only draft, final or void ones.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Invoices to show at most.")] = 50,
) -> None:
    """List invoices with their states and totals, or what they come to by month."""
    if state is not None and state not in ("draft", "final", "void"):
        raise typer.BadParameter("--state is draft, final or void.")
    from console.invoice_pages import show_invoices, show_months

    if months:
        show_months(Settings.from_environment(), account)
    else:
        show_invoices(Settings.from_environment(), account, state=state, limit=limit)


def adjust(
    account: Account,
    period: Annotated[str, typer.Argument(help="A month as 2026-03, or any day inside the billing period.")],
    amount: Amount,
    reason: Reason,
    actor: Actor,
    subscription: Subscription = None,
    key: Key = "",
) -> None:
    """Add an amount to an open invoice; below 0 the customer pays less. Computing the invoice again never touches it."""
    from console.invoice_decisions import adjust as add

    add(
        Settings.from_environment(),
        account,
        period,
        amount,
        actor=actor,
        reason=reason,
        subscription_id=subscription,
        key=key,
        now=datetime.now(UTC),
    )


def one_off(
    account: Account,
    description: Annotated[str, typer.Argument(help="What the customer reads.")],
    unit_price: Annotated[str, typer.Argument(metavar="PRICE", help="Of one, in major units, exact.")],
    reason: Reason,
    actor: Actor,
    quantity: Annotated[str, typer.Option(help="How many.")] = "1",
    unit: Annotated[str, typer.Option(help="Of what.")] = "piece",
    at: Annotated[str | None, typer.Option(metavar="INSTANT", help="When it was sold; now if absent.")] = None,
    subscription: Subscription = None,
    key: Key = "",
) -> None:
    """Sell something once: it stands on the account's first invoice that is open and ends after it was sold."""
    from console.invoice_decisions import sell_once

    now = datetime.now(UTC)
    sell_once(
        Settings.from_environment(),
        account,
        description,
        quantity=quantity,
        unit=unit,
        unit_price=unit_price,
        sold_at=now if at is None else instant_or_now(at),
        actor=actor,
        reason=reason,
        subscription_id=subscription,
        key=key,
        now=now,
    )


def credit_note(invoice: Invoice, amount: Amount, reason: Reason, actor: Actor, key: Key = "") -> None:
    """Give money back on a final invoice: a note with its own number, at most as much as is left of the invoice."""
    from console.invoice_decisions import credit

    credit(Settings.from_environment(), invoice, amount, actor=actor, reason=reason, key=key, now=datetime.now(UTC))


def finalize(invoice: Invoice, reason: Reason, actor: Actor) -> None:
    """Make a draft final, with the next number. Refused while its period is not whole or somebody holds it."""
    from console.invoice_decisions import finalize as make_final

    make_final(Settings.from_environment(), invoice, actor=actor, reason=reason, now=datetime.now(UTC))


def hold(invoice: Invoice, reason: Reason, actor: Actor) -> None:
    """Keep a draft from becoming final, until `billing release-invoice`."""
    from console.invoice_decisions import hold as keep

    keep(Settings.from_environment(), invoice, actor=actor, reason=reason, now=datetime.now(UTC))


def release_invoice(invoice: Invoice, reason: Reason, actor: Actor) -> None:
    """Lift the hold of a draft, and let it become final with what is missing in its period now. Guards: `billing release`."""
    from console.invoice_decisions import release

    release(Settings.from_environment(), invoice, actor=actor, reason=reason, now=datetime.now(UTC))


def void(invoice: Invoice, reason: Reason, actor: Actor) -> None:
    """Make a final invoice void: it counts no more, its number stays taken. Its period can be issued again."""
    from console.invoice_decisions import void as make_void

    make_void(Settings.from_environment(), invoice, actor=actor, reason=reason, now=datetime.now(UTC))


def reissue(invoice: Invoice, reason: Reason, actor: Actor) -> None:
    """Open the period of a void invoice again, as a new draft."""
    from console.invoice_decisions import reissue as issue_again

    issue_again(Settings.from_environment(), invoice, actor=actor, reason=reason, now=datetime.now(UTC))


def proposals() -> None:
    """List changes of final invoices that are too big to book themselves and wait for a person."""
    from console.invoice_pages import show_proposals

    show_proposals(Settings.from_environment())


def approve(proposal: Proposal, reason: Reason, actor: Actor) -> None:
    """Let a proposed change be booked, and book it, as long as it is still rated as it was."""
    from console.invoice_decisions import approve as let_book

    let_book(Settings.from_environment(), proposal, actor=actor, reason=reason, now=datetime.now(UTC))


def reject(proposal: Proposal, reason: Reason, actor: Actor) -> None:
    """Keep what is booked, for as long as it is rated as it was."""
    from console.invoice_decisions import reject as keep

    keep(Settings.from_environment(), proposal, actor=actor, reason=reason, now=datetime.now(UTC))


# An amount below 0 is no option.
_WITH_AMOUNTS = {"ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    """Add these commands to `app`."""
    app.command("invoice")(invoice)
    app.command("invoices")(invoices)
    app.command("adjust", context_settings=_WITH_AMOUNTS)(adjust)
    app.command("one-off", context_settings=_WITH_AMOUNTS)(one_off)
    app.command("credit-note", context_settings=_WITH_AMOUNTS)(credit_note)
    for command in (finalize, hold, release_invoice, void, reissue, approve, reject):
        app.command(command.__name__.replace("_", "-"))(command)
    app.command("proposals")(proposals)
