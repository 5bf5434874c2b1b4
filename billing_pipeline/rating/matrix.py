"""Rate usage by the values of its dimensions: a unit price for each cell of a matrix. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from decimal import Decimal

from billing_pipeline.amounts import Exact, exact_product, exact_sum
from billing_pipeline.catalog import Matrix, Price
from billing_pipeline.rating.lines import NoMatrixCellError, Rated, RatedLine, UsageDetailMissingError
from billing_pipeline.rating.usage import Cells, VersionUsage

_ZERO, _ONE = Decimal(0), Decimal(1)


def rate_matrix(*, price: Price, unit: str, usage: Sequence[VersionUsage]) -> Rated:
    """Return what usage costs whose units have the prices of their cells, a line for each cell that was used.

    Raises:
        NoMatrixCellError: no cell names the values, and the matrix has no price for all others.
        UsageDetailMissingError: the usage does not say the values of the dimensions.
    """
    lines: list[RatedLine] = []
    quantities = []
    priced_unit = unit
    for part in usage:
        version, model = part.version, part.version.model
        if not isinstance(model, Matrix):
            raise TypeError(f"price {price.price_id!r} version {version.version} is no matrix")
        if part.quantity and not isinstance(part.detail, Cells):
            raise UsageDetailMissingError(
                f"price {price.price_id!r} is by {', '.join(model.dimensions)}, and its usage only says what it comes to",
                bill="this charge is not changed; what is booked stays",
                fix="rate usage that is grouped by these dimensions",
                place=price.place("dimensions", version=version.version),
            )
        share = _ONE if version.conversion is None else version.conversion.share
        priced_unit = unit if version.conversion is None else version.conversion.unit
        for label, unit_price, quantity in _by_cell(price, model, part):
            size = exact_product(quantity, times=share, over=_ONE)
            quantities.append(size)
            if size:
                lines.append(
                    RatedLine(
                        version=version.version,
                        tier=None,
                        quantity=size,
                        unit=priced_unit,
                        unit_price=unit_price,
                        flat_fee=_ZERO,
                        amount=exact_product(size, times=unit_price, over=_ONE),
                        label=label,
                    )
                )
    total = exact_sum([line.amount for line in lines])
    return Rated(lines=tuple(lines), quantity=exact_sum(quantities), unit=priced_unit, exact=total)


def _by_cell(price: Price, model: Matrix, part: VersionUsage) -> Iterator[tuple[str, Decimal, Exact]]:
    """Yield (what the cell is about, unit price, quantity) of each cell, in the matrix's order, all others last."""
    found: dict[int, list[Exact]] = defaultdict(list)
    for values, quantity in part.detail.quantities if isinstance(part.detail, Cells) else ():
        found[_cell_of(price, part.version.version, model, values)].append(quantity)
    for number in sorted(found):
        if number == len(model.cells):
            yield "all others", model.unit_price or _ZERO, exact_sum(found[number])
        else:
            cell = model.cells[number]
            named = zip(model.dimensions, cell.values, strict=True)
            label = ", ".join(f"{name} {value}" for name, value in named if value is not None)
            yield label, cell.unit_price, exact_sum(found[number])


def _cell_of(price: Price, version: int, model: Matrix, values: tuple[str, ...]) -> int:
    for number, cell in enumerate(model.cells):
        if all(wanted is None or wanted == value for wanted, value in zip(cell.values, values, strict=True)):
            return number
    if model.unit_price is not None:
        return len(model.cells)
    shown = ", ".join(f"{name} {value!r}" for name, value in zip(model.dimensions, values, strict=True))
    raise NoMatrixCellError(
        f"price {price.price_id!r}: no cell of its matrix is for {shown}",
        bill="this charge is not changed; what is booked stays",
        fix=f"add a version of {price.price_id!r} to prices.toml with a cell for it, or with a unit_price for all others",
        place=price.place("cells", version=version),
    )
