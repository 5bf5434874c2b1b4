"""What one version of a price may not say: tiers, windows, commitments, matrices, percentages. Pure.

Problems come as (field, message), the field below the version. Not here: versions against each other, and everything that
is about more than one entry (validation).
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from billing_pipeline.amounts import exact_text
from billing_pipeline.catalog.entries import Price, PriceVersion
from billing_pipeline.catalog.models import (
    Dynamic,
    FlatFee,
    Graduated,
    GraduatedPercentage,
    Matrix,
    MeteredBalance,
    MinimumSpend,
    Package,
    Percentage,
    Standard,
    Tier,
    Volume,
)
from billing_pipeline.catalog.price_tables import PriceTable
from billing_pipeline.meters import Aggregation, Meter, MeterSource, TransactionDetail

Problem = tuple[str, str]
DAY_SECONDS = 86_400


def version_problems(table: PriceTable, number: int, version: PriceVersion) -> Iterator[Problem]:
    """Yield what is wrong with one version by itself; `number` is its place in the table."""
    if isinstance(version.model, FlatFee | MinimumSpend):
        if table.meter is not None:
            yield "model", f"a {version.model_name} has no meter: leave meter out, or take a model that rates usage"
    elif table.meter is None:
        yield (
            "model",
            f'a {version.model_name} price needs a meter: say which usage it charges, such as meter = "requests"',
        )
    if isinstance(version.model, FlatFee | MinimumSpend):
        if version.conversion or version.included_units:
            yield "model", "a flat fee has neither included units nor a unit conversion"
        if version.window or version.commitment:
            yield "model", "a flat fee has neither windows nor a commitment"
    if isinstance(version.model, FlatFee):
        yield from _fee_problems(table, number, version.model)
    for field, instant in (("effective_from", version.effective_from), ("effective_to", version.effective_to)):
        if instant is not None and (instant.minute or instant.second):
            yield field, f"{instant.isoformat()} is inside an hour; usage rows change price on whole UTC hours"
    if version.effective_to is not None and version.effective_to <= version.effective_from:
        yield "effective_from", "is not before the version's end; no instant is left for it"
    match version.model:
        case Graduated(tiers=tiers) | Volume(tiers=tiers) | GraduatedPercentage(tiers=tiers):
            yield from tier_problems(table, number, tiers)
        case Matrix() as matrix:
            yield from _matrix_problems(version, matrix)
        case Percentage() as percentage:
            yield from _percentage_problems(version, percentage)
    yield from _window_problems(version)
    yield from _included_problems(version)
    yield from _adjustment_problems(version)


def _fee_problems(table: PriceTable, number: int, fee: FlatFee) -> Iterator[Problem]:
    if fee.tiers:
        if fee.per is None:
            yield "tiers", 'are of a quantity of the subscription: say of which, such as per = "seat"'
        for place, tier in enumerate(fee.tiers, 1):
            if tier.package_size is not None or tier.maximum is not None:
                yield f"tiers.{place}", "of a fee has up_to, unit_price and flat_fee: leave the rest out"
        yield from tier_problems(table, number, fee.tiers)
    elif "tiering" in table.versions[number].model_fields_set:
        yield "tiering", "goes with tiers"


def _included_problems(version: PriceVersion) -> Iterator[Problem]:
    if not version.is_included_once:
        return
    if not version.included_units:
        yield "included_reset", "says when included_units are given anew: say how many there are"
    if version.restart_tiers:
        yield "included_reset", "never, and restart_tiers would give included units anew: leave one of them out"
    if version.conversion is not None and version.conversion.rounding is not None:
        yield (
            "included_reset",
            "never goes on over periods, and a rounded conversion begins anew with each: leave rounding out",
        )
    if version.is_prorated:
        yield "included_reset", "never is about quantities that add up, not about a level"


def tier_problems(table: PriceTable, number: int, tiers: Sequence[Tier]) -> Iterator[Problem]:
    """Yield what is wrong with tiers: a gap, an overlap, an open tier that is not the last."""
    for place, (lower, upper) in enumerate(pairwise(tiers), 1):
        if lower.up_to is None:
            yield f"tiers.{place}.up_to", "is open, and tiers follow: say where it ends; only the last may be open"
        elif upper.up_to is not None and upper.up_to <= lower.up_to:
            yield (
                f"tiers.{place + 1}.up_to",
                f"{exact_text(upper.up_to)} is not above {exact_text(lower.up_to)}: write the tiers in ascending order",
            )
    bound: Decimal | None = Decimal(0)
    for place, (tier, written) in enumerate(zip(tiers, table.versions[number].tiers or (), strict=False), 1):
        if written.above is not None and bound is not None and written.above != bound:
            what = "leaves a gap after the tier before" if written.above > bound else "overlaps the tier before"
            message = (
                f"{exact_text(written.above)} {what}, which ends at {exact_text(bound)}: write that, or leave it out"
            )
            yield f"tiers.{place}.above", message
        bound = tier.up_to
        if written.percent is not None and table.versions[number].model != "graduated_percentage":
            yield f"tiers.{place}.percent", "goes with the model graduated_percentage; write unit_price"


def usage_shape(version: PriceVersion) -> str:
    """Return what a version rates: quantities, transactions, windows, levels or cells."""
    if isinstance(version.model, Matrix):
        return f"cells by {', '.join(version.model.dimensions)}"
    return f"windows of {version.window.seconds} seconds" if version.window is not None else str(version.shape)


def meter_problems(price: Price, version: PriceVersion, meter: Meter) -> Iterator[Problem]:
    """Yield what the price's meter does not give that the version rates."""
    model = version.model
    if isinstance(model, Percentage) and model.needs_transactions:
        wanted = TransactionDetail.ORDERED if model.needs_order else TransactionDetail.COUNTED
        has = meter.transactions
        if has is None or (has is TransactionDetail.COUNTED and model.needs_order):
            yield "model", f'needs single transactions: give meter {meter.meter_id!r} transactions = "{wanted}"'
    if isinstance(model, Percentage) and meter.aggregation is not Aggregation.SUM:
        yield "model", f"a percentage is of a sum; meter {meter.meter_id!r} has the aggregation {meter.aggregation}"
    if version.is_prorated and meter.aggregation is not Aggregation.LEVEL:
        yield "prorated", f"needs a meter of a level; meter {meter.meter_id!r} has the aggregation {meter.aggregation}"
    if version.is_included_once and meter.aggregation not in (Aggregation.COUNT, Aggregation.SUM):
        message = f"never needs a meter that adds up; meter {meter.meter_id!r} has the aggregation {meter.aggregation}"
        yield "included_reset", message
    if version.window is not None:
        grain = meter.bucket_seconds or 3600
        if version.window.seconds % grain:
            message = f"{version.window.seconds} is no multiple of the {grain} seconds that meter {meter.meter_id!r} tells apart"
            yield "window.seconds", f"{message}: give the meter a smaller bucket_seconds"
        if meter.aggregation in (Aggregation.TIME_WEIGHTED, Aggregation.LEVEL):
            yield "window", "a level that is weighed by time is about the whole period, not about windows"
    if isinstance(model, Matrix):
        strange = [str(one) for one in model.dimensions if one not in _DIMENSIONS_OF[meter.source]]
        if strange:
            yield "dimensions", f"usage of meter {meter.meter_id!r} has no {', '.join(strange)}"


_DIMENSIONS_OF = {
    MeterSource.API_REQUESTS: frozenset({"endpoint", "method", "client_id"}),
    MeterSource.TRAFFIC: frozenset({"node", "inbound_tag"}),
    MeterSource.STORAGE: frozenset[str](),
}


def _adjustment_problems(version: PriceVersion) -> Iterator[Problem]:
    found = version.adjustments
    if found is None:
        return
    if isinstance(version.model, MeteredBalance | MinimumSpend):
        yield "discount", f"a {version.model_name} has no discount, maximum or minimum: leave them out"
    elif found.maximum is not None and found.minimum is not None and found.maximum < found.minimum:
        yield "maximum", f"{exact_text(found.maximum)} is below the minimum {exact_text(found.minimum)}"


def _matrix_problems(version: PriceVersion, matrix: Matrix) -> Iterator[Problem]:
    if len(set(matrix.dimensions)) < len(matrix.dimensions):
        yield "dimensions", "names a dimension twice"
    for place, cell in enumerate(matrix.cells, 1):
        for before, earlier in enumerate(matrix.cells[: place - 1], 1):
            if all(wide is None or wide == value for wide, value in zip(earlier.values, cell.values, strict=True)):
                yield f"cells.{place}", f"is never reached: cell {before} matches first"
                break
    if version.included_units or (version.conversion is not None and version.conversion.rounding is not None):
        yield "model", "a matrix has neither included units nor a rounded conversion: which cell would they be of?"
    if version.commitment is not None:
        yield "commitment", "goes with models that rate a quantity, not with a matrix"


def _percentage_problems(version: PriceVersion, percentage: Percentage) -> Iterator[Problem]:
    least, most = percentage.minimum, percentage.maximum
    if least is not None and most is not None and most < least:
        yield "maximum_per_transaction", f"{exact_text(most)} is below minimum_per_transaction, {exact_text(least)}"
    if version.included_units:
        yield "included_units", "of a percentage is free_amount or free_events"
    if version.conversion is not None and version.conversion.rounding is not None:
        yield "conversion.rounding", "would round every transaction by itself: leave it out"
    if version.commitment is not None:
        yield "commitment", "goes with models that rate a quantity, not with a percentage"


def _window_problems(version: PriceVersion) -> Iterator[Problem]:
    window = version.window
    if window is None:
        if version.commitment is not None and not isinstance(version.model, _QUANTITY_MODELS):
            yield "commitment", f"does not go with {version.model_name}"
        return
    if not isinstance(version.model, Standard | Graduated | Volume | Package) or version.is_prorated:
        yield "window", f"windows are rated by standard, graduated, volume and package, not by {version.model_name}"
    if DAY_SECONDS % window.seconds:
        yield "window.seconds", f"{window.seconds} does not divide a day"
    if version.included_units:
        yield "included_units", "would be of each window: use a first tier at 0 instead"
    if not is_zone(window.zone):
        yield "window.zone", f"{window.zone!r} is not an IANA time zone such as Europe/Berlin"
    for place, hours in enumerate(window.hours, 1):
        if hours.start == hours.end:
            yield f"window.hours.{place}", "begins where it ends, and holds no time of day"


_QUANTITY_MODELS = (Standard, Graduated, Volume, Package, GraduatedPercentage, Dynamic)


@lru_cache(maxsize=1024)
def is_zone(name: str) -> bool:
    """Tell whether `name` is an IANA time zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
