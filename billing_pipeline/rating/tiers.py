"""What models that rate a quantity make of the units between two totals: the steps of their arithmetic. Pure.

A step says: so many units (or packages) at so much, and a fee. The first units of a period begin at 0; what follows after a
change of version begins where the version before ended. Not here: conversion and included units (metered).
"""

from collections.abc import Iterator
from decimal import Decimal, Inexact
from fractions import Fraction
from typing import Generic, NamedTuple, TypeVar

from billing_pipeline.amounts import Exact, exact_arithmetic, exact_text, simplest
from billing_pipeline.catalog import (
    Dynamic,
    FlatFee,
    Graduated,
    GraduatedPercentage,
    MinimumSpend,
    Package,
    PackageRounding,
    Price,
    PriceModel,
    Standard,
    Tier,
    UnitConversion,
    Volume,
)
from billing_pipeline.rating.lines import BeyondLastTierError, LineKind, RatedLine

# One formula for both: Decimal for what terminates, Fraction for what does not (a third of a unit).
Number = TypeVar("Number", Decimal, Fraction)
PACKAGE = "package"
_ZERO, _ONE = Decimal(0), Decimal(1)


class Step(NamedTuple, Generic[Number]):
    """`size` units, or packages where `unit` says so, at `unit_price`, and a fee; `capped` is taken off again, of a tier that
    has a maximum."""

    tier: int | None
    size: Number
    unit_price: Decimal
    flat_fee: Decimal = _ZERO
    unit: str | None = None
    capped: Number | None = None
    cap: Decimal = _ZERO


def steps(
    price: Price, model: PriceModel, before: Number, upto: Number, whole: Number, *, has_fee: bool
) -> Iterator[Step[Number]]:
    """Yield the steps for the units above `before` up to `upto`, both 0 or more.

    `whole` is the total that a volume price picks its tier by. `has_fee`: nothing of this run was charged before, so that a
    volume price's flat fee, and a first fee that is due without usage, are due now.

    Raises:
        BeyondLastTierError: more than a bounded last tier covers.
    """
    match model:
        case Standard(unit_price=unit_price) | Dynamic(multiplier=unit_price):
            if upto != before:
                yield Step(None, upto - before, unit_price)
        case Graduated(tiers=tiers, fee_at_zero=fee_at_zero):
            yield from _graduated(price, tiers, before, upto, has_first_fee=has_fee if fee_at_zero else None)
        case GraduatedPercentage(tiers=tiers):
            yield from _graduated(price, tiers, before, upto, has_first_fee=None)
        case Volume(tiers=tiers, fee_at_zero=fee_at_zero):
            if upto != before or (fee_at_zero and has_fee):
                yield _volume(price, tiers, before, upto, whole, has_fee=has_fee)
        case Package() as package:
            packages = _packages(package, upto) - _packages(package, before)
            if packages:
                yield Step(None, packages, package.price, unit=PACKAGE)
        case FlatFee() | MinimumSpend():
            raise TypeError(f"price {price.price_id!r} has no meter: rate_flat_fee rates it")
        case _:
            raise TypeError(f"price {price.price_id!r} does not rate a quantity alone")


def _graduated(
    price: Price, tiers: tuple[Tier, ...], before: Number, upto: Number, *, has_first_fee: bool | None
) -> Iterator[Step[Number]]:
    """`has_first_fee` None: the first tier's fee is due on entering it, as every other's."""
    number = type(upto)
    lower = number(0)
    for position, tier in enumerate(tiers, 1):
        upper = upto if tier.up_to is None else min(number(tier.up_to), upto)
        start = max(lower, before)
        # The fee is due on entering: when nothing was in the tier before these units.
        has_fee = before <= lower and upper > lower
        if position == 1 and has_first_fee is not None:
            has_fee = has_first_fee
        if upper > start or has_fee:
            fee = tier.flat_fee if has_fee else _ZERO
            if tier.package_size is None and tier.maximum is None:
                yield Step(position, max(upper - start, number(0)), tier.unit_price, fee)
            else:
                yield _stepped(position, tier, start - lower, max(upper - lower, start - lower), fee)
        if tier.up_to is None or upto <= number(tier.up_to):
            return
        lower = number(tier.up_to)
    raise beyond_last_tier(price, tiers, upto)


def _volume(
    price: Price, tiers: tuple[Tier, ...], before: Number, upto: Number, whole: Number, *, has_fee: bool
) -> Step[Number]:
    position, tier = tier_of(price, tiers, whole)
    fee = tier.flat_fee if has_fee else _ZERO
    if tier.package_size is None and tier.maximum is None:
        return Step(position, upto - before, tier.unit_price, fee)
    return _stepped(position, tier, before, upto, fee)


def _stepped(position: int, tier: Tier, start: Number, end: Number, fee: Decimal) -> Step[Number]:
    """Return the step of the units between `start` and `end` of a tier with packages, or with a maximum."""
    number = type(end)
    price, unit = number(tier.unit_price), None
    if tier.package_size is not None:
        size = number(tier.package_size)
        start, end, unit = _ceiling(start, size), _ceiling(end, size), PACKAGE
    step = Step(position, end - start, tier.unit_price, fee, unit)
    if tier.maximum is None:
        return step
    cap, flat = number(tier.maximum), number(tier.flat_fee)
    # A fee that is not due now was charged with the units before.
    earlier = min(start * price + flat, cap) if start or not fee else number(0)
    due = min(end * price + flat, cap) - earlier
    capped = (end - start) * price + number(fee) - due
    return step._replace(capped=capped, cap=tier.maximum) if capped else step


def _ceiling(quantity: Number, size: Number) -> Number:
    full = type(quantity)(quantity // size)
    return full + 1 if full * size < quantity else full


def _packages(package: Package, quantity: Number) -> Number:
    """Return how many packages `quantity` takes; `//` is exact on both kinds of numbers, and nothing here is below 0."""
    number = type(quantity)
    paid, size = max(quantity - number(package.free_units), number(0)), number(package.size)
    return _ceiling(paid, size) if package.rounding is PackageRounding.UP else number(paid // size)


def tier_of(price: Price, tiers: tuple[Tier, ...], quantity: Exact) -> tuple[int, Tier]:
    """Return number and tier that `quantity` lies in.

    Raises:
        BeyondLastTierError: in none.
    """
    for position, tier in enumerate(tiers, 1):
        if tier.up_to is None or quantity <= tier.up_to:
            return position, tier
    raise beyond_last_tier(price, tiers, quantity)


def beyond_last_tier(price: Price, tiers: tuple[Tier, ...], quantity: Exact) -> BeyondLastTierError:
    """Return the error of a quantity that no tier covers."""
    last = tiers[-1].up_to
    shown = exact_text(simplest(quantity) if isinstance(quantity, Fraction) else quantity)
    return BeyondLastTierError(
        f"price {price.price_id!r}: the quantity {shown} is beyond the last tier, "
        f"which ends at {'-' if last is None else exact_text(last)}",
        bill="this charge is not changed; what is booked stays",
        fix=f"add a version of {price.price_id!r} whose last tier is open, or reaches further, and load the catalog",
        place=price.place("tiers", version=_version_of(price, tiers)),
    )


def _version_of(price: Price, tiers: tuple[Tier, ...]) -> int | None:
    """Return the version that has these tiers, None where they are not a version's own but of some hours of the day."""
    found = (one.version for one in price.versions if getattr(one.model, "tiers", None) is tiers)
    return next(found, None)


def converted(raw: Number, conversion: UnitConversion | None) -> Number:
    """Return meter units as priced units."""
    if conversion is None:
        return raw
    number = type(raw)
    units = raw * number(conversion.multiply) / number(conversion.divide)
    return units if conversion.rounding is None else number(conversion.rounding.apply(units))


def plain(value: Exact) -> Exact:
    """Return `value` as a decimal where it ends: a fraction that was needed on the way may have, as 1/3 hour + 2/3 hour."""
    return value if isinstance(value, Decimal) else simplest(value)


def quantity_lines(
    price: Price, version: int, model: PriceModel, *, unit: str, quantity: Exact, label: str | None = None
) -> tuple[RatedLine, ...]:
    """Return the lines of one quantity (priced units) by itself, as if nothing was used before.

    Raises:
        BeyondLastTierError: more than a bounded last tier covers.
    """
    if isinstance(quantity, Decimal):
        try:
            with exact_arithmetic():
                return tuple(_alone(price, version, model, unit, quantity, label))
        except Inexact:
            pass
    return tuple(_alone(price, version, model, unit, Fraction(quantity), label))


def _alone(
    price: Price, version: int, model: PriceModel, unit: str, quantity: Number, label: str | None
) -> Iterator[RatedLine]:
    for step in steps(price, model, type(quantity)(0), quantity, quantity, has_fee=True):
        yield from lines_of(step, version, unit, label)


def amount_of(step: Step[Number]) -> Number:
    """Return what a step comes to."""
    number = type(step.size)
    amount = step.size * number(step.unit_price) + number(step.flat_fee)
    return amount if step.capped is None else amount - step.capped


def lines_of(step: Step[Number], version: int, unit: str, label: str | None = None) -> tuple[RatedLine, ...]:
    """Return the line of a step, and one that takes off again what a tier's maximum leaves out."""
    number = type(step.size)
    amount = step.size * number(step.unit_price) + number(step.flat_fee)
    line = RatedLine(
        version=version,
        tier=step.tier,
        quantity=plain(step.size),
        unit=step.unit or unit,
        unit_price=step.unit_price,
        flat_fee=step.flat_fee,
        amount=plain(amount),
        label=label,
    )
    if step.capped is None:
        return (line,)
    return (
        line,
        RatedLine(
            version=version,
            tier=step.tier,
            quantity=_ONE,
            unit="tier maximum",
            unit_price=step.cap,
            flat_fee=_ZERO,
            amount=plain(-step.capped),
            kind=LineKind.MAXIMUM,
            label=label,
            less=plain(number(step.cap) + step.capped),
        ),
    )
