"""What a draft at Stripe is to hold: the period that ended at its boundary, that period's open invoice, what keeps it back.

The boundary comes from the draft's own lines; our period must end at the very same second, or the anchors here and at Stripe
are not the same, and somebody has to look. Reads PostgreSQL only. Not here: what the draft holds (held), changing it (true_up).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from billing_pipeline.catalog import Catalog, Subscription
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.items import CompiledInvoice, InvoiceKey
from billing_pipeline.periods import Window, billing_periods
from billing_pipeline.stripe_sync.lines import INVOICE_FIELD, WantedLine
from billing_pipeline.stripe_sync.wanted import wanted_lines
from resources.invoicing.completeness import read_incomplete
from resources.invoicing.invoice_events import Hold, read_holds
from resources.stripe_sync.accounts import StripeAccount
from resources.stripe_sync.adjusted import invoices_adjusted
from resources.stripe_sync.open_invoices import open_invoices

_SECOND = timedelta(seconds=1)
# Longer than any period of a month.
_LONG_AGO = timedelta(days=62)


class NoSuchPeriodError(BillingError):
    """A renewal whose boundary is no end of a period here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A draft to bring up to date. `subscription_id` is ours, None for an account's own; `boundary_at`: where the ended period
    ends; None: the draft's lines do not say. `is_ours`: made by this pipeline."""

    invoice_id: str
    account: StripeAccount
    subscription_id: str | None
    boundary_at: datetime | None
    is_ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a draft is to hold. `compiled` None: nothing is to be charged. `missing`: what is not in its period yet and nobody let
    through."""

    key: InvoiceKey
    compiled: CompiledInvoice | None
    wanted: tuple[WantedLine, ...]
    missing: tuple[str, ...]
    hold: Hold | None

    @property
    def is_held_by_a_person(self) -> bool:
        """Tell whether somebody keeps it a draft."""
        return self.hold is not None and self.hold.is_held

    @property
    def why_kept(self) -> str | None:
        """Return why it may not be final yet, None when it may."""
        if self.hold is not None and self.hold.is_held:
            return f"{self.hold.by} holds it: {self.hold.reason}"
        return "its period is not whole: " + "; ".join(self.missing) if self.missing else None


def target_of_draft(
    connection: psycopg.Connection, catalog: Catalog, draft: Draft, invoice: Mapping[str, Any], *, now: datetime
) -> Target:
    """Return what the draft is to hold. `now` decides only what is missing, never which period.

    Raises:
        NoSuchPeriodError: no period of the subscription ends at its boundary.
    """
    if draft.is_ours or draft.subscription_id is None:
        compiled_id = (invoice.get("metadata") or {}).get(INVOICE_FIELD)
        found = [
            one for one in open_invoices(connection, draft.account.account_id) if str(one.invoice_id) == compiled_id
        ]
        if not found:
            raise _no_period(draft, f"invoice {compiled_id} is not open here any more")
        return target_of_period(connection, catalog, found[0].key, now=now)
    subscription = catalog.subscriptions.get(draft.subscription_id)
    if subscription is None:
        raise _no_period(draft, f"the catalog has no subscription {draft.subscription_id!r} any more")
    period = _ended_period(draft, subscription, datetime.fromtimestamp(invoice["created"], UTC))
    key = InvoiceKey(account_id=draft.account.account_id, subscription_id=draft.subscription_id, period=period)
    return target_of_period(connection, catalog, key, now=now)


def target_of_period(connection: psycopg.Connection, catalog: Catalog, key: InvoiceKey, *, now: datetime) -> Target:
    """Return what the newest issue of the period's invoice says now."""
    found = [
        one
        for one in open_invoices(connection, key.account_id)
        if one.subscription_id == key.subscription_id and one.period == key.period
    ]
    compiled = found[0] if found else None
    newest = key if compiled is None else compiled.key
    wanted: tuple[WantedLine, ...] = ()
    if compiled is not None:
        wanted = wanted_lines(compiled, adjusts=invoices_adjusted(connection, [compiled]))
    hold = read_holds(connection, [newest.invoice_id]).get(newest.invoice_id)
    incomplete = read_incomplete(connection, catalog, newest, now=now)
    is_let_through = hold is not None and incomplete.digest != "" and hold.let_through == incomplete.digest
    return Target(
        key=newest,
        compiled=compiled,
        wanted=wanted,
        missing=() if is_let_through else incomplete.problems,
        hold=hold,
    )


def _ended_period(draft: Draft, subscription: Subscription, made_at: datetime) -> Window:
    if draft.boundary_at is None:
        # No line says: the last period that was over when Stripe made the draft.
        periods = billing_periods(subscription, Window(made_at - _LONG_AGO, made_at + _SECOND))
        ended = [one.window for one in periods if one.window.end <= made_at]
        if not ended:
            raise _no_period(draft, f"no period of subscription {draft.subscription_id!r} was over when it was made")
        return ended[-1]
    boundary = draft.boundary_at
    last = [one.window for one in billing_periods(subscription, Window(boundary - _SECOND, boundary))]
    found = [one for one in last if int(one.end.timestamp()) == int(boundary.timestamp())]
    if not found:
        ends = ", ".join(f"{one.end:%Y-%m-%d %H:%M:%S}" for one in last) or "nowhere"
        raise _no_period(
            draft,
            f"Stripe's period ends at {boundary:%Y-%m-%d %H:%M:%S} UTC and that of subscription {draft.subscription_id!r} at "
            f"{ends}",
        )
    return found[0]


def _no_period(draft: Draft, problem: str) -> NoSuchPeriodError:
    return NoSuchPeriodError(
        f"no ended period belongs to {draft.invoice_id}: {problem}",
        bill="the draft is left as it is, and Stripe finalizes it; what is missing is charged by the next invoice",
        fix="set the same day and hour as anchor of the subscription here and at Stripe",
    )
