"""What is to be used at least: usage beyond a commitment may cost more, what is missing to it is charged. Pure.

A commitment is for a whole billing period, or for each window. Not here: the minimum of what is charged after discounts
(adjustments).
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal

from billing_pipeline.amounts import Exact, exact_difference, exact_product, exact_sum, negated
from billing_pipeline.catalog import Commitment, Price, PriceModel, PriceVersion
from billing_pipeline.rating.lines import LineKind, Rated, RatedLine
from billing_pipeline.rating.tiers import quantity_lines
from billing_pipeline.rating.usage import VersionUsage

_ZERO, _ONE = Decimal(0), Decimal(1)


def committed(rated: Rated, *, price: Price, usage: Sequence[VersionUsage]) -> Rated:
    """Return `rated` with what its commitment for the whole period adds, shared by the time that each version is in force.

    100.00 with a factor of 1.5: usage of 150.00 costs 100 + 50 x 1.5 = 175; usage of 40.00 costs 100 with a true-up, else 40.
    """
    costs = []
    version = commitment = None
    for part in usage:
        if part.version.commitment is not None and part.version.window is None:
            version, commitment = part.version, part.version.commitment
            cost = commitment_cost(price, version, version.model, commitment, unit=rated.unit)
            costs.append(exact_product(cost, times=part.share, over=_ONE))
    if version is None or commitment is None:
        return rated
    added = commitment_lines(version, commitment, exact_sum(costs), rated.lines, currency=price.currency)
    return with_lines(rated, added)


def with_lines(rated: Rated, added: Iterator[RatedLine]) -> Rated:
    """Return `rated` with further lines."""
    more = tuple(added)
    exact = exact_sum([rated.exact, *(line.amount for line in more)])
    return Rated(lines=rated.lines + more, quantity=rated.quantity, unit=rated.unit, exact=exact)


def commitment_cost(
    price: Price, version: PriceVersion, model: PriceModel, commitment: Commitment, *, unit: str
) -> Exact:
    """Return what the commitment comes to: its amount, or what its units (priced units) cost by `model`."""
    if commitment.units is None:
        return commitment.amount or _ZERO
    lines = quantity_lines(price, version.version, model, unit=unit, quantity=commitment.units)
    return exact_sum([line.amount for line in lines])


def commitment_lines(
    version: PriceVersion,
    commitment: Commitment,
    cost: Exact,
    lines: Sequence[RatedLine],
    *,
    currency: str,
    label: str | None = None,
) -> Iterator[RatedLine]:
    """Yield what usage (`lines`) beyond `cost` costs on top, or what is missing to it."""
    used = exact_sum([line.amount for line in lines])
    beyond = exact_difference(used, cost)
    factor = commitment.overage_factor - _ONE
    if beyond > 0 and factor:
        yield RatedLine(
            version=version.version,
            tier=None,
            quantity=beyond,
            unit=currency,
            unit_price=factor,
            flat_fee=_ZERO,
            amount=exact_product(beyond, times=factor, over=_ONE),
            kind=LineKind.OVERAGE,
            label=label,
        )
    elif beyond < 0 and commitment.true_up:
        yield RatedLine(
            version=version.version,
            tier=None,
            quantity=cost,
            unit=currency,
            unit_price=_ONE,
            flat_fee=_ZERO,
            amount=negated(beyond),
            kind=LineKind.COMMITMENT,
            label=label,
            less=used,
        )
