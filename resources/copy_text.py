"""COPY in its text format: rows that are spelled here, without an adapter for each value, many to a write.

Where half a million rows of twenty columns are written, psycopg's row by row is half of the client's time. Not here: which rows
(charge_rows, charge_usage), Arrow batches (database.copy_arrow).
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from itertools import islice

import psycopg

NULL = r"\N"
_ROWS_PER_WRITE = 2_000


def copy_text(connection: psycopg.Connection, statement: bytes, rows: Iterable[str]) -> None:
    """Send `rows`, each with its tabs and its line's end, to a `copy ... from stdin`."""
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for chunk in _chunks(rows):
            copy.write(chunk)


def escaped(value: str) -> str:
    """Return a text as COPY has it. Nearly none has a character that must be escaped."""
    if value.isprintable() and "\\" not in value:
        return value
    return value.replace("\\", r"\\").replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")


@lru_cache(maxsize=1 << 12)
def instant_text(value: datetime) -> str:
    """Return an instant as COPY has it."""
    return value.isoformat()


@lru_cache(maxsize=1 << 8)
def flags_text(values: tuple[bool, ...]) -> str:
    """Return booleans as neighbouring columns."""
    return "\t".join("t" if value else "f" for value in values)


def _chunks(rows: Iterable[str]) -> Iterator[str]:
    iterator = iter(rows)
    while chunk := "".join(islice(iterator, _ROWS_PER_WRITE)):
        yield chunk
