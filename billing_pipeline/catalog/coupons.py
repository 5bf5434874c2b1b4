"""Coupons: a discount with a duration, and who has redeemed it since when. Pure.

A coupon counts for whole billing periods (the months of a subscription's anchor): from the one that contains the instant of its
redemption on, for `periods` of them, or those that begin before `until`. Not here: what it takes off (rating), sharing an
amount over charges (period_charges).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Protocol, Self

from pydantic import Field, model_validator

from billing_pipeline.catalog.fields import Amount, Id, Instant, Positive, Table, Version, share_of
from billing_pipeline.catalog.models import AmountOff, Discount, PercentOff
from billing_pipeline.periods import Window


class Periodic(Protocol):
    """Whatever has billing periods: a subscription, an anchor."""

    def period_containing(self, instant: datetime) -> Window: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupon:
    """A discount on the charges of `prices` (empty: of all). `currency` is that of an amount, None of a percentage."""

    coupon_id: str
    version: int
    discount: Discount
    currency: str | None = None
    prices: tuple[str, ...] = ()
    periods: int | None = None
    until: datetime | None = None

    def covers(self, subscription: Periodic, redeemed_at: datetime, whole: Window) -> bool:
        """Tell whether the coupon, redeemed at `redeemed_at`, counts for the subscription's period `whole`."""
        if self.until is not None and whole.start >= self.until:
            return False
        first = subscription.period_containing(redeemed_at)
        if whole.start < first.start:
            return False
        return self.periods is None or _periods_between(subscription, first, whole) < self.periods


@dataclass(frozen=True, slots=True, kw_only=True)
class Redemption:
    """A coupon that an account or a subscription has since `since`."""

    coupon_id: str
    since: datetime


class CouponTable(Table):
    """A coupon as a file spells it."""

    id: Id
    """The name of the coupon, by which accounts and subscriptions redeem it."""
    version: Version = 1
    """Raised by whoever changes the coupon after charges rest on it."""
    percent: Annotated[Positive, Field(le=100)] | None = None
    """Percent that are taken off. Write this or amount."""
    amount: Positive | None = None
    """What is taken off a month's charges together, in major units of currency. Write this or percent."""
    currency: str | None = None
    """The currency of amount."""
    prices: tuple[Id, ...] = ()
    """The prices that it is for; left out: all of the subscription's."""
    periods: Annotated[int, Field(strict=True, ge=1, le=1200)] | None = None
    """For how many billing periods it counts, from the one of its redemption on; left out: without end."""
    until: Instant | None = None
    """Periods that begin at this instant or later have it no more."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.percent is None) == (self.amount is None):
            raise ValueError("a coupon is either a percent or an amount: write one of them")
        if (self.amount is None) != (self.currency is None):
            raise ValueError("currency goes with amount: write both, or neither")
        return self

    def entry(self) -> Coupon:
        """Return the entry."""
        off: Discount = (
            PercentOff(rate=share_of(self.percent)) if self.percent is not None else AmountOff(amount=_set(self.amount))
        )
        return Coupon(
            coupon_id=self.id,
            version=self.version,
            discount=off,
            currency=self.currency,
            prices=self.prices,
            periods=self.periods,
            until=self.until,
        )


class RedemptionTable(Table):
    """A redeemed coupon as accounts and subscriptions spell it."""

    coupon: Id
    """The coupon."""
    since: Instant
    """The instant of its redemption: it counts from the billing period on that contains it."""

    def entry(self) -> Redemption:
        """Return the entry."""
        return Redemption(coupon_id=self.coupon, since=self.since)


def _periods_between(subscription: Periodic, first: Window, later: Window) -> int:
    """Return how many of its periods `later` comes after `first`."""
    count, at = 0, first
    while at.end <= later.start:
        count, at = count + 1, subscription.period_containing(at.end)
    return count


def _set(amount: Amount | None) -> Amount:
    assert amount is not None
    return amount
