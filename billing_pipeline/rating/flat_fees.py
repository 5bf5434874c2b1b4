"""Rate flat fees: (price, billing period) -> a line for each price version in it. Pure."""

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

from billing_pipeline.amounts import exact_product, exact_sum, simplest
from billing_pipeline.catalog import FlatFee, Price, PriceVersion, Prorate
from billing_pipeline.periods import BillingPeriod, Window, day_share, elapsed_share
from billing_pipeline.rating.lines import NoPriceVersionError, Rated, RatedLine

_ZERO = Decimal(0)


def rate_flat_fee(*, price: Price, period: BillingPeriod, zone: str) -> Rated:
    """Return the flat fee of a period: its share of the anchor's whole period, by the price's `prorate`.

    100.00 over January, used to the 16th 00:00, by seconds: 100.00 x 1296000 / 2678400, which rounds to 48.39. A version
    that begins inside the period is charged for its own share. With `prorate: none` the version at the start counts, whole.

    Raises:
        NoPriceVersionError: a part of the period has no version.
    """
    lines = []
    for version, part in versions_in(price, period.window):
        if not isinstance(version.model, FlatFee):
            raise TypeError(f"price {price.price_id!r} version {version.version} is not a flat fee")
        billed, whole = (1, 1)
        if price.prorate is Prorate.SECOND:
            billed, whole = elapsed_share(part, period.whole)
        elif price.prorate is Prorate.DAY:
            billed, whole = day_share(part, period.whole, zone)
        share = simplest(Fraction(billed, whole))
        amount = exact_product(version.model.amount, times=Decimal(billed), over=Decimal(whole))
        lines.append(
            RatedLine(
                version=version.version,
                tier=None,
                quantity=share,
                unit="period",
                unit_price=version.model.amount,
                flat_fee=_ZERO,
                amount=amount,
            )
        )
        if price.prorate is Prorate.NONE:
            break
    quantity = exact_sum([line.quantity for line in lines])
    total = exact_sum([line.amount for line in lines])
    return Rated(lines=tuple(lines), quantity=quantity, unit="period", exact=total)


def versions_in(price: Price, window: Window) -> Iterator[tuple[PriceVersion, Window]]:
    """Yield the versions of `price` in force in `window`, each with its part of it; together they cover it.

    Raises:
        NoPriceVersionError: a part of the window has no version.
    """
    at = window.start
    for version in price.versions:
        part = window.overlap(version.effective_from, version.effective_to)
        if part is None:
            continue
        if part.start > at:
            break
        yield version, part
        at = part.end
    if at < window.end:
        raise NoPriceVersionError(
            f"price {price.price_id!r} has no version at {at.isoformat()}",
            bill="this charge is not changed; what is booked stays",
            fix=f"add a version of {price.price_id!r} to prices.toml that is in force then, and load the catalog",
        )
