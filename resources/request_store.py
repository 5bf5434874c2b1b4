"""Deliveries of request logs into the lake: discover files, read delivery days, publish their generations. Owner of core.*.

A generation is a function of the files of its delivery day and of their profiles. Everything that a delivery day changes in
PostgreSQL is one transaction under its lock; killed anywhere, the same call again ends in the same state.
Not here: what a range of days goes through (request_ingest), the manifest's statements (request_manifest), event days
(usage_store).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from billing_pipeline.errors import BillingError
from resources import request_manifest
from resources.database import Database
from resources.disk import disk_failures_explained
from resources.lake import Lake
from resources.landing import Landing, LandingFile
from resources.request_day_reader import RequestDayReader
from resources.request_days import RequestDays
from resources.request_ingest import DayIngest, RequestIngest
from resources.scratch import sweep_scratch
from resources.source_config import SourceConfig

# Files registered in one transaction: a killed discovery hashes at most these again.
FILES_PER_REGISTRATION = 100
# What a process that was killed has left in the scratch folder, downloaded log files among it, goes after this time.
LEFTOVERS_LAST = timedelta(days=1)

Progress = Callable[[str, int, int], None]


class LinesWithoutIdsError(BillingError):
    """A held file cannot be accepted: nothing tells which of its lines were read before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What a look into the landing zone found. Keys; `delivery_days` have files that wait to be read."""

    new_files: tuple[str, ...]
    held_files: tuple[str, ...]
    duplicate_files: tuple[str, ...]
    unplaced_files: tuple[str, ...]
    delivery_days: tuple[date, ...]


class RequestStore:
    """Everything about delivered request logs, over the landing zone, the lake and PostgreSQL."""

    def __init__(
        self,
        database: Database,
        lake: Lake,
        landing: Landing,
        sources: Sequence[SourceConfig],
        scratch_dir: Path,
        pseudonym_key: bytes,
        *,
        memory_limit: str = "1GB",
        threads: int = 2,
    ) -> None:
        self._database = database
        self._lake = lake
        self._landing = landing
        self._sources = {source.name: source for source in sources}
        self._scratch_dir = scratch_dir
        self._pseudonym_key = pseudonym_key
        self._memory_limit = memory_limit
        self._threads = threads

    @property
    def expected_hours(self) -> Mapping[str, frozenset[int]]:
        """Return source -> UTC hours of a day in which its profile expects records."""
        return {name: source.profile.expected_hour_set for name, source in self._sources.items()}

    def discover(self, *, seen_at: datetime) -> Discovery:
        """Register every file of the landing zone that the manifest does not know. The same file again: nothing.

        A known key with other content is held, unless all its earlier contents were refused; the same content under another
        key is a duplicate. Neither is read.
        """
        new: list[str] = []
        held: list[str] = []
        duplicates: list[str] = []
        unplaced: list[str] = []
        for source in self._sources.values():
            known = self._known_files(source)
            unknown: list[tuple[LandingFile, date]] = []
            for file in self._landing.list(source.landing):
                if not source.owns(file) or (file.key, file.size_bytes, file.modified_at) in known:
                    continue
                day = source.delivery_day_of(file)
                if day is None:
                    unplaced.append(file.key)
                else:
                    unknown.append((file, day))
            for start in range(0, len(unknown), FILES_PER_REGISTRATION):
                batch = unknown[start : start + FILES_PER_REGISTRATION]
                for key, status in self._register(source, batch, seen_at).items():
                    match status:
                        case "pending":
                            new.append(key)
                        case "held":
                            held.append(key)
                        case "duplicate":
                            duplicates.append(key)
        return Discovery(
            new_files=tuple(new),
            held_files=tuple(held),
            duplicate_files=tuple(duplicates),
            unplaced_files=tuple(unplaced),
            delivery_days=self.delivery_days(pending_only=True),
        )

    def delivery_days(self, *, pending_only: bool) -> tuple[date, ...]:
        """Return the delivery days with files, or only those with files that wait to be read."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "select distinct delivery_day from core.source_file where source = any(%s)"
                " and (not %s or status = 'pending') order by 1",
                [list(self._sources), pending_only],
            ).fetchall()
        return tuple(row[0] for row in rows)

    def accept_held(self, file_id: int, *, actor: str, reason: str) -> bool:
        """Let a held file be read with its delivery day, as a person decided. Its lines that were billed stay duplicates.

        Raises:
            LinesWithoutIdsError: the source gives its lines no ids, so that a line of both contents would be billed twice.
        """
        with self._database.transaction() as connection:
            held = connection.execute(
                "select source, key from core.source_file where file_id = %s and status = 'held'", [file_id]
            ).fetchone()
            if held is not None and self._sources[held[0]].profile.fields.event_id is None:
                raise _lines_without_ids(*held)
            done = connection.execute(
                "update core.source_file set status = 'pending', detail = %s where file_id = %s and status = 'held'",
                [f"accepted by {actor}: {reason}", file_id],
            )
            return done.rowcount == 1

    def ingest_days(
        self, days: Sequence[date], *, run_id: str, code_version: str, on_progress: Progress | None = None
    ) -> tuple[DayIngest, ...]:
        """Publish the generation of each delivery day and return what each holds. A day that is up to date is not read.

        A day that cannot be read does not stop the others; what is wrong with it is raised when they are done.

        Raises:
            AcceptedFileGoneError: a day has to be read again and cannot be.
            DeliveryChangingError: files of a day never stopped coming.
        """
        sweep_scratch(self._scratch_dir, unused_since=datetime.now(UTC) - LEFTOVERS_LAST)
        wanted = list(dict.fromkeys(days))
        read: set[date] = set()

        def told(day: date) -> None:
            read.add(day)
            tell(len(read))

        def tell(done: int) -> None:
            if on_progress is not None:
                on_progress("delivery days", done, len(wanted))

        tell(0)
        request_days = RequestDays(self._lake, self._sources)
        with (
            disk_failures_explained(self._scratch_dir),
            closing(
                RequestDayReader(
                    request_days,
                    self._landing,
                    self._pseudonym_key,
                    self._scratch_dir,
                    memory_limit=self._memory_limit,
                    side_by_side=self._threads,
                )
            ) as reader,
        ):
            done = RequestIngest(
                self._database, request_days, reader, self._scratch_dir, run_id=run_id, code_version=code_version
            ).ingest(wanted, told)
        return tuple(done[day] for day in days)

    def _known_files(self, source: SourceConfig) -> set[tuple[str, int, datetime]]:
        with self._database.reading() as connection:
            rows = connection.execute(
                "select key, size_bytes, modified_at from core.source_file where source = %s", [source.name]
            ).fetchall()
        return {(row[0], row[1], row[2]) for row in rows}

    def _register(
        self, source: SourceConfig, files: Sequence[tuple[LandingFile, date]], seen_at: datetime
    ) -> Mapping[str, str]:
        """Enter files with their delivery days into the manifest; return the status of each key that is new to it."""
        hashes = []
        for file, _ in files:
            with self._landing.fetched(file.key) as path, path.open("rb") as opened:
                hashes.append(hashlib.file_digest(opened, "sha256").hexdigest())
        statuses: dict[str, str] = {}
        with self._database.transaction(f"core/source_file|{source.name}") as connection:
            for (file, day), content_sha256 in zip(files, hashes, strict=True):
                status = request_manifest.register(
                    connection,
                    file,
                    source=source.name,
                    content_sha256=content_sha256,
                    delivery_day=day,
                    seen_at=seen_at,
                    profile_version=source.profile.version,
                )
                if status is not None:
                    statuses[file.key] = status
        return statuses


def _lines_without_ids(source: str, key: str) -> LinesWithoutIdsError:
    return LinesWithoutIdsError(
        f"{key} of source {source} cannot be accepted: its lines have no ids, so nothing tells which of them were read before",
        bill="nothing changed; what was counted of the earlier content stays counted once",
        fix="deliver the lines that are new, and no others, under a new name",
    )
