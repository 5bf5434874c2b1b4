"""Grant, revoke and show an account's credit. Not here: the rules (billing_pipeline.credits), keeping it (resources/credits)."""

from datetime import datetime
from decimal import Decimal, InvalidOperation

from rich.markup import escape

from billing_pipeline.amounts import Money
from billing_pipeline.credits import GrantSource
from billing_pipeline.errors import BillingError
from console.screen import page, table
from resources.credits.credit_store import CreditStore, GrantState, GrantWords
from resources.invoicing.policy_file import load_invoicing_policy
from resources.runtime import running
from resources.settings import Settings

_DIGITS = 8


class CreditWordsError(BillingError):
    """What should be granted cannot be understood."""


def grant_credit(
    settings: Settings,
    account_id: str,
    amount: str,
    *,
    priority: int,
    effective_at: datetime,
    expires_at: datetime | None,
    source: str,
    actor: str,
    reason: str,
    key: str,
    now: datetime,
) -> None:
    """Grant credit and print what the account has.

    Raises:
        CreditWordsError: no number, or no source.
        UnknownEntryError, CreditRefusedError, CreditGrantInvalidError: see CreditStore.
    """
    words = GrantWords(
        amount=_number(amount),
        priority=priority,
        effective_at=effective_at,
        expires_at=expires_at,
        source=_source(source),
        actor=actor,
        reason=reason,
        key=key,
    )
    with running(settings) as runtime:
        store = CreditStore(runtime.database, load_invoicing_policy(settings.catalog_dir))
        granted, is_new = store.grant(account_id, words, now=now)
        states = store.balances(account_id, at=now)
    said = "Granted" if is_new else "Granted before, with the same words; nothing changed:"
    page().print(f"{said} {granted.amount} to {escape(account_id)} ({str(granted.grant_id)[:_DIGITS]}).")
    _print(account_id, states, now)


def revoke_credit(settings: Settings, grant: str, *, actor: str, reason: str, now: datetime) -> None:
    """Take back what is left of a grant.

    Raises:
        CreditRefusedError: no such grant, or no reason.
    """
    with running(settings) as runtime:
        store = CreditStore(runtime.database, load_invoicing_policy(settings.catalog_dir))
        row = store.revoke(grant, actor=actor, reason=reason, now=now)
        states = store.balances(row.grant.account_id, at=now)
    page().print(f"Revoked: {str(row.grant.grant_id)[:_DIGITS]} of {escape(row.grant.account_id)}, by {escape(actor)}.")
    _print(row.grant.account_id, states, now)


def show_credits(settings: Settings, account_id: str, *, at: datetime) -> None:
    """Print the account's grants and what is left of each at `at`.

    Raises:
        UnknownEntryError: there is no such account.
    """
    with running(settings) as runtime:
        states = CreditStore(runtime.database).balances(account_id, at=at)
    _print(account_id, states, at)


def _print(account_id: str, states: tuple[GrantState, ...], at: datetime) -> None:
    if not states:
        page().print(f"{escape(account_id)} was granted no credit. Grant some with `billing grant`.")
        return
    numbers = ("granted", "spent", "expired", "left", "reserved")
    title = f"Credit of {escape(account_id)} at {at:%Y-%m-%d %H:%M} UTC"
    shown = table(title, "grant", "source", "priority", "from", "until", *numbers, "reason", numbers=numbers)
    for state in states:
        grant = state.row.grant
        shown.add_row(
            str(grant.grant_id)[:_DIGITS],
            grant.source,
            str(grant.priority),
            f"{grant.effective_at:%Y-%m-%d %H:%M}",
            "-" if grant.expires_at is None else f"{grant.expires_at:%Y-%m-%d %H:%M}",
            str(grant.amount),
            str(state.spent),
            str(state.expired),
            str(state.left),
            str(state.reserved),
            escape(state.row.reason),
        )
    page().print(shown)
    left = Money(0, states[0].row.grant.amount.currency)
    for state in states:
        if state.row.grant.effective_at <= at:
            left += state.left
    page().print(f"Left: [bold]{left}[/]; reserved by open invoices that are due later is part of it.")


def _number(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value <= 0:
        raise CreditWordsError(
            f"{text!r} is no amount above 0",
            bill="nothing was granted",
            fix="give major units in digits, such as 25.00",
        )
    return value


def _source(text: str) -> GrantSource:
    given = (GrantSource.TOP_UP, GrantSource.PROMOTION, GrantSource.REFUND)
    if text not in given:
        raise CreditWordsError(
            f"{text!r} is no source of credit", bill="nothing was granted", fix=f"give one of {', '.join(given)}"
        )
    return GrantSource(text)
