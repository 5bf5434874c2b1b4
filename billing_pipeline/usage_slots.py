"""A charge that is to be rated with the usage that it needs: sums or rows of usage -> usage by price version. Pure.

Not here: reading usage (charge_usage), what a version asks for it (rating).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

from billing_pipeline.amounts import Exact, exact_product, exact_sum
from billing_pipeline.billing_schedule import ScheduledCharge, ScheduledTerm
from billing_pipeline.catalog import (
    Catalog,
    Dimension,
    Matrix,
    Meter,
    Percentage,
    Price,
    PriceVersion,
    Subscription,
    UsageShape,
)
from billing_pipeline.charges import group_key
from billing_pipeline.meter_details import level_changes, level_steps, level_worth, transactions, window_quantities
from billing_pipeline.meters import Aggregation, UsageState, merge
from billing_pipeline.period_charges import PeriodUsage
from billing_pipeline.periods import Window
from billing_pipeline.rating import (
    Cells,
    Detail,
    Levels,
    LevelStep,
    Transactions,
    UnratableError,
    VersionUsage,
    Windows,
    version_shares,
    versions_in,
    windows_in,
)
from billing_pipeline.usage_states import is_combinable, level_state_of

DIMENSIONS = tuple(Dimension)
_ZERO, _ONE = Decimal(0), Decimal(1)

# The group of usage: its value of each of `DIMENSIONS` that the price rates apart or prices by, '' for the others.
Group = tuple[str, ...]
UNTOLD: Group = ("",) * len(DIMENSIONS)
# Quantity and records by price version.
Sums = Mapping[int, tuple[Decimal, int]]


class Slot(NamedTuple):
    """A charge that is to be rated, with what it has in common with others, and the share of the period of each version."""

    scheduled: ScheduledCharge
    common: "CommonTerms"
    shares: tuple[Exact, ...]

    @property
    def meter(self) -> Meter | None:
        """Return the price's meter."""
        return self.common.meter

    @property
    def versions(self) -> tuple[tuple[PriceVersion, Window], ...]:
        """Return the price's versions in force, each with its part of the period."""
        return self.common.versions

    @property
    def needs_rows(self) -> bool:
        """Tell whether the rows of usage are needed, and not just what they add up to."""
        return self.common.needs_rows

    @property
    def is_merged(self) -> bool:
        """Tell whether rows are merged from states to one quantity of the whole period."""
        return self.common.is_merged

    @property
    def needs_before(self) -> bool:
        """Tell whether it matters what was used before the period, of which units are included once."""
        return self.common.needs_before

    @property
    def dimensions(self) -> frozenset[Dimension]:
        """Return the dimensions that its usage is told by."""
        return frozenset(dimension for dimension, tells in zip(DIMENSIONS, self.common.tells_by, strict=True) if tells)

    @property
    def window(self) -> Window:
        """Return the part of the billing period that it covers."""
        return self.scheduled.period.window

    @property
    def is_additive(self) -> bool:
        """Tell whether usage of its meter adds up."""
        return self.meter is not None and self.meter.aggregation.is_additive

    @property
    def is_level(self) -> bool:
        """Tell whether its meter goes on from the period before."""
        return self.meter is not None and self.meter.aggregation is Aggregation.LEVEL


class SlotTerms(NamedTuple):
    """What the slots of all subscriptions with the same phases and anchors have in common, and the shares of the versions."""

    term: ScheduledTerm
    common: "CommonTerms"
    shares: tuple[Exact, ...]

    def of(self, subscription: Subscription) -> Slot:
        """Return a subscription's slot."""
        return Slot(ScheduledCharge(subscription, *self.term), self.common, self.shares)


# Sums that are remembered of one price and period.
_MOST_SUMS = 1 << 16


class Slots:
    """Makes slots. What they have in common, because their price and period are the same, is found out once."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._common: dict[tuple[str, Window], CommonTerms] = {}

    def slot(self, scheduled: ScheduledCharge) -> Slot:
        """Return the slot of a scheduled charge.

        Raises:
            NoPriceVersionError: a part of its period has no version.
        """
        return self.terms(scheduled.subscription, ScheduledTerm(*scheduled[1:])).of(scheduled.subscription)

    def terms(self, subscription: Subscription, term: ScheduledTerm) -> SlotTerms:
        """Return the terms of a slot of any subscription whose phases and anchors are like this one's. Raises as `slot`."""
        price, window = term.price, term.period.window
        common = self._common.get((price.price_id, window))
        if common is None:
            meter = None if price.meter_id is None else self._catalog.meters[price.meter_id]
            try:
                versions = tuple(versions_in(price, window))
            except UnratableError as error:
                raise error.of_charge(
                    account_id=subscription.account_id, subscription_id=subscription.subscription_id, period=window
                ) from None
            common = self._common[price.price_id, window] = _common(price, meter, window, versions)
        shares = common.shares
        if shares is None:
            shares = version_shares(price, common.versions, term.period, subscription.anchor.zone)
        return SlotTerms(term, common, shares)


_Versions = tuple[tuple[PriceVersion, Window], ...]


@dataclass(frozen=True, slots=True, eq=False)
class CommonTerms:
    """What slots of one price and period have in common; `shares` None: each has its own.

    `needs_rows`: the rows of usage are needed, and not just what they add up to; `is_merged`: they are merged from states to one
    quantity of the whole period; `tells_by`: usage is told by that one of `DIMENSIONS`; `needs_before`: it matters what was used
    before the period, of which units are included once. `is_sum`: quantity and records alone say what is rated; `usage_of_sum`
    remembers it.
    """

    window: Window
    meter: Meter | None
    versions: _Versions
    shares: tuple[Exact, ...] | None
    needs_rows: bool
    is_merged: bool
    tells_by: tuple[bool, ...]
    needs_before: bool
    is_sum: bool
    known: dict[tuple[Decimal, int], Mapping[str, tuple[VersionUsage, ...]]] = field(default_factory=dict)

    @property
    def meter_id(self) -> str:
        """Return the meter's id, empty without one."""
        return "" if self.meter is None else self.meter.meter_id


def _common(price: Price, meter: Meter | None, window: Window, versions: _Versions) -> CommonTerms:
    is_shared = any(version.adjustments or version.commitment for version, _ in versions)
    is_merged = meter is not None and is_combinable(meter) and versions[0][0].shape is UsageShape.QUANTITY
    needs_rows, needs_before = _needs_rows(meter, versions), any(version.is_included_once for version, _ in versions)
    tells_by = _tells_by(price, versions)
    is_weighted = meter is not None and meter.aggregation is Aggregation.TIME_WEIGHTED
    is_whole = len(versions) == 1 and not is_shared and not is_weighted
    return CommonTerms(
        window=window,
        meter=meter,
        versions=versions,
        shares=None if is_shared else (_ONE,) * len(versions),
        needs_rows=needs_rows,
        is_merged=is_merged,
        tells_by=tells_by,
        needs_before=needs_before,
        is_sum=meter is not None and is_whole and not needs_rows and not needs_before and not any(tells_by),
    )


def _needs_rows(meter: Meter | None, versions: _Versions) -> bool:
    if meter is None:
        return False
    if versions[0][0].shape is UsageShape.TRANSACTIONS:
        return any(isinstance(one.model, Percentage) and one.model.needs_transactions for one, _ in versions)
    return not meter.aggregation.is_additive or versions[0][0].shape is UsageShape.WINDOWS


def _tells_by(price: Price, versions: _Versions) -> tuple[bool, ...]:
    model = versions[0][0].model
    dimensions = {*price.group_by, *(model.dimensions if isinstance(model, Matrix) else ())}
    return tuple(dimension in dimensions for dimension in DIMENSIONS)


def period_usage(slot: Slot, groups: Mapping[str, tuple[VersionUsage, ...]]) -> PeriodUsage:
    """Return the usage of a slot for rating; without any, nothing, or zeros where something is due all the same."""
    if not groups and slot.meter is not None and not slot.scheduled.price.group_by and _is_due_unused(slot):
        groups = {"": tuple(usage_of_rows(slot, ()) if slot.needs_rows else _usage_of_sums(slot, ()))}
    return PeriodUsage(slot.scheduled, slot.meter.unit if slot.meter else "", slot.versions, groups)


def _is_due_unused(slot: Slot) -> bool:
    """Tell whether something is charged without any usage: a minimum, a commitment, a first fee."""
    return any(version.is_due_unused for version, _ in slot.versions)


def key_of_group(slot: Slot, group: Sequence[str]) -> str:
    """Return the key of the charge that usage of `group` belongs to."""
    return group_key({name: group[DIMENSIONS.index(name)] for name in slot.scheduled.price.group_by})


def usage_of_sum(slot: Slot, quantity: Decimal, records: int) -> Mapping[str, tuple[VersionUsage, ...]]:
    """Return what `usage_of_sums` does for a slot that is a sum: the same value again where quantity and records are the same, by
    which rating knows it."""
    common = slot.common
    found = common.known.get((quantity, records))
    if found is None:
        found = usage_of_sums(slot, {UNTOLD: {common.versions[0][0].version: (quantity, records)}})
        if len(common.known) >= _MOST_SUMS:
            common.known.clear()
        common.known[quantity, records] = found
    return found


def usage_of_sums(
    slot: Slot, by_group: Mapping[Group, Sums], before: Mapping[str, Exact] = MappingProxyType({})
) -> dict[str, tuple[VersionUsage, ...]]:
    """Return the usage of a slot by its price's groups; the cells of a matrix are in them. `before` is by group key, of a price
    that needs it."""
    found = _by_group(slot, by_group)
    if not before:
        return found
    return {key: tuple(replace(part, before=before.get(key, _ZERO)) for part in parts) for key, parts in found.items()}


def _by_group(slot: Slot, by_group: Mapping[Group, Sums]) -> dict[str, tuple[VersionUsage, ...]]:
    if not slot.scheduled.price.group_by:
        return {"": tuple(_usage_of_sums(slot, list(by_group.items())))} if by_group else {}
    together: dict[str, list[tuple[Group, Sums]]] = defaultdict(list)
    for group, by_version in by_group.items():
        together[key_of_group(slot, group)].append((group, by_version))
    return {key: tuple(_usage_of_sums(slot, found)) for key, found in together.items()}


def _usage_of_sums(slot: Slot, found: Sequence[tuple[Group, Sums]]) -> Iterator[VersionUsage]:
    if len(slot.versions) == 1 == len(found) and not isinstance(slot.versions[0][0].model, Matrix):
        version = slot.versions[0][0]
        quantity, records = found[0][1][version.version]
        yield VersionUsage(version=version, quantity=_level(slot, quantity), share=slot.shares[0], events=records)
        return
    for (version, _), share in zip(slot.versions, slot.shares, strict=True):
        sums = [(group, *by_version.get(version.version, (_ZERO, 0))) for group, by_version in found]
        detail: Detail | None = None
        if isinstance(version.model, Matrix):
            places = [DIMENSIONS.index(name) for name in version.model.dimensions]
            cells = ((tuple(group[place] for place in places), quantity) for group, quantity, _ in sums if quantity)
            detail = Cells(quantities=tuple(sorted(cells)))
        yield VersionUsage(
            version=version,
            quantity=_level(slot, exact_sum([quantity for _, quantity, _ in sums])),
            share=share,
            events=sum(records for _, _, records in sums),
            detail=detail,
        )


def _level(slot: Slot, quantity: Exact) -> Exact:
    """Return what is rated: of a time-weighted meter the mean level over the anchor's whole period.

    The whole period also for a subscription that covers a part of it: 4 GB in half of June are 2 GB-months.
    """
    if slot.meter is None or slot.meter.aggregation is not Aggregation.TIME_WEIGHTED:
        return quantity
    return exact_product(quantity, times=_ONE, over=Decimal(slot.scheduled.period.whole.seconds))


@dataclass(frozen=True, slots=True)
class UsageRow:
    """A row of usage, as far as it is rated."""

    start: datetime
    end: datetime
    records: int
    state: UsageState


def unchanged_levels(slot: Slot, openings: Mapping[Group, Exact]) -> dict[str, tuple[VersionUsage, ...]]:
    """Return the usage of levels that go on without a change."""
    return {key_of_group(slot, group): tuple(usage_of_rows(slot, (), opening)) for group, opening in openings.items()}


def _usage_of_level(slot: Slot, meter: Meter, rows: Sequence[UsageRow], opening: Exact) -> Iterator[VersionUsage]:
    whole = slot.scheduled.period.whole
    if slot.versions[0][0].shape is not UsageShape.LEVELS:
        state = level_state_of(meter, (row.state for row in rows), slot.window)
        quantity = level_worth(meter, state, opening=opening, whole=whole)
        yield VersionUsage(version=slot.versions[0][0], quantity=quantity, share=exact_sum(slot.shares))
        return
    changes = level_changes(meter, (row.state for row in rows))
    level: Exact = opening
    for (version, part), share in zip(slot.versions, slot.shares, strict=True):
        steps = level_steps(changes, opening=level, period=part, whole=whole)
        level = steps[-1][1] if steps else _ZERO
        yield VersionUsage(
            version=version,
            quantity=level,
            share=share,
            detail=Levels(steps=tuple(LevelStep(before=one, after=other, share=held) for one, other, held in steps)),
        )


def usage_of_rows(slot: Slot, rows: Sequence[UsageRow], opening: Exact = _ZERO) -> Iterator[VersionUsage]:
    """Yield the usage of each version. What cannot be split at a change of price is rated by the version at its start."""
    meter, shape = slot.meter, slot.versions[0][0].shape
    if meter is None:
        raise AssertionError("a slot without a meter has no usage")  # pragma: no cover
    if slot.is_level:
        yield from _usage_of_level(slot, meter, rows, opening)
        return
    if shape is UsageShape.QUANTITY:
        (first, _), window = slot.versions[0], slot.window
        states = (row.state for row in rows)
        quantity = merge(meter, states, period_start=window.start, period_end=window.end)
        yield VersionUsage(version=first, quantity=quantity, share=exact_sum(slot.shares))
        return
    for (version, part), share in zip(slot.versions, slot.shares, strict=True):
        inside = [row for row in rows if row.start in part]
        detail: Detail | None = None
        if shape is UsageShape.WINDOWS:
            detail = _windows(slot, version, part, inside)
        elif shape is UsageShape.TRANSACTIONS:
            detail = Transactions(counts=transactions(meter, (row.state for row in inside)))
        yield VersionUsage(
            version=version,
            quantity=exact_sum([row.state.quantity for row in inside]),
            share=share,
            events=sum(row.records for row in inside),
            detail=detail,
        )


def _windows(slot: Slot, version: PriceVersion, part: Window, rows: Sequence[UsageRow]) -> Windows:
    """Return the windows of a version; where a commitment is trued up, those without usage too."""
    if slot.meter is None or version.window is None:
        raise AssertionError("windows are of a meter")  # pragma: no cover
    seconds = version.window.seconds
    found = dict(window_quantities(slot.meter, ((row.start, row.state) for row in rows), seconds=seconds, period=part))
    if version.is_due_unused:
        for start in windows_in(part, seconds):
            found.setdefault(start, _ZERO)
    return Windows(quantities=tuple(sorted(found.items())))
