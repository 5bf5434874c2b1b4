"""Where rows of the lake stand: the lake files that a day's build was made of, and the delivered files behind their rows.

Read-only. Not here: what the rows say (lineage_reader, traffic_lineage, storage_evidence).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

import psycopg

from billing_pipeline.errors import BillingError


class UsageNotBuiltError(BillingError):
    """The usage of a day has no build, so nothing says what it is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a raw row came from. `key` None: it was pulled, so no file has it; `line_number` None: the file has no lines."""

    source: str
    key: str | None
    line_number: int | None


def build_uris(connection: psycopg.Connection, asset: str, day: date) -> tuple[str, ...]:
    """Return the lake files that the day's last build read, sorted.

    Raises:
        UsageNotBuiltError: the day has no build.
    """
    rows = connection.execute(
        """
        select generation ->> 'uri'
        from usage.build
        left join lateral jsonb_array_elements(generations) as generation on true
        where asset = %s and partition_key = %s
        order by 1
        """,
        (asset, day),
    ).fetchall()
    if not rows:
        raise UsageNotBuiltError(
            f"{asset} of {day} has no build.",
            bill="Its rows cannot be followed to files; the amounts are not affected.",
            fix=f"Build the day again: billing materialize {asset} --day {day}",
        )
    return tuple(uri for (uri,) in rows if uri is not None)


def file_keys(connection: psycopg.Connection, file_ids: Iterable[int | None]) -> Mapping[int, tuple[str, str]]:
    """Return file id -> (source, key); None among the ids is left out."""
    wanted = sorted({file_id for file_id in file_ids if file_id is not None})
    rows = connection.execute(
        "select file_id, source, key from core.source_file where file_id = any(%s)", [wanted]
    ).fetchall()
    return {file_id: (source, key) for file_id, source, key in rows}


def origin(
    files: Mapping[int, tuple[str, str]], *, source: str, file_id: int | None, line_number: int | None
) -> Origin:
    """Return where a row of `source` stands, by the keys of `files`."""
    return Origin(source=source, key=None if file_id is None else files[file_id][1], line_number=line_number)
