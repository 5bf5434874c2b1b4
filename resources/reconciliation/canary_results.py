"""Bills that were known in advance beside what came out: canaries, catalog, what was compared -> a result for each period. Pure.

Periods that are over and whole count, and one without an invoice is wrong as well. A cent is wrong. Not here: reading
canary.toml (canaries), comparing (billing_pipeline.reconciliation).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from billing_pipeline.amounts import to_money
from billing_pipeline.catalog import Catalog
from billing_pipeline.invoicing.stripe_amounts import to_stripe
from billing_pipeline.periods import Window, billing_periods
from billing_pipeline.reconciliation import Reconciled
from resources.reconciliation.canaries import Canary
from resources.stripe_mirror.links import StripeLinks

_OPEN = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryResult:
    """A bill that was known in advance beside what came out, in Stripe's minor units. `ours` None: there is no invoice of the
    period; `held` None: the account has no customer at Stripe."""

    canary: Canary
    currency: str
    period_start: datetime
    period_end: datetime
    expected: int
    ours: int | None
    held: int | None

    @property
    def is_right(self) -> bool:
        """Return whether both sides are what was known."""
        return self.ours == self.expected and self.held in (None, self.expected)


def results(
    canaries: Sequence[Canary],
    catalog: Catalog,
    links: StripeLinks,
    found: Sequence[Reconciled],
    *,
    since: datetime,
    now: datetime,
) -> tuple[CanaryResult, ...]:
    """Return the canaries' whole periods that ended at `since` or later and are over at `now`, and older ones that were compared,
    beside what was known of them."""
    return tuple(
        one
        for canary in canaries
        if _is_known(canary, catalog)
        for one in _of_canary(canary, catalog, links, found, since=since, now=now)
    )


def unknown(canaries: Sequence[Canary], catalog: Catalog) -> tuple[str, ...]:
    """Return, in words, the canaries whose account or subscription is not in the catalog: nobody watches over them."""
    return tuple(
        f"account {one.account_id!r} with subscription {one.subscription_id!r}"
        for one in canaries
        if not _is_known(one, catalog)
    )


def _of_canary(
    canary: Canary,
    catalog: Catalog,
    links: StripeLinks,
    found: Sequence[Reconciled],
    *,
    since: datetime,
    now: datetime,
) -> list[CanaryResult]:
    currency = catalog.accounts[canary.account_id].currency
    sums: dict[Window, tuple[int, int]] = {}
    for row in found:
        if row.invoice is not None and row.invoice.subscription_id == canary.subscription_id:
            ours, held = sums.get(row.invoice.period, (0, 0))
            sums[row.invoice.period] = (ours + row.ours, held + row.held)
    is_at_stripe = canary.account_id in links.customers
    made = []
    for window in _whole_periods(canary, catalog, [*sums, Window(since, now)]):
        # A period that ended before `since` and was not compared is settled.
        if window.end > now or (window.end <= since and window not in sums):
            continue
        compared = sums.get(window)
        made.append(
            CanaryResult(
                canary=canary,
                currency=currency,
                period_start=window.start,
                period_end=window.end,
                expected=to_stripe(to_money(canary.total, currency)),
                ours=None if compared is None else compared[0],
                held=None if not is_at_stripe else 0 if compared is None else compared[1],
            )
        )
    return made


def _whole_periods(canary: Canary, catalog: Catalog, windows: Sequence[Window]) -> list[Window]:
    """Return the canary's periods that meet the windows, begin in its span and are not cut."""
    subscription = catalog.subscriptions[canary.subscription_id]
    found = {
        one.window
        for window in windows
        for one in billing_periods(subscription, window)
        if one.window == one.whole and canary.since <= one.window.start < (canary.until or _OPEN)
    }
    return sorted(found)


def _is_known(canary: Canary, catalog: Catalog) -> bool:
    subscription = catalog.subscriptions.get(canary.subscription_id)
    return subscription is not None and subscription.account_id == canary.account_id
