"""Read the usage of billing periods and rate it to date: (catalog, scope) -> charges. Reads, never writes.

Slots (subscription, price, period) go to PostgreSQL as temporary tables. Usage that adds up comes back added up per slot, price
version and group, in one statement for all of them; what cannot be added comes merged by days (merged_usage); what must be told
by transaction or window comes as rows. Not here: what is booked (charge_store), what a price asks (rating), what charges share
(period_charges).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from itertools import chain, groupby
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from billing_pipeline.amounts import Exact, exact_arithmetic, exact_sum
from billing_pipeline.billing_schedule import scheduled_terms
from billing_pipeline.catalog import Aggregation, Catalog, Subscription
from billing_pipeline.charges import Charge
from billing_pipeline.meters import UsageState
from billing_pipeline.period_charges import Charges, PeriodUsage
from billing_pipeline.periods import Window
from billing_pipeline.rating import NegativeQuantityError, VersionUsage
from billing_pipeline.usage_slots import (
    DIMENSIONS,
    UNTOLD,
    CommonTerms,
    Group,
    Slot,
    Slots,
    SlotTerms,
    UsageRow,
    key_of_group,
    period_usage,
    unchanged_levels,
    usage_of_rows,
    usage_of_sum,
    usage_of_sums,
)
from billing_pipeline.usage_states import level_state_of
from resources.booking_scope import BookingScope
from resources.copy_text import copy_text, escaped, flags_text, instant_text
from resources.merged_usage import MergedUsage, WantedUsage
from resources.usage_below_zero import with_usage

_ZERO, _ONE = Decimal(0), Decimal(1)
_STATE_ROWS_PER_FETCH = 5_000
# Charges that are rated together: some ten megabytes, of which a few milliseconds for its statements are a hundredth.
BATCH_SLOTS = 20_000
# Phases and anchors that are remembered: more come only from subscriptions that began at an instant of their own.
_MOST_KINDS = 1 << 12
_GROUP_COLUMNS = ", ".join(f"case when by_{name} then {name} else '' end as {name}" for name in DIMENSIONS)
_TOLD = ", ".join(f"case when by_{name} then {name} else '' end" for name in DIMENSIONS)
_SLOTS = (
    "select first_slot + place as slot, rated_run.account_id, rated_kind.* from rated_run join rated_kind using (kind)"
)


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


# Begins some work and returns what ends it: in another thread, or not before it is ended.
Ahead = Callable[[Callable[[], None]], Callable[[], None]]


def later(work: Callable[[], None]) -> Callable[[], None]:
    """Do the work when it is ended."""
    return work


def rated_batches(
    connection: psycopg.Connection,
    catalog: Catalog,
    scope: BookingScope,
    merged: MergedUsage | None = None,
    *,
    ahead: Ahead = later,
) -> Iterator[tuple[Sequence[str], UsageToDate]]:
    """Yield (accounts, their charges) of some accounts after others, as `rate_to_date` has them: what half a million charges are
    made of does not fit into memory at once. The usage of one account is seen by one statement. `ahead` reads the next batch while
    the caller has this one.

    Raises as `rate_to_date`.
    """
    rater = Charges(catalog)
    for accounts, reader in _readers(connection, catalog, scope, merged or MergedUsage(connection), _ADDED_UP, ahead):
        charges = _rated(connection, catalog, rater, reader)
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
    rater = Charges(catalog)
    for accounts, reader in _readers(connection, catalog, scope, MergedUsage(connection), _PER_SEGMENT):
        yield accounts, _rated(connection, catalog, rater, reader)


def _rated(
    connection: psycopg.Connection, catalog: Catalog, rater: Charges, reader: "_UsageReader"
) -> dict[UUID, Charge]:
    try:
        return {charge.key.charge_id: charge for charge in rater.of(reader.usages())}
    except NegativeQuantityError as error:
        raise with_usage(connection, catalog, error) from None


def _readers(
    connection: psycopg.Connection,
    catalog: Catalog,
    scope: BookingScope,
    merged: MergedUsage,
    added_up: str,
    ahead: Ahead = later,
) -> Iterator[tuple[Sequence[str], "_UsageReader"]]:
    # A batch's accounts are a small part of all: by the index, not by reading all usage again and again.
    connection.execute("set local random_page_cost = 1.1")
    before: tuple[Sequence[str], _UsageReader] | None = None
    for accounts, runs in _batches(catalog, scope):
        reader = _UsageReader(connection, runs, merged, added_up)
        # The temporary tables are those of one batch: they are left to it where it has still to ask them.
        read = reader.read if before is None or before[1].asks_further else ahead(reader.read)
        if before is not None:
            yield before
        read()
        before = accounts, reader
    if before is not None:
        yield before


class _Run(NamedTuple):
    """A subscription's slots, numbered from `first` on. Many subscriptions have the same `kind` of them."""

    subscription: Subscription
    first: int
    kind: tuple[SlotTerms, ...]


def _batches(catalog: Catalog, scope: BookingScope) -> Iterator[tuple[Sequence[str], list[_Run]]]:
    """Yield accounts with their slots, together about as many as a batch has; every account that has a subscription once."""
    kinds = _Kinds(catalog, scope)
    accounts: list[str] = []
    batch: list[_Run] = []
    slots = 0
    for account_id, subscriptions in catalog.subscriptions_by_account.items():
        accounts.append(account_id)
        for subscription in subscriptions:
            if kind := kinds.of(subscription):
                batch.append(_Run(subscription, slots, kind))
                slots += len(kind)
        if slots >= BATCH_SLOTS:
            yield accounts, batch
            accounts, batch, slots = [], [], 0
    if accounts:
        yield accounts, batch


class _Kinds:
    """Which charges of a subscription are rated: one and the same value for all that have the same phases and anchors."""

    def __init__(self, catalog: Catalog, scope: BookingScope) -> None:
        self._catalog = catalog
        self._scope = scope
        self._slots = Slots(catalog)
        self._by_shape: dict[object, tuple[SlotTerms, ...]] = {}
        self._again = frozenset(scope.by_subscription)

    def of(self, subscription: Subscription) -> tuple[SlotTerms, ...]:
        if subscription.subscription_id in self._again:
            return tuple(self._terms(subscription))
        shape = subscription.phases, subscription.anchored, subscription.anchor
        found = self._by_shape.get(shape)
        if found is None:
            found = tuple(self._terms(subscription))
            if len(self._by_shape) >= _MOST_KINDS:
                self._by_shape.clear()
            self._by_shape[shape] = found
        return found

    def _terms(self, subscription: Subscription) -> Iterator[SlotTerms]:
        subscription_id = subscription.subscription_id
        for term in scheduled_terms(self._catalog, subscription, self._scope.reach(subscription_id)):
            price, window = term.price, term.period.window
            if not price.is_prepaid and self._scope.concerns(subscription_id, price.price_id, window):
                yield self._slots.terms(subscription, term)


class _UsageReader:
    """Reads the usage of slots, and counts what it reads for the guards. `added_up`: the statement that adds it up."""

    def __init__(
        self, connection: psycopg.Connection, runs: Sequence[_Run], merged: MergedUsage, added_up: str
    ) -> None:
        self._connection = connection
        self._runs = runs
        self._slots = [terms.of(run.subscription) for run in runs for terms in run.kind]
        self._rows: Sequence[Sequence[Any]] = ()
        self._merged = merged
        self._added_up_by = added_up
        self.in_usage: dict[tuple[Window, str], Decimal] = defaultdict(Decimal)
        self.in_charges: dict[tuple[Window, str], Decimal] = defaultdict(Decimal)
        self.uncut_rows: dict[Window, int] = defaultdict(int)

    @property
    def asks_further(self) -> bool:
        """Tell whether some slots need more than what adds up."""
        commons = {terms.common for kind in {id(run.kind): run.kind for run in self._runs}.values() for terms in kind}
        return any(one.needs_before or (one.needs_rows and not one.is_merged) for one in commons)

    def read(self) -> None:
        """Send which slots there are, and read what of their usage adds up.

        One statement, so that a usage day that is replaced meanwhile is seen by all of it, or by none.
        """
        _send_runs(self._connection, self._runs)
        self._rows = self._connection.execute(self._added_up_by.encode()).fetchall()

    def usages(self) -> Iterator[PeriodUsage]:
        """Yield the usage of every slot, those without any too, once it is read."""
        summed, added_up = self._added_up()
        before = self._used_before()
        for number, slot in enumerate(self._slots):
            if slot.common.is_sum and number in summed:
                yield period_usage(slot, usage_of_sum(slot, *summed[number]))
            elif not slot.common.needs_rows:
                yield period_usage(slot, usage_of_sums(slot, added_up.pop(number, {}), before.get(number, {})))
        with_rows = set()
        for number, groups in chain(self._from_days(), self._from_rows()):
            with_rows.add(number)
            yield period_usage(self._slots[number], groups)
        for number, slot in enumerate(self._slots):
            if slot.needs_rows and number not in with_rows:
                yield period_usage(slot, {})

    def _added_up(
        self,
    ) -> tuple[dict[int, tuple[Decimal, int]], dict[int, dict[Group, dict[int, tuple[Decimal, int]]]]]:
        """Return quantity and records of slots that are a sum, and of the others by slot, group and version."""
        summed: dict[int, tuple[Decimal, int]] = {}
        by_group: dict[int, dict[Group, dict[int, tuple[Decimal, int]]]] = {}
        in_charges: dict[CommonTerms, Decimal] = defaultdict(Decimal)
        slots = self._slots
        with exact_arithmetic():
            for number, version, quantity, records, uncut, told in self._rows:
                slot = slots[number]
                common = slot.common
                if version is None:
                    self.in_usage[slot.window, slot.scheduled.price.meter_id or ""] += quantity
                    continue
                in_charges[common] += quantity
                if common.is_sum:
                    summed[number] = quantity, records
                else:
                    group = UNTOLD if told is None else tuple(told)
                    by_group.setdefault(number, {}).setdefault(group, {})[version] = (quantity, records)
                if uncut:
                    self.uncut_rows[slot.window] += uncut
            for common, quantity in in_charges.items():
                self.in_charges[common.window, common.meter_id] += quantity
        return summed, by_group

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


def _send_runs(connection: psycopg.Connection, runs: Sequence[_Run]) -> None:
    """Write temporary tables: which subscription has which kind of slots, and what slots of a kind are.

    A slot is a row of `rated_run` and a row of `rated_kind`; its parts by price version are rows of `rated_part`.
    """
    connection.execute(
        """
        drop table if exists pg_temp.rated_run, pg_temp.rated_kind, pg_temp.rated_part;
        create temporary table rated_run (first_slot integer, kind integer, account_id text) on commit drop;
        create temporary table rated_kind (
            kind integer, place integer, meter_id text, period_start timestamptz, period_end timestamptz,
            is_additive boolean, needs_rows boolean, is_level boolean, is_set boolean, is_told boolean, by_endpoint boolean,
            by_method boolean, by_client_id boolean, by_node boolean, by_inbound_tag boolean
        ) on commit drop;
        create temporary table rated_part (
            kind integer, place integer, version integer, segment_start timestamptz, segment_end timestamptz
        ) on commit drop;
        """
    )
    numbers: dict[int, int] = {}
    kinds: list[tuple[SlotTerms, ...]] = []
    for run in runs:
        if id(run.kind) not in numbers:
            numbers[id(run.kind)] = len(kinds)
            kinds.append(run.kind)
    rows = (f"{run.first}\t{numbers[id(run.kind)]}\t{escaped(run.subscription.account_id)}\n" for run in runs)
    copy_text(connection, b"copy rated_run from stdin", rows)
    copy_text(connection, b"copy rated_kind from stdin", _kind_rows(kinds))
    copy_text(connection, b"copy rated_part from stdin", _part_rows(kinds))
    connection.execute("analyze rated_run; analyze rated_kind; analyze rated_part")


def _kind_rows(kinds: Sequence[Sequence[SlotTerms]]) -> Iterator[str]:
    for number, kind in enumerate(kinds):
        for place, (_, common, _) in enumerate(kind):
            if common.meter is not None:
                as_rows = common.needs_rows and not common.is_merged
                is_additive = common.meter.aggregation.is_additive
                is_level = common.meter.aggregation is Aggregation.LEVEL
                told = common.tells_by
                flags = (is_additive, as_rows, is_level, common.meter.is_set, any(told), *told)
                yield (
                    f"{number}\t{place}\t{escaped(common.meter_id)}\t{instant_text(common.window.start)}\t"
                    f"{instant_text(common.window.end)}\t{flags_text(flags)}\n"
                )


def _part_rows(kinds: Sequence[Sequence[SlotTerms]]) -> Iterator[str]:
    for number, kind in enumerate(kinds):
        for place, (_, common, _) in enumerate(kind):
            if common.meter is not None and not common.needs_rows:
                for version, part in common.versions:
                    start, end = instant_text(part.start), instant_text(part.end)
                    yield f"{number}\t{place}\t{version.version}\t{start}\t{end}\n"


# Each part is looked up by itself: of a year, a join of all usage with all parts of an account compares each row twelve times.
_PER_SEGMENT = f"""
    select first_slot + place as slot, version, used.quantity, used.record_count, used.uncut_rows, used.told
    from rated_run
    join rated_kind using (kind)
    join rated_part using (kind, place)
    cross join lateral (
        select
            case when rated_kind.is_told then array[{_TOLD}] end as told,
            sum(quantity) as quantity,
            sum(record_count)::bigint as record_count,
            count(*) filter (where metered.period_end > rated_part.segment_end) as uncut_rows
        from usage.metered as metered
        where metered.account_id = rated_run.account_id
            and metered.meter_id = rated_kind.meter_id
            and metered.period_start >= rated_part.segment_start
            and metered.period_start < rated_part.segment_end
        group by told
    ) as used
"""
_ADDED_UP = f"""
    with
    usage_per_segment as (
        {_PER_SEGMENT}
    ),
    -- The same usage by another way: per period and meter, without versions and groups, for the guard. `slot` is one of them.
    usage_per_slot as (
        select min(first_slot + place) as slot, sum(used.quantity) as quantity
        from rated_run
        join rated_kind using (kind)
        cross join lateral (
            select sum(quantity) as quantity
            from usage.metered as metered
            where metered.account_id = rated_run.account_id
                and metered.meter_id = rated_kind.meter_id
                and metered.period_start >= rated_kind.period_start
                and metered.period_start < rated_kind.period_end
        ) as used
        where is_additive and used.quantity is not null
        group by rated_kind.period_start, rated_kind.period_end, rated_kind.meter_id
    )
    select slot, version, quantity, record_count, uncut_rows, told from usage_per_segment
    union all
    select slot, null, quantity, 0, 0, null from usage_per_slot
"""


# Of few slots: those of prices whose included units are used up once.
_USED_BEFORE = f"""
    with rated_slot as ({_SLOTS})
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
    with rated_slot as ({_SLOTS})
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
