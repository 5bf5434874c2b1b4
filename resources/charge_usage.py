"""Read the usage of billing periods and rate it to date: (catalog, scope) -> charges. Reads, never writes.

Slots (subscription, price, period) go to PostgreSQL as temporary tables and usage comes back added up per slot, price
version and group, in one statement for all of them. Not here: what is booked (charge_store).
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from itertools import groupby
from uuid import UUID

import psycopg

from billing_pipeline.amounts import Exact, exact_product
from billing_pipeline.billing_schedule import Held, scheduled_charges
from billing_pipeline.catalog import Catalog, Dimension, Meter, Price, PriceVersion, Subscription
from billing_pipeline.charges import Charge, ChargeKey, group_key
from billing_pipeline.meters import Aggregation, UsageState, merge
from billing_pipeline.periods import BillingPeriod, Window
from billing_pipeline.rating import Rated, VersionUsage, rate, rate_flat_fee, versions_in
from resources.booking_scope import BookingScope

_DIMENSIONS = tuple(Dimension)
_NO_GROUP = ("",) * len(_DIMENSIONS)
_STATE_ROWS_PER_FETCH = 5_000

# The group of a usage row: its value of each dimension that the price rates apart, '' for the others.
_Group = tuple[str, ...]
_GROUP_COLUMNS = ", ".join(f"case when by_{name} then {name} else '' end as {name}" for name in _DIMENSIONS)
_GROUP_NAMES = ", ".join(_DIMENSIONS)


@dataclass(frozen=True, slots=True)
class Slot:
    """One price of one subscription in one billing period, with the price's versions in it. `held` is of fees."""

    subscription: Subscription
    price: Price
    meter: Meter | None
    period: BillingPeriod
    plan_id: str
    versions: tuple[tuple[PriceVersion, Window], ...]
    held: tuple[Held, ...]


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

    Raises:
        BeyondLastTierError, NegativeQuantityError, NoPriceVersionError: a charge that cannot be rated.
    """
    slots = list(_slots(catalog, scope))
    additive = {number for number, slot in enumerate(slots) if slot.meter and slot.meter.aggregation.is_additive}
    _send_segments(connection, slots, additive)
    quantities, in_usage, uncut_rows = _added_up(connection, slots)
    charges: dict[UUID, Charge] = {}
    in_charges: dict[tuple[Window, str], Decimal] = defaultdict(Decimal)
    for number, slot in enumerate(slots):
        if slot.meter is None:
            zone = slot.subscription.anchor.zone
            fee = rate_flat_fee(price=slot.price, period=slot.period, zone=zone, held=slot.held)
            _take(charges, slot, _NO_GROUP, fee)
            continue
        for group, by_version in quantities.pop(number, {}).items():
            used = [(version, by_version.get(version.version, Decimal(0))) for version, _ in slot.versions]
            in_charges[slot.period.window, slot.meter.meter_id] += sum(quantity for _, quantity in used)
            usage = [VersionUsage(version=version, quantity=_level(slot, quantity)) for version, quantity in used]
            _take(charges, slot, group, rate(price=slot.price, unit=slot.meter.unit, usage=usage))
    for slot, group, quantity in _merged(connection, slots):
        # A quantity of the whole period cannot be split at a change of price: the version at its start rates it.
        usage = [VersionUsage(version=slot.versions[0][0], quantity=quantity)]
        unit = slot.meter.unit if slot.meter else ""
        _take(charges, slot, group, rate(price=slot.price, unit=unit, usage=usage))
    return UsageToDate(
        catalog_sha256=catalog.sha256,
        charges=charges,
        in_usage=in_usage,
        in_charges=in_charges,
        uncut_rows=uncut_rows,
    )


def _level(slot: Slot, quantity: Decimal) -> Exact:
    """Return what is rated: of a time-weighted meter the mean level over the anchor's whole period.

    The whole period also for a subscription that covers a part of it: 4 GB in half of June are 2 GB-months.
    """
    if slot.meter is None or slot.meter.aggregation is not Aggregation.TIME_WEIGHTED:
        return quantity
    return exact_product(quantity, times=Decimal(1), over=Decimal(slot.period.whole.seconds))


def _slots(catalog: Catalog, scope: BookingScope) -> Iterator[Slot]:
    for subscription in catalog.subscriptions.values():
        for charge in scheduled_charges(catalog, subscription, scope.reach(subscription.subscription_id)):
            price, period = charge.price, charge.period
            if price.is_prepaid or not scope.concerns(subscription.subscription_id, price.price_id, period.window):
                continue
            versions = tuple(versions_in(price, period.window))
            meter = None if price.meter_id is None else catalog.meters[price.meter_id]
            yield Slot(subscription, price, meter, period, charge.plan_id, versions, charge.held)


def _take(charges: dict[UUID, Charge], slot: Slot, group: _Group, rated: Rated) -> None:
    names = {dimension: group[_DIMENSIONS.index(dimension)] for dimension in slot.price.group_by}
    key = ChargeKey(
        subscription_id=slot.subscription.subscription_id,
        price_id=slot.price.price_id,
        period=slot.period.window,
        group_key=group_key(names),
    )
    charges[key.charge_id] = Charge(
        key=key,
        account_id=slot.subscription.account_id,
        plan_id=slot.plan_id,
        meter_id=slot.price.meter_id,
        currency=slot.price.currency,
        rated=rated,
    )


def _send_segments(connection: psycopg.Connection, slots: Sequence[Slot], additive: set[int]) -> None:
    """Write a temporary table of slots with a meter, and one of their parts by price version."""
    connection.execute(
        """
        create temporary table rated_slot (
            slot integer, account_id text, meter_id text, period_start timestamptz, period_end timestamptz,
            is_additive boolean, by_endpoint boolean, by_method boolean, by_client_id boolean, by_node boolean,
            by_inbound_tag boolean
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
                    window, groups = slot.period.window, slot.price.group_by
                    by = tuple(dimension in groups for dimension in _DIMENSIONS)
                    head = (number, slot.subscription.account_id, slot.meter.meter_id, window.start, window.end)
                    copy.write_row((*head, number in additive, *by))
        with cursor.copy("copy rated_segment from stdin") as copy:
            for number in sorted(additive):
                for version, part in slots[number].versions:
                    copy.write_row((number, version.version, part.start, part.end))
    connection.execute("analyze rated_slot; analyze rated_segment")


_ADDED_UP = f"""
    with
    usage_per_segment as (
        select
            rated_segment.slot, rated_segment.version,
            {_GROUP_COLUMNS},
            sum(quantity) as quantity,
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
    select slot, version, quantity, uncut_rows, {_GROUP_NAMES} from usage_per_segment
    union all
    select slot, null, quantity, 0, {", ".join("''" for _ in _DIMENSIONS)} from usage_per_slot
"""

_Quantities = dict[int, dict[_Group, dict[int, Decimal]]]


def _added_up(
    connection: psycopg.Connection, slots: Sequence[Slot]
) -> tuple[_Quantities, dict[tuple[Window, str], Decimal], dict[Window, int]]:
    """Return quantities by slot, group and version; by period and meter; and rows that cross a boundary, by period.

    One statement, so that a usage day that is replaced meanwhile is seen by all of it, or by none.
    """
    quantities: _Quantities = {}
    in_usage: dict[tuple[Window, str], Decimal] = defaultdict(Decimal)
    uncut_rows: dict[Window, int] = defaultdict(int)
    for number, version, quantity, uncut, *group in connection.execute(_ADDED_UP.encode()):
        slot = slots[number]
        if version is None:
            in_usage[slot.period.window, slot.price.meter_id or ""] += quantity
            continue
        quantities.setdefault(number, {}).setdefault(tuple(group), {})[version] = quantity
        if uncut:
            uncut_rows[slot.period.window] += uncut
    return quantities, in_usage, uncut_rows


_STATES = f"""
    select
        slot,
        {_GROUP_COLUMNS},
        quantity,
        state
    from rated_slot
    join usage.metered as metered
        on metered.account_id = rated_slot.account_id
        and metered.meter_id = rated_slot.meter_id
        and metered.period_start >= rated_slot.period_start
        and metered.period_start < rated_slot.period_end
    where not is_additive
    order by slot, {", ".join(str(1 + place + 1) for place in range(len(_DIMENSIONS)))}
"""


def _merged(connection: psycopg.Connection, slots: Sequence[Slot]) -> Iterator[tuple[Slot, _Group, Decimal]]:
    """Yield the quantity of each slot and group of a meter that cannot be added up, from the states of its rows."""
    if all(slot.meter is None or slot.meter.aggregation.is_additive for slot in slots):
        return
    with connection.cursor(name="usage_states") as cursor:
        cursor.itersize = _STATE_ROWS_PER_FETCH
        cursor.execute(_STATES.encode())
        for (number, *group), rows in groupby(cursor, key=lambda row: row[: 1 + len(_DIMENSIONS)]):
            slot = slots[number]
            if slot.meter is None:
                raise AssertionError("a slot without a meter has no usage")  # pragma: no cover
            window = slot.period.window
            quantity = merge(slot.meter, _states(rows), period_start=window.start, period_end=window.end)
            yield slot, tuple(group), quantity


def _states(rows: Iterable[tuple[object, ...]]) -> Iterator[UsageState]:
    for *_, quantity, state in rows:
        if not isinstance(quantity, Decimal) or not (state is None or isinstance(state, dict)):
            raise AssertionError("numeric and jsonb come as Decimal and dict")  # pragma: no cover
        yield UsageState(quantity=quantity, state=state)
