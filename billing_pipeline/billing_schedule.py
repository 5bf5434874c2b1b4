"""What is charged when: (catalog, subscription, window) -> a charge for each price and period, before any usage. Pure.

A price is charged over an unbroken stretch of phases that have it, cut where its cadence's periods begin: a change of plan ends
the stretch of a price that the new plan does not have, and begins one of those that it adds; what both have goes on, tiers and
all. Nothing is charged in a pause, and in a trial what the plan says. Not here: quantities and amounts (rating), phases
(catalog). ADR 0035.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from billing_pipeline.cadences import MONTHLY, Cadence, CadenceUnit, period_containing
from billing_pipeline.catalog import Catalog, Phase, Price, Subscription, Timing
from billing_pipeline.periods import BillingAnchor, BillingPeriod, Window, cuts


@dataclass(frozen=True, slots=True)
class Held:
    """The quantities that a subscription holds during `window`: 5 seats."""

    window: Window
    quantities: Mapping[str, Decimal] = field(hash=False)


class ScheduledCharge(NamedTuple):
    """One price of a subscription in one period. `held` covers the period, a part for each change of phase; `plan_id` is the
    plan at its start."""

    subscription: Subscription
    price: Price
    period: BillingPeriod
    plan_id: str
    held: tuple[Held, ...]

    @property
    def due_at(self) -> datetime:
        """Return the instant at which it falls due: where its period begins, or where it ends."""
        return due_at(self.price, self.period.window)


def due_at(price: Price, period: Window) -> datetime:
    """Return when a charge of `price` for `period` falls due.

    The invoice at July 1st has what falls due after June 1st and until July 1st: June's usage, and July's fee in advance.
    """
    return period.start if price.timing is Timing.ADVANCE else period.end


def scheduled_charges(catalog: Catalog, subscription: Subscription, window: Window) -> Iterator[ScheduledCharge]:
    """Yield the charges whose period meets `window`, each once; `window` cuts none.

    Periods of one price do not overlap, and together cover the time in which it is charged.
    """
    for term in scheduled_terms(catalog, subscription, window):
        yield ScheduledCharge(subscription, *term)


class ScheduledTerm(NamedTuple):
    """What is scheduled for every subscription with the same phases and anchors: a `ScheduledCharge` without whose it is."""

    price: Price
    period: BillingPeriod
    plan_id: str
    held: tuple[Held, ...]


def scheduled_terms(catalog: Catalog, subscription: Subscription, window: Window) -> Iterator[ScheduledTerm]:
    """Yield what `scheduled_charges` does, without the subscription: of it, phases and anchors alone count."""
    for price, phases in stretches(catalog, subscription):
        for period in _periods(subscription, price.cadence, phases[0].starts_at, phases[-1].ends_at, window):
            yield ScheduledTerm(price, period, _plan_at(phases, period.window), tuple(_held(phases, period.window)))


def charge_at(catalog: Catalog, subscription: Subscription, price: Price, instant: datetime) -> ScheduledCharge | None:
    """Return the charge of `price` whose period contains `instant`, None where it is not charged then."""
    moment = Window(instant, instant + timedelta(microseconds=1))
    return next((one for one in scheduled_charges(catalog, subscription, moment) if one.price == price), None)


def subscription_periods(
    subscription: Subscription, window: Window, cadence: Cadence = MONTHLY
) -> Iterator[tuple[BillingPeriod, Phase]]:
    """Yield the periods that meet `window`, in order, cut where a phase begins, each with its phase.

    They cover the subscription from its start to its end, pauses and trials too, without gap or overlap.
    """
    for phase in subscription.phases:
        for period in _periods(subscription, cadence, phase.starts_at, phase.ends_at, window):
            yield period, phase


def usage_cuts(catalog: Catalog, subscriptions: Iterable[Subscription], window: Window) -> tuple[datetime, ...]:
    """Return the instants inside `window` and inside an hour at which a usage row must end, ascending.

    Where a month begins, where a phase begins or ends, and where a week of a metered price begins.
    """
    found: set[datetime] = set()
    for subscription in subscriptions:
        found.update(cuts((subscription,), window))
        found.update(phase.starts_at for phase in subscription.phases[1:])
        for price in catalog.prices_of(subscription):
            if price.meter_id is not None and price.cadence.unit is CadenceUnit.WEEK:
                span = (subscription.starts_at, subscription.ends_at)
                found.update(period.window.start for period in _periods(subscription, price.cadence, *span, window))
    return tuple(sorted(at for at in found if window.start < at < window.end and not _is_whole_hour(at)))


def stretches(catalog: Catalog, subscription: Subscription) -> Iterator[tuple[Price, tuple[Phase, ...]]]:
    """Yield each price with the phases that follow each other and charge it, once for each unbroken row of them."""
    if len(subscription.phases) == 1:
        (phase,) = subscription.phases
        for price in _charged(catalog, phase):
            yield price, (phase,)
        return
    going: dict[str, list[Phase]] = {}
    for phase in subscription.phases:
        charged = dict.fromkeys(price.price_id for price in _charged(catalog, phase))
        for price_id in [price_id for price_id in going if price_id not in charged]:
            yield catalog.prices[price_id], tuple(going.pop(price_id))
        for price_id in charged:
            going.setdefault(price_id, []).append(phase)
    for price_id, phases in going.items():
        yield catalog.prices[price_id], tuple(phases)


def _charged(catalog: Catalog, phase: Phase) -> Iterator[Price]:
    plan = catalog.plan_of(phase)
    for price_id in plan.prices:
        price = catalog.prices[price_id]
        if plan.charges(price, phase.status):
            yield price


def _periods(
    subscription: Subscription, cadence: Cadence, starts_at: datetime, ends_at: datetime | None, window: Window
) -> Iterator[BillingPeriod]:
    """Yield the periods of `[starts_at, ends_at)` that meet `window`; whole periods are the subscription's, and are counted anew
    where its anchor moves, which cuts them."""
    if cadence == MONTHLY and len(subscription.anchored) == 1:
        for month in _months(subscription.anchor, window):
            if starts_at <= month.window.start and (ends_at is None or month.window.end <= ends_at):
                yield month
                continue
            reach = month.window.overlap(starts_at, ends_at)
            if reach is not None and window.overlap(reach.start, reach.end) is not None:
                yield BillingPeriod(reach, month.whole)
        return
    for one in subscription.anchored:
        start, end = max(one.starts_at, starts_at), _earlier(one.ends_at, ends_at)
        reach = window.overlap(start, end)
        if reach is None:
            continue
        at = reach.start
        while at < reach.end:
            whole = period_containing(cadence, one.anchor, since=one.starts_at, instant=at)
            part = whole.overlap(start, end)
            if part is not None:
                yield BillingPeriod(part, whole)
            at = whole.end


@lru_cache(maxsize=1 << 12)
def _months(anchor: BillingAnchor, window: Window) -> tuple[BillingPeriod, ...]:
    """Return the whole months that meet `window`: nearly all of many subscriptions have the same."""
    found = []
    at = window.start
    while at < window.end:
        whole = anchor.period_containing(at)
        found.append(BillingPeriod(whole, whole))
        at = whole.end
    return tuple(found)


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _held(phases: Sequence[Phase], window: Window) -> Iterator[Held]:
    if len(phases) == 1:
        yield Held(window, phases[0].quantities)
        return
    for phase in phases:
        part = window.overlap(phase.starts_at, phase.ends_at)
        if part is not None:
            yield Held(part, phase.quantities)


def _plan_at(phases: Iterable[Phase], window: Window) -> str:
    return next(phase.plan_id for phase in phases if phase.ends_at is None or phase.ends_at > window.start)


def _is_whole_hour(instant: datetime) -> bool:
    return instant.minute == 0 and instant.second == 0 and instant.microsecond == 0
