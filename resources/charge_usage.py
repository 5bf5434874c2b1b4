"""Read the usage of billing periods and rate it to date: (catalog, scope) -> charges. Reads, never writes.

Slots (subscription, price, period) go to PostgreSQL as temporary tables. Usage that adds up comes back added up per slot, price
version and group, in one statement for all of them; what must be told by transaction or window, or cannot be added, comes
as rows. Not here: what is booked (charge_store), what a price asks (rating), what charges share (period_charges).
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from itertools import groupby
from uuid import UUID

import psycopg

from billing_pipeline.amounts import Exact, exact_product
from billing_pipeline.billing_schedule import ScheduledCharge, scheduled_charges
from billing_pipeline.catalog import (
    Catalog,
    Dimension,
    Matrix,
    Meter,
    Percentage,
    PriceVersion,
    UsageShape,
)
from billing_pipeline.charges import Charge, group_key
from billing_pipeline.meter_details import transactions, window_quantities
from billing_pipeline.meters import Aggregation, UsageState, merge
from billing_pipeline.period_charges import PeriodUsage, period_charges
from billing_pipeline.periods import Window
from billing_pipeline.rating import (
    Cells,
    Detail,
    Transactions,
    VersionUsage,
    Windows,
    version_shares,
    versions_in,
    windows_in,
)
from resources.booking_scope import BookingScope

_DIMENSIONS = tuple(Dimension)
_NO_GROUP = ("",) * len(_DIMENSIONS)
_ZERO, _ONE = Decimal(0), Decimal(1)
_STATE_ROWS_PER_FETCH = 5_000

# The group of a usage row: its value of each dimension that the price rates apart or prices by, '' for the others.
_Group = tuple[str, ...]
_GROUP_COLUMNS = ", ".join(f"case when by_{name} then {name} else '' end as {name}" for name in _DIMENSIONS)
_GROUP_NAMES = ", ".join(_DIMENSIONS)


@dataclass(frozen=True, slots=True)
class Slot:
    """A charge that is to be rated, with its meter and the price's versions in it, each with its share of the period."""

    scheduled: ScheduledCharge
    meter: Meter | None
    versions: tuple[tuple[PriceVersion, Window], ...]
    shares: tuple[Exact, ...]

    @property
    def window(self) -> Window:
        """Return the part of the billing period that it covers."""
        return self.scheduled.period.window

    @property
    def is_additive(self) -> bool:
        """Tell whether usage of its meter adds up."""
        return self.meter is not None and self.meter.aggregation.is_additive

    @property
    def needs_rows(self) -> bool:
        """Tell whether the rows of usage are needed, and not just what they add up to."""
        first = self.versions[0][0]
        if self.meter is None:
            return False
        if first.shape is UsageShape.TRANSACTIONS:
            return any(isinstance(one.model, Percentage) and one.model.needs_transactions for one, _ in self.versions)
        return not self.is_additive or first.shape is UsageShape.WINDOWS

    @property
    def dimensions(self) -> frozenset[Dimension]:
        """Return the dimensions that its usage is told by."""
        cells = [version.model.dimensions for version, _ in self.versions if isinstance(version.model, Matrix)]
        return frozenset((*self.scheduled.price.group_by, *(cells[0] if cells else ())))


@dataclass(frozen=True)
class UsageToDate:
    """Charges rated from the usage of their whole periods, by id, and what proves that no usage was left out.

    `in_usage` and `in_charges` are quantities of additive meters, in the meter's unit, per (period, meter id): added up over
    the usage of the period, and over what went into the charges. `uncut_rows` counts usage rows per period that reach
    beyond its end, or beyond a price version's.
    """

    catalog_sha256: str
    charges: Mapping[UUID, Charge]
    in_usage: Mapping[tuple[Window, str], Decimal] = field(default_factory=dict)
    in_charges: Mapping[tuple[Window, str], Decimal] = field(default_factory=dict)
    uncut_rows: Mapping[Window, int] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of everything that was rated, and of the catalog."""
        found = hashlib.sha256(self.catalog_sha256.encode())
        for charge_id in sorted(self.charges):
            found.update(charge_id.bytes)
            found.update(self.charges[charge_id].rating_digest.encode())
        return found.hexdigest()


def rate_to_date(connection: psycopg.Connection, catalog: Catalog, scope: BookingScope) -> UsageToDate:
    """Return every charge that `scope` concerns, rated from all usage of its period.

    `catalog` may be a draft: nothing is written but temporary tables of the caller's transaction.

    Raises:
        BeyondLastTierError, NegativeQuantityError, NoPriceVersionError: a charge that cannot be rated.
    """
    slots = list(_slots(catalog, scope))
    _send_segments(connection, slots)
    reader = _UsageReader(connection, slots)
    charges = {charge.key.charge_id: charge for charge in period_charges(catalog, reader.usages())}
    return UsageToDate(
        catalog_sha256=catalog.sha256,
        charges=charges,
        in_usage=reader.in_usage,
        in_charges=reader.in_charges,
        uncut_rows=reader.uncut_rows,
    )


def _slots(catalog: Catalog, scope: BookingScope) -> Iterator[Slot]:
    for subscription in catalog.subscriptions.values():
        subscription_id = subscription.subscription_id
        for scheduled in scheduled_charges(catalog, subscription, scope.reach(subscription_id)):
            price, period = scheduled.price, scheduled.period
            if price.is_prepaid or not scope.concerns(subscription_id, price.price_id, period.window):
                continue
            versions = tuple(versions_in(price, period.window))
            shares: tuple[Exact, ...] = (_ONE,) * len(versions)
            if any(version.adjustments or version.commitment for version, _ in versions):
                shares = version_shares(price, versions, period, subscription.anchor.zone)
            meter = None if price.meter_id is None else catalog.meters[price.meter_id]
            yield Slot(scheduled, meter, versions, shares)


class _UsageReader:
    """Reads the usage of slots, and counts what it reads for the guards."""

    def __init__(self, connection: psycopg.Connection, slots: Sequence[Slot]) -> None:
        self._connection = connection
        self._slots = slots
        self.in_usage: dict[tuple[Window, str], Decimal] = defaultdict(Decimal)
        self.in_charges: dict[tuple[Window, str], Decimal] = defaultdict(Decimal)
        self.uncut_rows: dict[Window, int] = defaultdict(int)

    def usages(self) -> Iterator[PeriodUsage]:
        """Yield the usage of every slot, those without any too."""
        added_up = self._added_up()
        for number, slot in enumerate(self._slots):
            if not slot.needs_rows:
                yield _period_usage(slot, _from_sums(slot, added_up.pop(number, {})))
        with_rows = set()
        for number, groups in self._from_rows():
            with_rows.add(number)
            yield _period_usage(self._slots[number], groups)
        for number, slot in enumerate(self._slots):
            if slot.needs_rows and number not in with_rows:
                yield _period_usage(slot, {})

    def _added_up(self) -> "_Sums":
        """Return sums by slot, group and version.

        One statement, so that a usage day that is replaced meanwhile is seen by all of it, or by none.
        """
        sums: _Sums = {}
        for number, version, quantity, records, uncut, *group in self._connection.execute(_ADDED_UP.encode()):
            slot = self._slots[number]
            key = (slot.window, slot.scheduled.price.meter_id or "")
            if version is None:
                self.in_usage[key] += quantity
                continue
            self.in_charges[key] += quantity
            sums.setdefault(number, {}).setdefault(tuple(group), {})[version] = (quantity, int(records))
            if uncut:
                self.uncut_rows[slot.window] += uncut
        return sums

    def _from_rows(self) -> Iterator[tuple[int, dict[str, tuple[VersionUsage, ...]]]]:
        """Yield the usage of slots that need the rows of it, group by group."""
        if not any(slot.needs_rows for slot in self._slots):
            return
        with self._connection.cursor(name="usage_states") as cursor:
            cursor.itersize = _STATE_ROWS_PER_FETCH
            cursor.execute(_STATES.encode())
            for number, of_slot in groupby(cursor, key=lambda row: row[0]):
                slot = self._slots[number]
                groups = {}
                for group, found in groupby(of_slot, key=lambda row: row[1 : 1 + len(_DIMENSIONS)]):
                    rows = [_usage_row(row) for row in found]
                    if slot.is_additive:
                        self._count(slot, rows)
                    groups[_group_key(slot, group)] = tuple(_usage_of_rows(slot, rows))
                yield number, groups

    def _count(self, slot: Slot, rows: Sequence["_Row"]) -> None:
        key = (slot.window, slot.scheduled.price.meter_id or "")
        self.in_charges[key] += sum((row.state.quantity for row in rows), _ZERO)
        ends = [(part, version) for version, part in slot.versions]
        uncut = sum(row.end > part.end for part, _ in ends for row in rows if row.start in part)
        if uncut:
            self.uncut_rows[slot.window] += uncut


_Sums = dict[int, dict[_Group, dict[int, tuple[Decimal, int]]]]


def _period_usage(slot: Slot, groups: dict[str, tuple[VersionUsage, ...]]) -> PeriodUsage:
    if not groups and slot.meter is not None and not slot.scheduled.price.group_by and _is_due_unused(slot):
        groups = {"": tuple(_usage_of_rows(slot, ()))}
    return PeriodUsage(slot.scheduled, slot.meter.unit if slot.meter else "", slot.versions, groups)


def _is_due_unused(slot: Slot) -> bool:
    """Tell whether something is charged without any usage: a minimum, a commitment, a first fee."""
    return any(version.is_due_unused for version, _ in slot.versions)


def _group_key(slot: Slot, group: Sequence[str]) -> str:
    return group_key({name: group[_DIMENSIONS.index(name)] for name in slot.scheduled.price.group_by})


def _from_sums(
    slot: Slot, by_group: Mapping[_Group, Mapping[int, tuple[Decimal, int]]]
) -> dict[str, tuple[VersionUsage, ...]]:
    """Return the usage of a slot by its price's groups; the cells of a matrix are in them."""
    together: dict[str, list[tuple[_Group, Mapping[int, tuple[Decimal, int]]]]] = defaultdict(list)
    for group, by_version in by_group.items():
        together[_group_key(slot, group)].append((group, by_version))
    return {key: tuple(_usage_of_sums(slot, found)) for key, found in together.items()}


def _usage_of_sums(
    slot: Slot, found: Sequence[tuple[_Group, Mapping[int, tuple[Decimal, int]]]]
) -> Iterator[VersionUsage]:
    for (version, _), share in zip(slot.versions, slot.shares, strict=True):
        sums = [(group, *by_version.get(version.version, (_ZERO, 0))) for group, by_version in found]
        detail: Detail | None = None
        if isinstance(version.model, Matrix):
            places = [_DIMENSIONS.index(name) for name in version.model.dimensions]
            cells = ((tuple(group[place] for place in places), quantity) for group, quantity, _ in sums if quantity)
            detail = Cells(quantities=tuple(sorted(cells)))
        yield VersionUsage(
            version=version,
            quantity=_level(slot, sum((quantity for _, quantity, _ in sums), _ZERO)),
            share=share,
            events=sum(records for _, _, records in sums),
            detail=detail,
        )


def _level(slot: Slot, quantity: Decimal) -> Exact:
    """Return what is rated: of a time-weighted meter the mean level over the anchor's whole period.

    The whole period also for a subscription that covers a part of it: 4 GB in half of June are 2 GB-months.
    """
    if slot.meter is None or slot.meter.aggregation is not Aggregation.TIME_WEIGHTED:
        return quantity
    return exact_product(quantity, times=_ONE, over=Decimal(slot.scheduled.period.whole.seconds))


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of usage, as far as it is rated."""

    start: datetime
    end: datetime
    records: int
    state: UsageState


def _usage_of_rows(slot: Slot, rows: Sequence[_Row]) -> Iterator[VersionUsage]:
    """Yield the usage of each version. What cannot be split at a change of price is rated by the version at its start."""
    meter, shape = slot.meter, slot.versions[0][0].shape
    if meter is None:
        raise AssertionError("a slot without a meter has no usage")  # pragma: no cover
    if shape is UsageShape.QUANTITY:
        (first, _), window = slot.versions[0], slot.window
        states = (row.state for row in rows)
        quantity = merge(meter, states, period_start=window.start, period_end=window.end)
        yield VersionUsage(version=first, quantity=quantity, share=sum(slot.shares, start=_ZERO))
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
            quantity=sum((row.state.quantity for row in inside), _ZERO),
            share=share,
            events=sum(row.records for row in inside),
            detail=detail,
        )


def _windows(slot: Slot, version: PriceVersion, part: Window, rows: Sequence[_Row]) -> Windows:
    """Return the windows of a version; where a commitment is trued up, those without usage too."""
    if slot.meter is None or version.window is None:
        raise AssertionError("windows are of a meter")  # pragma: no cover
    seconds = version.window.seconds
    found = dict(window_quantities(slot.meter, ((row.start, row.state) for row in rows), seconds=seconds, period=part))
    if version.is_due_unused:
        for start in windows_in(part, seconds):
            found.setdefault(start, _ZERO)
    return Windows(quantities=tuple(sorted(found.items())))


def _usage_row(row: Sequence[object]) -> _Row:
    start, end, quantity, records, state = row[1 + len(_DIMENSIONS) :]
    if not isinstance(quantity, Decimal) or not (state is None or isinstance(state, dict)):
        raise AssertionError("numeric and jsonb come as Decimal and dict")  # pragma: no cover
    if not isinstance(start, datetime) or not isinstance(end, datetime) or not isinstance(records, int):
        raise AssertionError("timestamptz and bigint come as datetime and int")  # pragma: no cover
    return _Row(start, end, records, UsageState(quantity=quantity, state=state))


def _send_segments(connection: psycopg.Connection, slots: Sequence[Slot]) -> None:
    """Write a temporary table of slots with a meter, and one of their parts by price version."""
    connection.execute(
        """
        create temporary table rated_slot (
            slot integer, account_id text, meter_id text, period_start timestamptz, period_end timestamptz,
            is_additive boolean, needs_rows boolean, by_endpoint boolean, by_method boolean, by_client_id boolean,
            by_node boolean, by_inbound_tag boolean
        ) on commit drop;
        create temporary table rated_segment (
            slot integer, version integer, segment_start timestamptz, segment_end timestamptz
        ) on commit drop;
        """
    )
    with connection.cursor() as cursor:
        with cursor.copy("copy rated_slot from stdin") as copy:
            for number, slot in enumerate(slots):
                if slot.meter is not None:
                    window, dimensions = slot.window, slot.dimensions
                    by = tuple(dimension in dimensions for dimension in _DIMENSIONS)
                    account_id = slot.scheduled.subscription.account_id
                    head = (number, account_id, slot.meter.meter_id, window.start, window.end)
                    copy.write_row((*head, slot.is_additive, slot.needs_rows, *by))
        with cursor.copy("copy rated_segment from stdin") as copy:
            for number, slot in enumerate(slots):
                if slot.meter is not None and not slot.needs_rows:
                    for version, part in slot.versions:
                        copy.write_row((number, version.version, part.start, part.end))
    connection.execute("analyze rated_slot; analyze rated_segment")


_ADDED_UP = f"""
    with
    usage_per_segment as (
        select
            rated_segment.slot, rated_segment.version,
            {_GROUP_COLUMNS},
            sum(quantity) as quantity,
            sum(record_count) as record_count,
            count(*) filter (where metered.period_end > segment_end) as uncut_rows
        from rated_segment
        join rated_slot using (slot)
        join usage.metered as metered
            on metered.account_id = rated_slot.account_id
            and metered.meter_id = rated_slot.meter_id
            and metered.period_start >= segment_start
            and metered.period_start < segment_end
        group by rated_segment.slot, rated_segment.version, {", ".join(str(2 + place + 1) for place in range(len(_DIMENSIONS)))}
    ),
    -- The same usage by another way: per period, without versions and groups, for the guard.
    usage_per_slot as (
        select rated_slot.slot, sum(quantity) as quantity
        from rated_slot
        join usage.metered as metered
            on metered.account_id = rated_slot.account_id
            and metered.meter_id = rated_slot.meter_id
            and metered.period_start >= rated_slot.period_start
            and metered.period_start < rated_slot.period_end
        where is_additive
        group by rated_slot.slot
    )
    select slot, version, quantity, record_count, uncut_rows, {_GROUP_NAMES} from usage_per_segment
    union all
    select slot, null, quantity, 0, 0, {", ".join("''" for _ in _DIMENSIONS)} from usage_per_slot
"""


# Read by a cursor of its own right after: in one transaction both see what was committed before, unless a day is replaced in
# between; then the guard compares what does not fit, and nothing is booked.
_STATES = f"""
    select
        slot,
        {_GROUP_COLUMNS},
        metered.period_start,
        metered.period_end,
        quantity,
        record_count,
        state
    from rated_slot
    join usage.metered as metered
        on metered.account_id = rated_slot.account_id
        and metered.meter_id = rated_slot.meter_id
        and metered.period_start >= rated_slot.period_start
        and metered.period_start < rated_slot.period_end
    where needs_rows
    order by slot, {", ".join(str(1 + place + 1) for place in range(len(_DIMENSIONS)))}
"""
