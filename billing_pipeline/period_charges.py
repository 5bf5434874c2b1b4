"""Charges of billing periods from their usage: the one function behind preview, dashboard, invoice, correction and backtest. Pure.

(catalog, usage by price, period and group) -> charges with their arithmetic. Coupons of a fixed amount and a minimum spend are of
a subscription's whole period (a month of its anchor): they see all of its charges that are by the month, which is why those
come together. Not here: what one price asks (rating), which charges there are (billing_schedule), booking (charges).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from types import MappingProxyType
from typing import NamedTuple

from billing_pipeline.amounts import Money, allocate, to_money
from billing_pipeline.billing_schedule import ScheduledCharge
from billing_pipeline.cadences import MONTHLY
from billing_pipeline.catalog import (
    AmountOff,
    Catalog,
    Coupon,
    Discount,
    PercentOff,
    Phase,
    Price,
    PriceVersion,
    Subscription,
)
from billing_pipeline.charges import Charge, ChargeKey, Figures, charge_of
from billing_pipeline.periods import Window
from billing_pipeline.rating import (
    Rated,
    UnratableError,
    VersionUsage,
    bounded,
    discounted,
    rate,
    rate_before_coupons,
    rate_flat_fee,
    rate_minimum,
    version_shares,
    with_coupons,
)

_ZERO = Decimal(0)


class PeriodUsage(NamedTuple):
    """One price of a subscription in one period, with what was used of it: group key -> usage by version. `unit` is the
    meter's. A price without a meter has no groups; `versions` are those in force, each with its part of the period."""

    scheduled: ScheduledCharge
    unit: str
    versions: tuple[tuple[PriceVersion, Window], ...]
    groups: Mapping[str, Sequence[VersionUsage]] = MappingProxyType({})


@dataclass(slots=True)
class _Rating:
    """A charge on its way: what it comes to so far; `parts` are the versions that bound it."""

    usage: PeriodUsage
    group: str
    parts: Sequence[VersionUsage]
    rated: Rated


def period_charges(catalog: Catalog, usages: Iterable[PeriodUsage]) -> Iterator[Charge]:
    """Yield the charges of `usages`, in any order.

    Of a subscription that `shares_amounts`, all charges of a whole period must be among them.

    Raises:
        BeyondLastTierError, NegativeQuantityError, NoMatrixCellError, QuantityMissingError: a charge that cannot be rated.
    """
    yield from Charges(catalog).of(usages)


# Figures that are remembered: as many charges as are rated together.
_MOST_FIGURES = 1 << 16


class Charges:
    """Makes charges, batch after batch, by `rate` and `rate_flat_fee` alone. The same usage of one price (the same value, not only
    an equal one), and the same fee, is rated once."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._accounts_with_coupons = {one.account_id for one in catalog.accounts.values() if one.coupons}
        # By identity: what they are found by is kept with them, so that no other value takes its place.
        self._shares: dict[int, tuple[tuple[Phase, ...], bool]] = {}
        self._metered: dict[int, tuple[Sequence[VersionUsage], Price, Figures]] = {}
        self._fees: dict[int, tuple[PeriodUsage, Figures]] = {}

    def of(self, usages: Iterable[PeriodUsage]) -> Iterator[Charge]:
        """Yield the charges of `usages` as `period_charges` does. Raises as that."""
        together: dict[tuple[str, Window], list[PeriodUsage]] = defaultdict(list)
        for usage in usages:
            scheduled = usage.scheduled
            subscription = scheduled.subscription
            if not self._is_plain(subscription):
                whole = subscription.period_containing(scheduled.period.window.start)
                together[subscription.subscription_id, whole].append(usage)
            elif scheduled.price.meter_id is None:
                yield _charge(usage, "", self._fee(usage))
            else:
                for group, by_version in usage.groups.items():
                    yield _charge(usage, group, self._metered_figures(usage, group, by_version))
        for (_, whole), found in together.items():
            yield from _charges_together(self._catalog, whole, found)

    def _is_plain(self, subscription: Subscription) -> bool:
        """Tell whether each of its charges is rated by itself."""
        if subscription.coupons or subscription.account_id in self._accounts_with_coupons:
            return False
        phases = subscription.phases
        known = self._shares.get(id(phases))
        if known is None or known[0] is not phases:
            if len(self._shares) >= _MOST_FIGURES:
                self._shares.clear()
            known = self._shares[id(phases)] = phases, shares_amounts(self._catalog, subscription)
        return not known[1]

    def _metered_figures(self, usage: PeriodUsage, group: str, by_version: Sequence[VersionUsage]) -> Figures:
        price = usage.scheduled.price
        known = self._metered.get(id(by_version))
        if known is not None and known[0] is by_version and known[1] is price:
            return known[2]
        try:
            rated = rate(price=price, unit=usage.unit, usage=by_version)
        except UnratableError as error:
            raise _of(usage, error, group) from None
        if len(self._metered) >= _MOST_FIGURES:
            self._metered.clear()
        figures = Figures(rated, price.currency)
        self._metered[id(by_version)] = by_version, price, figures
        return figures

    def _fee(self, usage: PeriodUsage) -> Figures:
        scheduled = usage.scheduled
        known = self._fees.get(id(scheduled.held))
        if known is not None and _is_same_fee(known[0], usage):
            return known[1]
        fee, price = _rated_fee(usage), scheduled.price
        if any(version.adjustments for version, _ in usage.versions):
            parts = _fee_parts(usage)
            fee = bounded(discounted(fee, price=price, usage=parts), price=price, usage=parts)
        if len(self._fees) >= _MOST_FIGURES:
            self._fees.clear()
        figures = Figures(fee, price.currency)
        self._fees[id(scheduled.held)] = usage, figures
        return figures


def _is_same_fee(one: PeriodUsage, other: PeriodUsage) -> bool:
    """Tell whether two fees are rated to the same, because everything that they are rated from is the same value."""
    first, second = one.scheduled, other.scheduled
    return (
        first.held is second.held
        and first.price is second.price
        and first.period is second.period
        and one.versions is other.versions
        and first.subscription.anchor.zone == second.subscription.anchor.zone
    )


def shares_amounts(catalog: Catalog, subscription: Subscription) -> bool:
    """Tell whether charges of one period depend on each other: an amount is shared out over them, or they have a minimum."""
    account = catalog.accounts.get(subscription.account_id)
    redeemed = (*subscription.coupons, *(account.coupons if account else ()))
    if any(isinstance(catalog.coupons[one.coupon_id].discount, AmountOff) for one in redeemed):
        return True
    prices = catalog.prices_of(subscription)
    return any(price.is_minimum for price in prices)


def subscriptions_that_share(catalog: Catalog) -> Iterator[Subscription]:
    """Yield the subscriptions that share amounts; of a catalog without such coupons and prices, at once none."""
    has_coupons = any(isinstance(coupon.discount, AmountOff) for coupon in catalog.coupons.values())
    if has_coupons or any(price.is_minimum for price in catalog.prices.values()):
        yield from (one for one in catalog.subscriptions.values() if shares_amounts(catalog, one))


def coupons_in(catalog: Catalog, subscription: Subscription, whole: Window) -> Iterator[Coupon]:
    """Yield the coupons that count for a subscription's period `whole`: its own first, then its account's, as redeemed."""
    for redemption in (*subscription.coupons, *catalog.accounts[subscription.account_id].coupons):
        coupon = catalog.coupons[redemption.coupon_id]
        if coupon.covers(subscription, redemption.since, whole):
            yield coupon


def share_out(off: Money, charged: Sequence[Money]) -> tuple[Money, ...]:
    """Return each charge's share of a coupon, in proportion to it and to the minor unit: 10.00 off 100, 50, 30 and 20 is 5.00,
    2.50, 1.50 and 1.00. Together they take what is charged at most; a charge below 0 has no share."""
    weights = [max(one.minor_units, 0) for one in charged]
    taken = min(off.minor_units, sum(weights))
    if taken <= 0:
        return tuple(Money(0, off.currency) for _ in charged)
    return allocate(Money(taken, off.currency), [Fraction(weight) for weight in weights])


def _rated_fee(usage: PeriodUsage) -> Rated:
    scheduled = usage.scheduled
    zone = scheduled.subscription.anchor.zone
    try:
        return rate_flat_fee(price=scheduled.price, period=scheduled.period, zone=zone, held=scheduled.held)
    except UnratableError as error:
        raise _of(usage, error) from None


def _of(usage: PeriodUsage, error: UnratableError, group: str = "") -> UnratableError:
    subscription = usage.scheduled.subscription
    return error.of_charge(
        account_id=subscription.account_id,
        subscription_id=subscription.subscription_id,
        period=usage.scheduled.period.window,
        group_key=group,
    )


def _charge(usage: PeriodUsage, group: str, figures: Figures) -> Charge:
    subscription, price, period, plan_id, _ = usage.scheduled
    return charge_of(
        figures,
        key=ChargeKey(subscription.subscription_id, price.price_id, period.window, group),
        account_id=subscription.account_id,
        plan_id=plan_id,
        meter_id=price.meter_id,
    )


def _charges_together(catalog: Catalog, whole: Window, usages: Sequence[PeriodUsage]) -> Iterator[Charge]:
    ratings = [one for usage in usages for one in _before_coupons(usage)]
    subscription = usages[0].scheduled.subscription
    for coupon in coupons_in(catalog, subscription, whole):
        _take_off(coupon, ratings)
    charges = []
    for one in ratings:
        price = one.usage.scheduled.price
        if one.parts:
            one.rated = bounded(one.rated, price=price, usage=one.parts)
        charges.append(_charge(one.usage, one.group, Figures(one.rated, price.currency)))
    yield from charges
    for usage in usages:
        if _is_minimum(usage):
            rated = _minimum_spend(usage, charges)
            yield _charge(usage, "", Figures(rated, usage.scheduled.price.currency))


def _is_minimum(usage: PeriodUsage) -> bool:
    return usage.scheduled.price.is_minimum


def _before_coupons(usage: PeriodUsage) -> Iterator[_Rating]:
    price = usage.scheduled.price
    if price.meter_id is not None:
        for group, parts in usage.groups.items():
            try:
                rated = rate_before_coupons(price=price, unit=usage.unit, usage=parts)
            except UnratableError as error:
                raise _of(usage, error, group) from None
            yield _Rating(usage, group, parts, rated)
    elif not _is_minimum(usage):
        parts = _fee_parts(usage)
        yield _Rating(usage, "", parts, discounted(_rated_fee(usage), price=price, usage=parts))


def _take_off(coupon: Coupon, ratings: Sequence[_Rating]) -> None:
    """Take a coupon off the charges that it is for; of an amount each has its share."""
    concerned = [one for one in ratings if not coupon.prices or one.usage.scheduled.price.price_id in coupon.prices]
    if isinstance(coupon.discount, PercentOff) or coupon.currency is None:
        for one in concerned:
            _discount(one, coupon, coupon.discount)
        return
    left = to_money(coupon.discount.amount, coupon.currency)
    by_month = [one for one in concerned if one.usage.scheduled.price.cadence == MONTHLY]
    # What falls due first has the coupon first: a fee in advance is final before the usage is known.
    for _, due in groupby(sorted(by_month, key=_due_at), key=_due_at):
        together = list(due)
        shares = share_out(left, [to_money(one.rated.exact, left.currency) for one in together])
        for one, share in zip(together, shares, strict=True):
            _discount(one, coupon, AmountOff(amount=share.major))
            left -= share


def _due_at(rating: _Rating) -> datetime:
    return rating.usage.scheduled.due_at


def _discount(rating: _Rating, coupon: Coupon, discount: Discount) -> None:
    rating.rated = with_coupons(rating.rated, [(coupon.coupon_id, discount)], price=rating.usage.scheduled.price)


def _fee_parts(usage: PeriodUsage) -> tuple[VersionUsage, ...]:
    scheduled = usage.scheduled
    zone = scheduled.subscription.anchor.zone
    shares = version_shares(scheduled.price, usage.versions, scheduled.period, zone)
    return tuple(
        VersionUsage(version=version, quantity=_ZERO, share=share)
        for (version, _), share in zip(usage.versions, shares, strict=True)
    )


def _minimum_spend(usage: PeriodUsage, charges: Iterable[Charge]) -> Rated:
    """Return what is missing to a minimum of the charges, as they are rounded, that begin while it is in force."""
    price, window = usage.scheduled.price, usage.scheduled.period.window
    charged = sum(charge.amount.minor_units for charge in charges if charge.key.period.start in window)
    return rate_minimum(price=price, usage=_fee_parts(usage), spent=Money(charged, price.currency).major)
