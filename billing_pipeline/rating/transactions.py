"""Rate a percentage of transactions' amounts: fixed fees, free transactions, a least and a most for each. Pure.

Transactions come in order of time where some are free. A transaction that is free in part is paid for the rest of its amount.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from billing_pipeline.amounts import Exact, exact_difference, exact_product, exact_sum, exact_text, floor_div
from billing_pipeline.catalog import Percentage, Price
from billing_pipeline.rating.lines import NegativeQuantityError, Rated, RatedLine, UsageDetailMissingError
from billing_pipeline.rating.usage import Transactions, VersionUsage

_ZERO, _ONE = Decimal(0), Decimal(1)
TRANSACTION = "transaction"


@dataclass(slots=True)
class _Free:
    """The free transactions of the period so far: with what the next version begins."""

    events: int = 0
    amount: Exact = _ZERO


@dataclass(slots=True)
class _Paid:
    """What is paid of one version's transactions: those between least and most, those at the least, those at the most."""

    base: Exact = _ZERO
    count: int = 0
    at_minimum: int = 0
    at_maximum: int = 0


def rate_transactions(*, price: Price, unit: str, usage: Sequence[VersionUsage]) -> Rated:
    """Return what the transactions of one period and group cost.

    2.99 %, at least 1.75 and at most 12 each, on 10, 80 and 10000: 1.75 + 2.392 + 12 = 16.142. Where all of them come to 0
    they cost nothing, also no fixed fees; else one of 0 is a transaction as every other.

    Raises:
        UsageDetailMissingError: a price with free transactions, or a least or most, and usage that only says a total.
        NegativeQuantityError: a transaction below 0.
    """
    lines: list[RatedLine] = []
    quantities = []
    priced_unit = unit
    free = _Free()
    # Of the whole period: at a change of price a part may come to 0, whose fees are due all the same.
    has_amount = any(part.quantity for part in usage)
    for part in usage:
        version, model = part.version, part.version.model
        if not isinstance(model, Percentage):
            raise TypeError(f"price {price.price_id!r} version {version.version} is no percentage")
        if version.restart_tiers:
            free = _Free()
        share = _ONE if version.conversion is None else version.conversion.share
        priced_unit = unit if version.conversion is None else version.conversion.unit
        quantities.append(exact_product(part.quantity, times=share, over=_ONE))
        if has_amount:
            paid = _paid(price, part, model, share, free)
            lines.extend(_lines(version.version, model, priced_unit, paid))
    amount = exact_sum([line.amount for line in lines])
    return Rated(lines=tuple(lines), quantity=exact_sum(quantities), unit=priced_unit, exact=amount)


def _lines(version: int, model: Percentage, unit: str, paid: _Paid) -> Iterator[RatedLine]:
    steps = (
        (paid.base, unit, model.rate, None),
        (Decimal(paid.count), TRANSACTION, model.fixed_fee, None),
        (Decimal(paid.at_minimum), TRANSACTION, model.minimum or _ZERO, "least"),
        (Decimal(paid.at_maximum), TRANSACTION, model.maximum or _ZERO, "most"),
    )
    for quantity, counted, unit_price, label in steps:
        if quantity and (unit_price or counted is unit):
            yield RatedLine(
                version=version,
                tier=None,
                quantity=quantity,
                unit=counted,
                unit_price=unit_price,
                flat_fee=_ZERO,
                amount=exact_product(quantity, times=unit_price, over=_ONE),
                label=label,
            )


def _paid(price: Price, part: VersionUsage, model: Percentage, share: Exact, free: _Free) -> _Paid:
    if not isinstance(part.detail, Transactions):
        if model.needs_transactions or (model.fixed_fee and part.events is None):
            raise _missing(price, part.version.version)
        return _Paid(base=exact_product(part.quantity, times=share, over=_ONE), count=part.events or 0)
    paid = _Paid()
    bases: list[Exact] = []
    for value, number in part.detail.counts:
        if value < 0:
            raise NegativeQuantityError(
                f"price {price.price_id!r}: a transaction is {exact_text(value)}, below 0",
                bill="this charge is not changed; what is booked stays",
                fix="a share of a refund has no meaning here: count refunds with a meter of their own",
                place=price.place("model", version=part.version.version),
            )
        for base, count in _after_free(model, exact_product(value, times=share, over=_ONE), number, free):
            amount = exact_sum([exact_product(base, times=model.rate, over=_ONE), model.fixed_fee])
            if model.minimum is not None and amount < model.minimum:
                paid.at_minimum += count
            elif model.maximum is not None and amount > model.maximum:
                paid.at_maximum += count
            else:
                paid.count += count
                bases.append(_times(base, count))
    paid.base = exact_sum(bases)
    return paid


def _after_free(model: Percentage, amount: Exact, count: int, free: _Free) -> Iterator[tuple[Exact, int]]:
    """Yield (amount, how many) of what is paid of `count` equal transactions, and use up what is free."""
    events_left = count if model.free_events is None else model.free_events - free.events
    if not model.needs_order or events_left <= 0:
        yield amount, count
        return
    whole = min(count, events_left)
    rest: Exact = _ZERO
    if model.free_amount is not None:
        amount_left = exact_difference(model.free_amount, free.amount)
        if amount_left <= 0:
            yield amount, count
            return
        if amount:
            whole = min(whole, floor_div(amount_left, amount))
        rest = exact_difference(amount_left, _times(amount, whole))
    free.events += whole
    free.amount = exact_sum([free.amount, _times(amount, whole)])
    count -= whole
    if count and rest and whole < events_left:
        # The one that passes the free amount: what is above it is paid.
        free.events += 1
        free.amount = exact_sum([free.amount, rest])
        yield exact_difference(amount, rest), 1
        count -= 1
    if count:
        yield amount, count


def _times(amount: Exact, count: int) -> Exact:
    return exact_product(amount, times=Decimal(count), over=_ONE)


def _missing(price: Price, version: int) -> UsageDetailMissingError:
    return UsageDetailMissingError(
        f"price {price.price_id!r} charges for each transaction, and its usage only says what they come to",
        bill="this charge is not changed; what is booked stays",
        fix=f'give the meter {price.meter_id!r} transactions = "ordered" in meters.toml, and build its days again',
        place=price.place("model", version=version),
    )
