"""Read the usage of billing periods and rate it to date: (catalog, scope) -> charges. Reads, never writes.

Slots (subscription, price, period) go to PostgreSQL as temporary tables. Usage that adds up comes back added up per slot, price
version and group, in one statement for all of them; what cannot be added comes merged by days (merged_usage); what must be told
by transaction or window comes as rows. Not here: what is booked (charge_store), what a price asks (rating), what charges share
(period_charges).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from itertools import chain, groupby
from uuid import UUID

import psycopg

from billing_pipeline.amounts import Exact, exact_arithmetic, exact_sum
from billing_pipeline.billing_schedule import scheduled_charges
from billing_pipeline.catalog import Catalog, Subscription
from billing_pipeline.charges import Charge
from billing_pipeline.meters import UsageState
from billing_pipeline.period_charges import PeriodUsage, period_charges
from billing_pipeline.periods import Window
from billing_pipeline.rating import NegativeQuantityError, VersionUsage
from billing_pipeline.usage_slots import (
    DIMENSIONS,
    Group,
    Slot,
    Slots,
    UsageRow,
    key_of_group,
    period_usage,
    unchanged_levels,
    usage_of_rows,
    usage_of_sums,
)
from billing_pipeline.usage_states import level_state_of
from resources.booking_scope import BookingScope
from resources.copy_text import copy_text, escaped, flags_text, instant_text
from resources.merged_usage import MergedUsage, WantedUsage
from resources.usage_below_zero import with_usage

_ZERO, _ONE = Decimal(0), Decimal(1)
_STATE_ROWS_PER_FETCH = 5_000
# Charges that are rated together: some hundred megabytes.
BATCH_SLOTS = 50_000
_GROUP_COLUMNS = ", ".join(f"case when by_{name} then {name} else '' end as {name}" for name in DIMENSIONS)
_GROUP_NAMES = ", ".join(DIMENSIONS)


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


def rate_to_date(
    connection: psycopg.Connection, catalog: Catalog, scope: BookingScope, merged: MergedUsage | None = None
) -> UsageToDate:
    """Return every charge that `scope` concerns, rated from all usage of its period.

    `catalog` may be a draft: nothing is written but temporary tables of the caller's transaction, and what `merged` keeps, where
    the caller gives one.

    Raises:
        BeyondLastTierError, NegativeQuantityError, NoPriceVersionError: a charge that cannot be rated.
    """
    charges: dict[UUID, Charge] = {}
    in_usage: dict[tuple[Window, str], Decimal] = defaultdict(Decimal)
    in_charges: dict[tuple[Window, str], Decimal] = defaultdict(Decimal)
    uncut_rows: dict[Window, int] = defaultdict(int)
    for _, part in rated_batches(connection, catalog, scope, merged):
        charges |= part.charges
        with exact_arithmetic():
            for sums, more in ((in_usage, part.in_usage), (in_charges, part.in_charges)):
                for key, quantity in more.items():
                    sums[key] += quantity
        for window, count in part.uncut_rows.items():
            uncut_rows[window] += count
    return UsageToDate(
        catalog_sha256=catalog.sha256,
        charges=charges,
        in_usage=in_usage,
        in_charges=in_charges,
        uncut_rows=uncut_rows,
    )


def rated_batches(
    connection: psycopg.Connection, catalog: Catalog, scope: BookingScope, merged: MergedUsage | None = None
) -> Iterator[tuple[Sequence[str], UsageToDate]]:
    """Yield (accounts, their charges) of some accounts after others, as `rate_to_date` has them: what half a million charges are
    made of does not fit into memory at once. The usage of one account is seen by one statement.

    Raises as `rate_to_date`.
    """
    for accounts, reader in _readers(connection, catalog, scope, merged or MergedUsage(connection), _ADDED_UP):
        charges = _charges(connection, catalog, reader)
        yield (
            accounts,
            UsageToDate(
                catalog_sha256=catalog.sha256,
                charges=charges,
                in_usage=reader.in_usage,
                in_charges=reader.in_charges,
                uncut_rows=reader.uncut_rows,
            ),
        )


def rated_charges(
    connection: psycopg.Connection, catalog: Catalog, scope: BookingScope
) -> Iterator[tuple[Sequence[str], Mapping[UUID, Charge]]]:
    """Yield (accounts, their charges) as `rated_batches`, without what proves that no usage was left out: for what is not booked.

    Raises as `rate_to_date`.
    """
    for accounts, reader in _readers(connection, catalog, scope, MergedUsage(connection), _PER_SEGMENT):
        yield accounts, _charges(connection, catalog, reader)


def _charges(connection: psycopg.Connection, catalog: Catalog, reader: "_UsageReader") -> dict[UUID, Charge]:
    try:
        return {charge.key.charge_id: charge for charge in period_charges(catalog, reader.usages())}
    except NegativeQuantityError as error:
        raise with_usage(connection, catalog, error) from None


def _readers(
    connection: psycopg.Connection, catalog: Catalog, scope: BookingScope, merged: MergedUsage, added_up: str
) -> Iterator[tuple[Sequence[str], "_UsageReader"]]:
    for accounts, slots in _batches(catalog, scope):
        _send_segments(connection, slots)
        yield accounts, _UsageReader(connection, slots, merged, added_up)


def _batches(catalog: Catalog, scope: BookingScope) -> Iterator[tuple[Sequence[str], list[Slot]]]:
    """Yield accounts with their slots, together about as many as a batch has; every account that has a subscription once."""
    slots = Slots(catalog)
    accounts: list[str] = []
    batch: list[Slot] = []
    for account_id, subscriptions in catalog.subscriptions_by_account.items():
        accounts.append(account_id)
        for subscription in subscriptions:
            batch.extend(_slots(catalog, scope, slots, subscription))
        if len(batch) >= BATCH_SLOTS:
            yield accounts, batch
            accounts, batch = [], []
    if accounts:
        yield accounts, batch


def _slots(catalog: Catalog, scope: BookingScope, slots: Slots, subscription: Subscription) -> Iterator[Slot]:
    subscription_id = subscription.subscription_id
    for scheduled in scheduled_charges(catalog, subscription, scope.reach(subscription_id)):
        price, period = scheduled.price, scheduled.period
        if not price.is_prepaid and scope.concerns(subscription_id, price.price_id, period.window):
            yield slots.slot(scheduled)


class _UsageReader:
    """Reads the usage of slots, and counts what it reads for the guards. `added_up`: the statement that adds it up."""

    def __init__(
        self, connection: psycopg.Connection, slots: Sequence[Slot], merged: MergedUsage, added_up: str
    ) -> None:
        self._connection = connection
        self._slots = slots
        self._merged = merged
        self._added_up_by = added_up
        self.in_usage: dict[tuple[Window, str], Decimal] = defaultdict(Decimal)
        self.in_charges: dict[tuple[Window, str], Decimal] = defaultdict(Decimal)
        self.uncut_rows: dict[Window, int] = defaultdict(int)

    def usages(self) -> Iterator[PeriodUsage]:
        """Yield the usage of every slot, those without any too."""
        added_up = self._added_up()
        before = self._used_before()
        for number, slot in enumerate(self._slots):
            if not slot.needs_rows:
                usage = usage_of_sums(slot, added_up.pop(number, {}), before.get(number, {}))
                yield period_usage(slot, usage)
        with_rows = set()
        for number, groups in chain(self._from_days(), self._from_rows()):
            with_rows.add(number)
            yield period_usage(self._slots[number], groups)
        for number, slot in enumerate(self._slots):
            if slot.needs_rows and number not in with_rows:
                yield period_usage(slot, {})

    def _added_up(self) -> dict[int, dict[Group, dict[int, tuple[Decimal, int]]]]:
        """Return sums by slot, group and version.

        One statement, so that a usage day that is replaced meanwhile is seen by all of it, or by none.
        """
        sums: dict[int, dict[Group, dict[int, tuple[Decimal, int]]]] = {}
        with exact_arithmetic():
            for number, version, quantity, records, uncut, *group in self._connection.execute(
                self._added_up_by.encode()
            ):
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

    def _used_before(self) -> dict[int, dict[str, Exact]]:
        """Return what was used before the period since the subscription began, by slot and group key, where that matters."""
        wanted = [
            (number, slot)
            for number, slot in enumerate(self._slots)
            if slot.needs_before and slot.scheduled.subscription.starts_at < slot.window.start
        ]
        found: dict[int, dict[str, Exact]] = defaultdict(dict)
        if not wanted:
            return found
        rows = self._connection.execute(
            _USED_BEFORE.encode(),
            [
                [number for number, _ in wanted],
                [slot.scheduled.subscription.starts_at for _, slot in wanted],
            ],
        )
        for number, quantity, *group in rows:
            key = key_of_group(self._slots[number], group)
            found[number][key] = exact_sum([found[number].get(key, _ZERO), quantity])
        return found

    def _from_rows(self) -> Iterator[tuple[int, dict[str, tuple[VersionUsage, ...]]]]:
        """Yield the usage of slots that need the rows of it, group by group."""
        if not any(slot.needs_rows and not slot.is_merged for slot in self._slots):
            return
        openings = self._openings
        with self._connection.cursor(name="usage_states") as cursor:
            cursor.itersize = _STATE_ROWS_PER_FETCH
            cursor.execute(_STATES.encode())
            for number, of_slot in groupby(cursor, key=lambda row: row[0]):
                slot = self._slots[number]
                begins = openings.pop(number, {})
                groups = {}
                for group, found in groupby(of_slot, key=lambda row: tuple(row[1 : 1 + len(DIMENSIONS)])):
                    rows = [_usage_row(row) for row in found]
                    if slot.is_additive:
                        self._count(slot, rows)
                    groups[key_of_group(slot, group)] = tuple(usage_of_rows(slot, rows, begins.pop(group, _ZERO)))
                yield number, groups | unchanged_levels(slot, begins)
        for number, begins in openings.items():
            yield number, unchanged_levels(self._slots[number], begins)

    def _from_days(self) -> Iterator[tuple[int, dict[str, tuple[VersionUsage, ...]]]]:
        """Yield the usage of slots whose meters merge by whole days."""
        wanted = [_wanted(number, slot, slot.window) for number, slot in enumerate(self._slots) if slot.is_merged]
        openings = self._openings
        for number, rows in self._merged.read(wanted):
            slot = self._slots[number]
            by_group: dict[Group, list[UsageRow]] = defaultdict(list)
            for row in rows:
                used = UsageRow(slot.window.start, slot.window.end, row.records, row.state)
                by_group[_group(slot, row.group)].append(used)
            begins = openings.get(number, {})
            groups = {
                key_of_group(slot, group): tuple(usage_of_rows(slot, found, begins.pop(group, _ZERO)))
                for group, found in by_group.items()
            }
            yield number, groups | unchanged_levels(slot, openings.pop(number, {}))
        for number in [number for number in openings if self._slots[number].is_merged]:
            yield number, unchanged_levels(self._slots[number], openings.pop(number))

    @cached_property
    def _openings(self) -> dict[int, dict[Group, Exact]]:
        """Return the levels with which periods begin, by slot and group: what everything before has made of them."""
        levels = [(number, slot) for number, slot in enumerate(self._slots) if slot.is_level]
        begins = self._merged.begins() if levels else None
        if begins is None:
            return {}
        before = {
            number: _wanted(number, slot, Window(begins, slot.window.start))
            for number, slot in levels
            if begins < slot.window.start
        }
        found: dict[int, dict[Group, Exact]] = {}
        for number, rows in self._merged.read(list(before.values())):
            slot, of_it = self._slots[number], before[number]
            by_group: dict[Group, list[UsageState]] = defaultdict(list)
            for row in rows:
                by_group[_group(slot, row.group)].append(row.state)
            for group, states in by_group.items():
                level = level_state_of(of_it.meter, states, of_it.window).closing(_ZERO)
                if level:
                    found.setdefault(number, {})[group] = level
        return found

    def _count(self, slot: Slot, rows: Sequence["UsageRow"]) -> None:
        key = (slot.window, slot.scheduled.price.meter_id or "")
        with exact_arithmetic():
            self.in_charges[key] += sum((row.state.quantity for row in rows), _ZERO)
        ends = [(part, version) for version, part in slot.versions]
        uncut = sum(row.end > part.end for part, _ in ends for row in rows if row.start in part)
        if uncut:
            self.uncut_rows[slot.window] += uncut


def _wanted(number: int, slot: Slot, window: Window) -> WantedUsage:
    if slot.meter is None:
        raise AssertionError("a slot without a meter has no usage")  # pragma: no cover
    return WantedUsage(
        number=number,
        account_id=slot.scheduled.subscription.account_id,
        meter=slot.meter,
        dimensions=tuple(name for name in DIMENSIONS if name in slot.dimensions),
        window=window,
    )


def _group(slot: Slot, values: Sequence[str]) -> Group:
    """Return a group by all dimensions from one by those of the slot."""
    of_slot = dict(zip((name for name in DIMENSIONS if name in slot.dimensions), values, strict=True))
    return tuple(of_slot.get(name, "") for name in DIMENSIONS)


def _usage_row(row: Sequence[object]) -> UsageRow:
    start, end, quantity, records, state = row[1 + len(DIMENSIONS) :]
    if not isinstance(quantity, Decimal) or not (state is None or isinstance(state, dict)):
        raise AssertionError("numeric and jsonb come as Decimal and dict")  # pragma: no cover
    if not isinstance(start, datetime) or not isinstance(end, datetime) or not isinstance(records, int):
        raise AssertionError("timestamptz and bigint come as datetime and int")  # pragma: no cover
    return UsageRow(start, end, records, UsageState(quantity=quantity, state=state))


def _send_segments(connection: psycopg.Connection, slots: Sequence[Slot]) -> None:
    """Write a temporary table of slots with a meter, and one of their parts by price version."""
    connection.execute(
        """
        drop table if exists pg_temp.rated_slot, pg_temp.rated_segment;
        create temporary table rated_slot (
            slot integer, account_id text, meter_id text, period_start timestamptz, period_end timestamptz,
            is_additive boolean, needs_rows boolean, is_level boolean, is_set boolean, by_endpoint boolean,
            by_method boolean, by_client_id boolean, by_node boolean, by_inbound_tag boolean
        ) on commit drop;
        create temporary table rated_segment (
            slot integer, version integer, segment_start timestamptz, segment_end timestamptz
        ) on commit drop;
        """
    )
    copy_text(connection, b"copy rated_slot from stdin", _slot_rows(slots))
    copy_text(connection, b"copy rated_segment from stdin", _segment_rows(slots))
    connection.execute("analyze rated_slot; analyze rated_segment")


def _slot_rows(slots: Sequence[Slot]) -> Iterator[str]:
    for number, slot in enumerate(slots):
        if slot.meter is not None:
            window, account_id = slot.window, slot.scheduled.subscription.account_id
            as_rows = slot.needs_rows and not slot.is_merged
            kinds = (slot.is_additive, as_rows, slot.is_level, slot.meter.is_set, *slot.tells_by)
            yield (
                f"{number}\t{escaped(account_id)}\t{escaped(slot.meter.meter_id)}\t{instant_text(window.start)}\t"
                f"{instant_text(window.end)}\t{flags_text(kinds)}\n"
            )


def _segment_rows(slots: Sequence[Slot]) -> Iterator[str]:
    for number, slot in enumerate(slots):
        if slot.meter is not None and not slot.needs_rows:
            for version, part in slot.versions:
                yield f"{number}\t{version.version}\t{instant_text(part.start)}\t{instant_text(part.end)}\n"


# Each part is looked up by itself: of a year, a join of all usage with all parts of an account compares each row twelve times.
_PER_SEGMENT = f"""
    select rated_segment.slot, rated_segment.version, used.quantity, used.record_count, used.uncut_rows, {_GROUP_NAMES}
    from rated_segment
    join rated_slot using (slot)
    cross join lateral (
        select
            {_GROUP_COLUMNS},
            sum(quantity) as quantity,
            sum(record_count) as record_count,
            count(*) filter (where metered.period_end > rated_segment.segment_end) as uncut_rows
        from usage.metered as metered
        where metered.account_id = rated_slot.account_id
            and metered.meter_id = rated_slot.meter_id
            and metered.period_start >= rated_segment.segment_start
            and metered.period_start < rated_segment.segment_end
        group by {", ".join(str(place + 1) for place in range(len(DIMENSIONS)))}
    ) as used
"""
_ADDED_UP = f"""
    with
    usage_per_segment as (
        {_PER_SEGMENT}
    ),
    -- The same usage by another way: per period and meter, without versions and groups, for the guard. `slot` is one of them.
    usage_per_slot as (
        select min(rated_slot.slot) as slot, sum(quantity) as quantity
        from rated_slot
        join usage.metered as metered
            on metered.account_id = rated_slot.account_id
            and metered.meter_id = rated_slot.meter_id
            and metered.period_start >= rated_slot.period_start
            and metered.period_start < rated_slot.period_end
        where is_additive
        group by rated_slot.period_start, rated_slot.period_end, rated_slot.meter_id
    )
    select slot, version, quantity, record_count, uncut_rows, {_GROUP_NAMES} from usage_per_segment
    union all
    select slot, null, quantity, 0, 0, {", ".join("''" for _ in DIMENSIONS)} from usage_per_slot
"""


# Of few slots: those of prices whose included units are used up once.
_USED_BEFORE = f"""
    select
        slot,
        sum(quantity) as quantity,
        {_GROUP_COLUMNS}
    from unnest(%s::integer[], %s::timestamptz[]) as wanted (slot, began_at)
    join rated_slot using (slot)
    join usage.metered as metered
        on metered.account_id = rated_slot.account_id
        and metered.meter_id = rated_slot.meter_id
        and metered.period_start >= began_at
        and metered.period_start < rated_slot.period_start
    group by slot, {", ".join(str(2 + place + 1) for place in range(len(DIMENSIONS)))}
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
    order by slot, {", ".join(str(1 + place + 1) for place in range(len(DIMENSIONS)))}
"""
