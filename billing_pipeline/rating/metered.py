"""Rate metered usage: (price, usage by price version) -> lines and an exact total. Pure.

Order: unit conversion -> included units -> price -> commitment -> discount -> maximum -> minimum. Not here: flat fees
(flat_fees), balances (balances), what several charges share (billing_pipeline.period_charges).
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal, Inexact
from fractions import Fraction

from billing_pipeline.amounts import Exact, exact_arithmetic, exact_difference, exact_product, exact_text
from billing_pipeline.catalog import Discount, Matrix, Percentage, Price, PriceVersion
from billing_pipeline.rating.adjustments import adjusted, discounted
from billing_pipeline.rating.balances import by_quota, rate_balance
from billing_pipeline.rating.commitments import committed
from billing_pipeline.rating.levels import rate_levels
from billing_pipeline.rating.lines import NegativeQuantityError, Rated, RatedLine
from billing_pipeline.rating.matrix import rate_matrix
from billing_pipeline.rating.tiers import Number, amount_of, converted, lines_of, plain, steps
from billing_pipeline.rating.transactions import rate_transactions
from billing_pipeline.rating.usage import VersionUsage
from billing_pipeline.rating.windows import rate_windows

_ZERO, _ONE = Decimal(0), Decimal(1)


def rate(
    *, price: Price, unit: str, usage: Sequence[VersionUsage], coupons: Sequence[tuple[str, Discount]] = ()
) -> Rated:
    """Return what `usage` of one period and one group costs at `price`, with its lines. The one function of every bill.

    `usage` is in order of versions, each version's part for itself; `unit` is the meter's. Tiers, packages, included units
    and free transactions go on counting from one version to the next, unless a version restarts them: 0.10 until the 15th
    and 0.20 from the 16th of 30 days at 1 a day is 15 x 0.10 + 15 x 0.20 = 4.50. `coupons` are (id, discount), taken off in
    this order after the price's own discount. A prepaid price is rated as if every multiplier were 1.

    Raises:
        NegativeQuantityError: a quantity below 0, of a model that does not say what it means.
        BeyondLastTierError: more than a bounded last tier covers.
        NoMatrixCellError: usage that a matrix does not name.
        UsageDetailMissingError: the usage is not told in the detail that the price rates.
    """
    rated = _checked(price=price, unit=unit, usage=usage)
    if coupons or any(part.version.adjustments is not None for part in usage):
        return adjusted(rated, price=price, usage=usage, coupons=coupons)
    return rated


def rate_before_coupons(*, price: Price, unit: str, usage: Sequence[VersionUsage]) -> Rated:
    """Return what `rate` does before coupons: the price with its commitment and its own discount."""
    return discounted(_checked(price=price, unit=unit, usage=usage), price=price, usage=usage)


def _checked(*, price: Price, unit: str, usage: Sequence[VersionUsage]) -> Rated:
    is_committed = False
    for part in usage:
        if part.quantity < 0 and not part.version.allows_negative:
            raise NegativeQuantityError(
                f"price {price.price_id!r}: the quantity is {exact_text(part.quantity)} {unit}, below 0",
                bill="this charge is not changed; what is booked stays",
                fix="find the usage rows below 0, correct what was delivered and build their days again; amounts that may be below "
                '0 need a price with model = "dynamic"',
                place=price.place("model", version=part.version.version),
            )
        is_committed = is_committed or part.version.commitment is not None
    if price.is_prepaid:
        return rate_balance(price=price, unit=unit, usage=list(by_quota(usage)))
    rated = _priced(price, unit, usage)
    return committed(rated, price=price, usage=usage) if is_committed else rated


def _priced(price: Price, unit: str, usage: Sequence[VersionUsage]) -> Rated:
    version = usage[0].version if usage else None
    if version is not None:
        if version.window is not None:
            return rate_windows(price=price, unit=unit, usage=usage)
        match version.model:
            case Percentage():
                return rate_transactions(price=price, unit=unit, usage=usage)
            case Matrix():
                return rate_matrix(price=price, unit=unit, usage=usage)
        if version.is_prorated:
            return rate_levels(price=price, unit=unit, usage=usage)
        if len(usage) == 1 and version.conversion is None and isinstance(usage[0].quantity, Decimal):
            included = _included(usage[0])
            if isinstance(included, Decimal):
                with exact_arithmetic():
                    return _alone(price, unit, version, usage[0].quantity, included)
    parts = [(part.version, part.quantity, _included(part)) for part in usage]
    decimals = [
        (one, quantity, included)
        for one, quantity, included in parts
        if isinstance(quantity, Decimal) and isinstance(included, Decimal)
    ]
    if len(decimals) == len(parts):
        try:
            with exact_arithmetic():
                return _rated(price, unit, decimals, Decimal)
        except Inexact:
            # A conversion that does not terminate, such as seconds over 3600: the same formulas on fractions.
            pass
    fractions = [(one, Fraction(quantity), Fraction(included)) for one, quantity, included in parts]
    return _rated(price, unit, fractions, Fraction)


def _included(part: VersionUsage) -> Exact:
    """Return the priced units that cost nothing: of those that are included once what is left of them, 20 of 100 after 80."""
    version = part.version
    if not version.is_included_once:
        return version.included_units
    share = _ONE if version.conversion is None else version.conversion.share
    return max(exact_difference(version.included_units, exact_product(part.before, times=share, over=_ONE)), _ZERO)


def _alone(price: Price, unit: str, version: PriceVersion, used: Decimal, included: Decimal) -> Rated:
    """Return what `_rated` does for one version without conversion: most charges are that. Nothing in it divides."""
    upto = max(used - included, _ZERO) if included else used
    lines: tuple[RatedLine, ...] = ()
    total = _ZERO
    for step in steps(price, version.model, _ZERO, upto, upto, has_fee=True):
        total += amount_of(step)
        lines += lines_of(step, version.version, unit)
    return Rated(lines=lines, quantity=used, unit=unit, exact=total)


_Part = tuple[PriceVersion, Number, Number]


def _rated(price: Price, unit: str, usage: Sequence[_Part[Number]], number: type[Number]) -> Rated:
    lines: list[RatedLine] = []
    quantity = total = number(0)
    priced_unit = unit
    for run in _runs(usage):
        raw = number(0)
        run_total = sum((used for _, used, _ in run), number(0))
        has_fee = True
        for version, used, included in run:
            converted_before = converted(raw, version.conversion)
            raw += used
            upto = converted(raw, version.conversion)
            priced_unit = version.conversion.unit if version.conversion else unit
            quantity += upto - converted_before
            if included:
                whole = max(converted(run_total, version.conversion) - included, number(0))
                before, upto = max(converted_before - included, number(0)), max(upto - included, number(0))
            else:
                before, whole = converted_before, converted(run_total, version.conversion)
            for step in steps(price, version.model, before, upto, whole, has_fee=has_fee):
                total += amount_of(step)
                lines.extend(lines_of(step, version.version, priced_unit))
            has_fee = has_fee and upto == before and not version.has_fee_at_zero
    return Rated(lines=tuple(lines), quantity=plain(quantity), unit=priced_unit, exact=plain(total))


def _runs(usage: Sequence[_Part[Number]]) -> Iterator[Sequence[_Part[Number]]]:
    """Split `usage` where a version restarts its tiers."""
    start = 0
    for index, (version, _, _) in enumerate(usage):
        if index > start and version.restart_tiers:
            yield usage[start:index]
            start = index
    yield usage[start:]
