"""Read usage that cannot be added by whole days: merged states of blocks of days, and hours only where there is no block.

A block is kept with a digest of the builds of its days, read before the usage itself, so that one whose day was built anew is
made again from its halves: the day's hours and the blocks beside it. Days without a build, and the parts of days at a period's
ends, are read by the hour. Not here: what combines (usage_states), rating (charge_usage). ADR 0036.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import groupby

import psycopg

from billing_pipeline.amounts import exact_text
from billing_pipeline.catalog import Dimension
from billing_pipeline.meters import Aggregation, Meter, UsageState
from billing_pipeline.periods import Window
from billing_pipeline.usage_states import DayBlock, blocks_of, combine

ASSET = "usage/api_requests"
_DAY = timedelta(days=1)
# Periods that are read together: few statements, and states that fit into memory.
_TOGETHER = 500
_ROWS_PER_FETCH = 5_000

Group = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MergedRow:
    """What a group used in a window: as many records, and a state that merges to its quantity."""

    group: Group
    records: int
    state: UsageState


@dataclass(frozen=True, slots=True)
class WantedUsage:
    """The usage of an account's meter in `window`, told apart by `dimensions`; `number` is the asker's own."""

    number: int
    account_id: str
    meter: Meter
    dimensions: tuple[Dimension, ...]
    window: Window

    @property
    def key(self) -> "_Key":
        """Return what blocks are kept by."""
        return self.account_id, self.meter.meter_id, ",".join(self.dimensions)


_Key = tuple[str, str, str]
_Groups = Mapping[Group, MergedRow]


@dataclass(frozen=True, slots=True)
class _Hours:
    """Hours to read: of a day that has no block, or of a part of a day."""

    wanted: WantedUsage
    window: Window


def _nothing() -> None:
    """No other thread uses the session."""


class MergedUsage:
    """Reads merged usage inside the caller's transaction; with `keeps`, what it had to merge is kept for the next time.

    `settle` is called before the session is used, by a caller that lets another thread use it.
    """

    def __init__(
        self, connection: psycopg.Connection, *, keeps: bool = False, settle: Callable[[], None] = _nothing
    ) -> None:
        self._connection = connection
        self._settle = settle
        self._keeps = keeps
        self._digests: dict[DayBlock, str] = {}
        self._built: dict[date, str] = {}

    def read(self, wanted: Sequence[WantedUsage]) -> Iterator[tuple[int, tuple[MergedRow, ...]]]:
        """Yield (number, merged rows) of each wanted usage that has any; of a group there may be several rows."""
        if not wanted:
            return
        self._settle()
        self._built, self._digests = self._builds(wanted), {}
        for start in range(0, len(wanted), _TOGETHER):
            yield from self._read_together(wanted[start : start + _TOGETHER])

    def begins(self) -> datetime | None:
        """Return the first instant of the first day with usage, None where there is none."""
        self._settle()
        row = self._connection.execute("select min(event_day) from usage.api_requests").fetchone()
        return None if row is None or row[0] is None else _midnight(row[0])

    def _builds(self, wanted: Sequence[WantedUsage]) -> dict[date, str]:
        """Return when each day was built, of the days that are built. Read before any usage: a build in between shows."""
        first = min(one.window.start for one in wanted).date()
        last = max(one.window.end for one in wanted).date()
        rows = self._connection.execute(
            "select partition_key, state || built_at from usage.build where asset = %s and partition_key between %s and %s",
            [ASSET, first, last],
        )
        return dict(rows.fetchall())

    def _read_together(self, wanted: Sequence[WantedUsage]) -> Iterator[tuple[int, tuple[MergedRow, ...]]]:
        plans = [(one, *_parts(one.window, self._built)) for one in wanted]
        needed = {(one.key, block): one for one, blocks, _ in plans for block in blocks}
        blocks = self._blocks(needed)
        direct = [_Hours(one, window) for one, _, windows in plans for window in windows]
        by_number: dict[int, list[MergedRow]] = defaultdict(list)
        for hours, groups in zip(direct, self._hours(direct), strict=True):
            by_number[hours.wanted.number].extend(groups.values())
        for one, of_one, _ in plans:
            for block in of_one:
                by_number[one.number].extend(blocks[one.key, block].values())
        for number, rows in by_number.items():
            if rows:
                yield number, tuple(rows)

    def _blocks(self, needed: Mapping[tuple[_Key, DayBlock], WantedUsage]) -> dict[tuple[_Key, DayBlock], _Groups]:
        """Return the blocks: those that are kept, and the others made from their halves, down to the hours of a day."""
        found: dict[tuple[_Key, DayBlock], _Groups] = {}
        missing: dict[tuple[_Key, DayBlock], WantedUsage] = {}
        asked = dict(needed)
        while asked:
            found |= self._kept(asked)
            lost = {place: one for place, one in asked.items() if place not in found}
            missing |= lost
            halves = (
                ((key, half), one) for (key, block), one in lost.items() if block.days > 1 for half in block.halves
            )
            asked = {place: one for place, one in halves if place not in found and place not in missing}
        by_size = sorted(missing.items(), key=lambda item: item[0][1].days)
        days = [(place, one) for place, one in by_size if place[1].days == 1]
        hours = [_Hours(one, _window_of(block)) for (_, block), one in days]
        made = {place: groups for (place, _), groups in zip(days, self._hours(hours), strict=True)}
        for (key, block), one in by_size[len(days) :]:
            halves_of = (made[key, half] if (key, half) in made else found[key, half] for half in block.halves)
            rows = (row for half in halves_of for row in half.values())
            made[key, block] = _combined(one.meter, rows, _window_of(block))
        if self._keeps and made:
            self._keep(made)
        return found | made

    def _kept(self, places: Iterable[tuple[_Key, DayBlock]]) -> dict[tuple[_Key, DayBlock], _Groups]:
        asked = list(places)
        rows = self._connection.execute(
            """
            select account_id, meter_id, grouping, block_start, block_days, builds_digest, groups
            from unnest(%s::text[], %s::text[], %s::text[], %s::date[], %s::smallint[])
                as asked (account_id, meter_id, grouping, block_start, block_days)
            join usage.merged_block using (account_id, meter_id, grouping, block_start, block_days)
            """,
            [
                [key[0] for key, _ in asked],
                [key[1] for key, _ in asked],
                [key[2] for key, _ in asked],
                [block.start for _, block in asked],
                [block.days for _, block in asked],
            ],
        )
        found = {}
        for account_id, meter_id, grouping, start, days, digest, groups in rows:
            block = DayBlock(start, days)
            if digest == self._digest(block):
                found[(account_id, meter_id, grouping), block] = _groups_of_json(groups)
        return found

    def _hours(self, wanted: Sequence[_Hours]) -> Iterator[_Groups]:
        """Yield the merged groups of each, in order."""
        if not wanted:
            return
        names = ", ".join(f"usage.{name}" for name in _REQUEST_DIMENSIONS)
        position = 0
        with self._connection.cursor(name="usage_hours") as cursor:
            cursor.itersize = _ROWS_PER_FETCH
            cursor.execute(
                f"""
                select wanted.number, {names}, usage.request_count, usage.quantity, usage.state
                from unnest(%s::integer[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[])
                    as wanted (number, account_id, meter_id, period_start, period_end)
                join usage.api_requests as usage
                    on usage.account_id = wanted.account_id
                    and usage.meter_id = wanted.meter_id
                    and usage.period_start >= wanted.period_start
                    and usage.period_start < wanted.period_end
                order by wanted.number
                """.encode(),
                [
                    list(range(len(wanted))),
                    [one.wanted.account_id for one in wanted],
                    [one.wanted.meter.meter_id for one in wanted],
                    [one.window.start for one in wanted],
                    [one.window.end for one in wanted],
                ],
            )
            for number, rows in groupby(cursor, key=lambda row: int(row[0])):
                yield from ({} for _ in range(number - position))
                position = number + 1
                yield _merged_hours(wanted[number], rows)
        yield from ({} for _ in range(len(wanted) - position))

    def _keep(self, made: Mapping[tuple[_Key, DayBlock], _Groups]) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute("create temporary table merged_now (like usage.merged_block) on commit drop")
            with cursor.copy("copy merged_now from stdin") as copy:
                for (key, block), groups in made.items():
                    copy.write_row((*key, block.start, block.days, self._digest(block), _json_of(groups)))
            cursor.execute(
                """
                insert into usage.merged_block
                select * from merged_now
                on conflict (account_id, meter_id, grouping, block_start, block_days)
                    do update set builds_digest = excluded.builds_digest, groups = excluded.groups
                """
            )
            cursor.execute("drop table merged_now")

    def _digest(self, block: DayBlock) -> str:
        found = self._digests.get(block)
        if found is None:
            builds = (self._built[block.start + number * _DAY] for number in range(block.days))
            found = self._digests[block] = hashlib.sha256("|".join(builds).encode()).hexdigest()
        return found


_REQUEST_DIMENSIONS = (Dimension.ENDPOINT, Dimension.METHOD, Dimension.CLIENT_ID)


def _parts(window: Window, built: Mapping[date, str]) -> tuple[list[DayBlock], list[Window]]:
    """Return the blocks of whole built days in a window, and the windows between and around them; together they are it."""
    first = window.start.date() if window.start == _midnight(window.start.date()) else window.start.date() + _DAY
    end = window.end.date()
    blocks: list[DayBlock] = []
    rest: list[Window] = []
    at = window.start
    days = (first + number * _DAY for number in range(max((end - first).days, 0)))
    for is_built, run in groupby(days, key=built.__contains__):
        if is_built:
            found = list(run)
            start, stop = _midnight(found[0]), _midnight(found[-1] + _DAY)
            if at < start:
                rest.append(Window(at, start))
            blocks.extend(blocks_of(found[0], found[-1] + _DAY))
            at = stop
    if at < window.end:
        rest.append(Window(at, window.end))
    return blocks, rest


def _merged_hours(hours: _Hours, rows: Iterable[Sequence[object]]) -> _Groups:
    places = [1 + _REQUEST_DIMENSIONS.index(name) for name in hours.wanted.dimensions]
    states: dict[Group, list[MergedRow]] = defaultdict(list)
    for row in rows:
        *_, records, quantity, state = row
        if not isinstance(quantity, Decimal) or not isinstance(records, int):
            raise AssertionError("numeric and bigint come as Decimal and int")  # pragma: no cover
        if not (state is None or isinstance(state, dict)):
            raise AssertionError("jsonb of a state comes as a dict")  # pragma: no cover
        group = tuple(str(row[place]) for place in places)
        states[group].append(MergedRow(group, records, UsageState(quantity=quantity, state=state)))
    return _combined(hours.wanted.meter, (row for found in states.values() for row in found), hours.window)


def _combined(meter: Meter, rows: Iterable[MergedRow], window: Window) -> _Groups:
    by_group: dict[Group, list[MergedRow]] = defaultdict(list)
    for row in rows:
        by_group[row.group].append(row)
    return {
        group: found[0]
        if len(found) == 1 and meter.aggregation is not Aggregation.LEVEL
        else MergedRow(group, sum(row.records for row in found), combine(meter, [row.state for row in found], window))
        for group, found in by_group.items()
    }


def _json_of(groups: _Groups) -> str:
    return json.dumps(
        [[row.group, row.records, exact_text(row.state.quantity), row.state.state] for row in groups.values()],
        separators=(",", ":"),
        ensure_ascii=False,
    )


def _groups_of_json(found: Iterable[Sequence[object]]) -> _Groups:
    groups = {}
    for values, records, quantity, state in found:
        if (
            not isinstance(values, list)
            or not isinstance(records, int)
            or not (state is None or isinstance(state, dict))
        ):
            raise AssertionError("a block holds what _json_of writes")  # pragma: no cover
        group = tuple(map(str, values))
        groups[group] = MergedRow(group, records, UsageState(quantity=Decimal(str(quantity)), state=state))
    return groups


def _window_of(block: DayBlock) -> Window:
    return Window(_midnight(block.start), _midnight(block.start + block.days * _DAY))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(0), UTC)
