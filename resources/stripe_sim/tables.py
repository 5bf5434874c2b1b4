"""Objects of one kind in the order they were made, with indexes: put, get, and pages of lists without a scan of everything.

A page walks the shortest index that fits the filters, from the cursor on, newest first. Not here: what the objects mean.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]

DEFAULT_LIMIT = 10
MOST_LIMIT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What the tables know about a kind of object."""

    name: str
    """As the API calls it in `object`."""
    prefix: str
    url: str
    indexes: Mapping[str, Callable[[Row], Hashable]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows of a list, newest first, and whether there are more in the direction asked."""

    rows: tuple[Row, ...]
    has_more: bool


class Table:
    """The objects of one kind."""

    def __init__(self, kind: Kind) -> None:
        """Begin empty."""
        self.kind = kind
        self._rows: dict[str, Row] = {}
        self._places: dict[str, int] = {}
        self._ids: list[str] = []
        self._all: list[int] = []
        self._index: dict[tuple[str, Hashable], list[int]] = {}
        self._keys: dict[str, dict[str, Hashable]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._all)

    def get(self, object_id: str) -> Row | None:
        """Return the object of that id."""
        return self._rows.get(object_id)

    def put(self, row: Row) -> Row:
        """Add a new object, or index a changed one anew."""
        object_id = row["id"]
        place = self._places.get(object_id)
        if place is None:
            place = self._places[object_id] = len(self._ids)
            self._ids.append(object_id)
            self._all.append(place)
        self._rows[object_id] = row
        old = self._keys.get(object_id, {})
        new = {name: key(row) for name, key in self.kind.indexes.items()}
        for name, value in new.items():
            if name in old and old[name] == value:
                continue
            if name in old:
                self._forget(name, old[name], place)
            held = self._index.setdefault((name, value), [])
            if not held or held[-1] < place:
                held.append(place)
            else:
                insort(held, place)
        self._keys[object_id] = new
        return row

    def remove(self, object_id: str) -> None:
        """Take an object away."""
        place = self._places.pop(object_id)
        for name, value in self._keys.pop(object_id).items():
            self._forget(name, value, place)
        del self._rows[object_id]
        del self._all[bisect_left(self._all, place)]

    def find(self, **filters: Hashable) -> Iterator[Row]:
        """Yield the objects whose indexes have these values, oldest first."""
        places = self._candidates(filters)
        for place in tuple(places):
            row = self._rows[self._ids[place]]
            if self._fits(row, filters):
                yield row

    def oldest(self) -> Iterator[Row]:
        """Yield all of them, oldest first."""
        return self.find()

    def count(self, name: str, value: Hashable) -> int:
        """Return how many have a value in an index."""
        return len(self._index.get((name, value), ()))

    def page(
        self,
        *,
        filters: Mapping[str, Hashable],
        limit: int = DEFAULT_LIMIT,
        starting_after: str | None = None,
        ending_before: str | None = None,
        first: Callable[[Row], bool] | None = None,
        beyond: Callable[[Row], bool] | None = None,
        where: Callable[[Row], bool] | None = None,
    ) -> Page:
        """Return a page, newest first.

        `first` and `beyond` must be monotone in age: `first` is false for what is too new, `beyond` true for what is too
        old. They bound the walk, `where` only filters it.
        """
        places = self._candidates(filters)
        high = len(places) if first is None else self._boundary(places, lambda row: not first(row))
        low = 0 if beyond is None else self._boundary(places, lambda row: not beyond(row))
        if starting_after is not None:
            high = min(high, bisect_left(places, self._places[starting_after]))
        newest_first: Sequence[int] = range(high - 1, low - 1, -1)
        if ending_before is not None:
            newest_first = range(max(low, bisect_right(places, self._places[ending_before])), high)
        found: list[Row] = []
        for at in newest_first:
            row = self._rows[self._ids[places[at]]]
            if self._fits(row, filters) and (where is None or where(row)):
                found.append(row)
                if len(found) > limit:
                    break
        rows = found[:limit]
        return Page(rows=tuple(reversed(rows) if ending_before is not None else rows), has_more=len(found) > limit)

    def _boundary(self, places: Sequence[int], is_after: Callable[[Row], bool]) -> int:
        """Return how many of the places come before the first one that is after."""
        low, high = 0, len(places)
        while low < high:
            middle = (low + high) // 2
            if is_after(self._rows[self._ids[places[middle]]]):
                high = middle
            else:
                low = middle + 1
        return low

    def _candidates(self, filters: Mapping[str, Hashable]) -> Sequence[int]:
        held = [self._index.get((name, value), []) for name, value in filters.items()]
        return min(held, key=len) if held else self._all

    def _fits(self, row: Row, filters: Mapping[str, Hashable]) -> bool:
        keys = self._keys[row["id"]]
        return all(keys[name] == value for name, value in filters.items())

    def _forget(self, name: str, value: Hashable, place: int) -> None:
        held = self._index[name, value]
        del held[bisect_left(held, place)]
        if not held:
            del self._index[name, value]
