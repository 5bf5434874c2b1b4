"""Charges of billing periods from their usage: the one function behind preview, dashboard, invoice, correction and backtest. Pure.

(catalog, usage by price, period and group) -> charges with their arithmetic. Coupons of a fixed amount and a minimum spend are of
a subscription's whole period (a month of its anchor): they see all of its charges that are by the month, which is why those
come together. Not here: what one price asks (rating), which charges there are (billing_schedule), booking (charges).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from itertools import groupby

from billing_pipeline.amounts import Money, allocate, to_money
from billing_pipeline.billing_schedule import ScheduledCharge
from billing_pipeline.cadences import MONTHLY
from billing_pipeline.catalog import (
    AmountOff,
    Catalog,
    Coupon,
    Discount,
    PercentOff,
    PriceVersion,
    Subscription,
)
from billing_pipeline.charges import Charge, ChargeKey
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


@dataclass(frozen=True, slots=True)
class PeriodUsage:
    """One price of a subscription in one period, with what was used of it: group key -> usage by version. `unit` is the
    meter's. A price without a meter has no groups; `versions` are those in force, each with its part of the period."""

    scheduled: ScheduledCharge
    unit: str
    versions: tuple[tuple[PriceVersion, Window], ...]
    groups: Mapping[str, Sequence[VersionUsage]] = field(default_factory=dict, hash=False)


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
    together: dict[tuple[str, Window], list[PeriodUsage]] = defaultdict(list)
    plain: dict[str, bool] = {}
    for usage in usages:
        subscription = usage.scheduled.subscription
        is_plain = plain.get(subscription.subscription_id)
        if is_plain is None:
            is_plain = not _has_coupons(catalog, subscription) and not shares_amounts(catalog, subscription)
            plain[subscription.subscription_id] = is_plain
        if is_plain:
            yield from _charges_alone(usage)
        else:
            whole = subscription.period_containing(usage.scheduled.period.window.start)
            together[subscription.subscription_id, whole].append(usage)
    for (_, whole), found in together.items():
        yield from _charges_together(catalog, whole, found)


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


def _has_coupons(catalog: Catalog, subscription: Subscription) -> bool:
    account = catalog.accounts.get(subscription.account_id)
    return bool(subscription.coupons or (account is not None and account.coupons))


def _charges_alone(usage: PeriodUsage) -> Iterator[Charge]:
    price = usage.scheduled.price
    if price.meter_id is None:
        fee = _rated_fee(usage)
        if any(version.adjustments for version, _ in usage.versions):
            parts = _fee_parts(usage)
            fee = bounded(discounted(fee, price=price, usage=parts), price=price, usage=parts)
        yield _charge(usage, "", fee)
        return
    for group, by_version in usage.groups.items():
        try:
            rated = rate(price=price, unit=usage.unit, usage=by_version)
        except UnratableError as error:
            raise _of(usage, error, group) from None
        yield _charge(usage, group, rated)


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


def _charge(usage: PeriodUsage, group: str, rated: Rated) -> Charge:
    scheduled = usage.scheduled
    return Charge(
        key=ChargeKey(
            subscription_id=scheduled.subscription.subscription_id,
            price_id=scheduled.price.price_id,
            period=scheduled.period.window,
            group_key=group,
        ),
        account_id=scheduled.subscription.account_id,
        plan_id=scheduled.plan_id,
        meter_id=scheduled.price.meter_id,
        currency=scheduled.price.currency,
        rated=rated,
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
        charges.append(_charge(one.usage, one.group, one.rated))
    yield from charges
    for usage in usages:
        if _is_minimum(usage):
            yield _charge(usage, "", _minimum_spend(usage, charges))


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
