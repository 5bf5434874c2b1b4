"""Read how far this installation is: deliveries, refusals, held days, builds, money. One read-only snapshot.

Counts are of files, lines, rows or charges, as the names say; amounts are minor units of their currency. Not here:
which days are stale (usage_store), showing it (console), changing it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

import psycopg
from psycopg.rows import class_row

from resources.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTally:
    """The files of one source with one status, and what became of their lines."""

    source: str
    status: str
    files: int
    lines_read: int
    accepted: int
    rejected: int
    duplicate: int
    out_of_scope: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRefusal:
    """A file that is held, refused or a copy of another, with the reason."""

    file_id: int
    source: str
    key: str
    delivery_day: date
    status: str
    reason: str
    lines_read: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRefusal:
    """A refused line: where it is and why. Never its text."""

    source: str
    key: str
    line_number: int
    reason: str
    field: str | None
    line_sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """The last build of one event day of a usage asset."""

    asset: str
    day: date
    state: str
    records_read: int
    billable: int
    not_billable: int
    duplicate: int
    conflict: int
    usage_rows: int
    built_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardVerdict:
    """A guard over one partition that warned or holds it."""

    asset: str
    partition_key: str
    guard: str
    status: str
    expected: str
    actual: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Charges against ledger in one currency, in minor units. They balance when both differences are zero."""

    currency: str
    charges: int
    revisions: int
    charged_minor: int
    receivable_minor: int
    postings_sum_minor: int

    @property
    def balance(self) -> bool:
        """Return whether every charged minor unit is posted, and the postings add up to zero."""
        return self.charged_minor == self.receivable_minor and self.postings_sum_minor == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenConflict:
    """One version of a request that exists with different content, and that nobody has decided."""

    source: str
    event_id: str
    event_day: date
    content_sha256: str
    key: str
    line_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything that `billing status` shows, of one instant."""

    tallies: tuple[FileTally, ...]
    refused_files: tuple[FileRefusal, ...]
    refused_lines_by_reason: Mapping[str, int]
    pending_days: tuple[date, ...]
    builds: tuple[Build, ...]
    not_billable_by_reason: Mapping[str, int]
    verdicts: tuple[GuardVerdict, ...]
    open_conflicts: int
    books: tuple[Books, ...]


def read_status(database: Database) -> Status:
    """Return the state of the whole installation in one snapshot."""
    with database.reading() as connection:
        pending = connection.execute(
            "select distinct delivery_day from core.source_file where status = 'pending' order by delivery_day"
        ).fetchall()
        refused_lines = connection.execute(
            "select reason, count(*) from core.quarantine group by reason order by 2 desc, 1"
        ).fetchall()
        not_billable = connection.execute(
            """
            select reason, sum(request_count)::bigint
            from usage.api_requests_not_billable
            group by reason
            order by 2 desc, 1
            """
        ).fetchall()
        return Status(
            tallies=_tallies(connection),
            refused_files=_refused_files(connection),
            refused_lines_by_reason=dict(refused_lines),
            pending_days=tuple(day for (day,) in pending),
            builds=_builds(connection),
            not_billable_by_reason=dict(not_billable),
            verdicts=_verdicts(connection),
            open_conflicts=len({(one.source, one.event_id) for one in _open_conflicts(connection, None)}),
            books=_books(connection),
        )


def read_refused_lines(
    database: Database, *, reason: str | None = None, delivery_day: date | None = None, limit: int = 50
) -> tuple[LineRefusal, ...]:
    """Return up to `limit` refused lines, by file and position, of one reason and delivery day where given."""
    with database.reading() as connection:
        rows = connection.cursor(row_factory=class_row(LineRefusal)).execute(
            """
            select source, key, line_number, quarantine.reason, field, line_sha256
            from core.quarantine
            join core.source_file using (file_id)
            where (%(reason)s::text is null or quarantine.reason = %(reason)s)
              and (%(day)s::date is null or delivery_day = %(day)s)
            order by source, key, line_number
            limit %(limit)s
            """,
            {"reason": reason, "day": delivery_day, "limit": limit},
        )
        return tuple(rows)


def read_refused_files(database: Database) -> tuple[FileRefusal, ...]:
    """Return the files that are held, refused or copies, by delivery day."""
    with database.reading() as connection:
        return _refused_files(connection)


def read_open_conflicts(database: Database, *, event_day: date | None = None) -> tuple[OpenConflict, ...]:
    """Return every version of every undecided conflict, those of one event day where given."""
    with database.reading() as connection:
        return _open_conflicts(connection, event_day)


def _tallies(connection: psycopg.Connection) -> tuple[FileTally, ...]:
    return tuple(
        connection.cursor(row_factory=class_row(FileTally)).execute(
            """
            select source, status, count(*) as files, sum(lines_read)::bigint as lines_read,
                   sum(accepted_rows)::bigint as accepted, sum(rejected_rows)::bigint as rejected,
                   sum(duplicate_rows)::bigint as duplicate, sum(out_of_scope_rows)::bigint as out_of_scope
            from core.source_file
            group by source, status
            order by source, status
            """
        )
    )


def _refused_files(connection: psycopg.Connection) -> tuple[FileRefusal, ...]:
    return tuple(
        connection.cursor(row_factory=class_row(FileRefusal)).execute(
            """
            select file_id, source, key, delivery_day, status, coalesce(reason, 'same_content_other_key') as reason,
                   lines_read
            from core.source_file
            where status in ('held', 'rejected', 'duplicate')
            order by delivery_day, source, key, file_id
            """
        )
    )


def _builds(connection: psycopg.Connection) -> tuple[Build, ...]:
    return tuple(
        connection.cursor(row_factory=class_row(Build)).execute(
            """
            select asset, partition_key as day, state, records_read, billable_records as billable,
                   not_billable_records as not_billable, duplicate_records as duplicate, conflict_records as conflict,
                   usage_rows, built_at
            from usage.build
            order by asset, partition_key
            """
        )
    )


def _verdicts(connection: psycopg.Connection) -> tuple[GuardVerdict, ...]:
    return tuple(
        connection.cursor(row_factory=class_row(GuardVerdict)).execute(
            """
            select asset, partition_key, guard, status, expected, actual, message
            from guards.verdict
            where status <> 'passed'
            order by partition_key, asset, guard
            """
        )
    )


def _open_conflicts(connection: psycopg.Connection, event_day: date | None) -> tuple[OpenConflict, ...]:
    return tuple(
        connection.cursor(row_factory=class_row(OpenConflict)).execute(
            """
            select conflict.source, conflict.event_id, conflict.event_day, conflict.content_sha256, source_file.key,
                   conflict.line_number
            from core.request_conflict as conflict
            join core.source_file using (file_id)
            left join core.request_conflict_decision as decision
              on decision.source = conflict.source and decision.event_id = conflict.event_id
            where decision.event_id is null
              and (%(day)s::date is null or conflict.event_day = %(day)s)
            order by conflict.event_day, conflict.source, conflict.event_id, source_file.key, conflict.line_number
            """,
            {"day": event_day},
        )
    )


def _books(connection: psycopg.Connection) -> tuple[Books, ...]:
    return tuple(
        connection.cursor(row_factory=class_row(Books)).execute(
            """
            with
            charged as (
                select currency, count(distinct charge_id) as charges, count(*) as revisions,
                       sum(delta_minor)::bigint as charged_minor
                from billing.charge_revision
                group by currency
            ),
            posted as (
                select currency, sum(amount_minor)::bigint as postings_sum_minor,
                       coalesce(
                           sum(amount_minor) filter (
                               where charge_id is not null and ledger_account not like 'revenue:%'
                           ), 0
                       )::bigint as receivable_minor
                from billing.ledger_posting
                group by currency
            )
            select charged.currency, charges, revisions, charged_minor,
                   coalesce(receivable_minor, 0) as receivable_minor,
                   coalesce(postings_sum_minor, 0) as postings_sum_minor
            from charged
            left join posted using (currency)
            order by charged.currency
            """
        )
    )
