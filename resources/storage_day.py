"""A delivery day of a storage dataset: its files and their digest, the generation it points at, and how a new one is published.

Used by the ingest of snapshots and of events. Not here: reading files, judging them.
"""

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psycopg

from billing_pipeline import checks
from billing_pipeline.checks import Verdict
from billing_pipeline.errors import BillingError
from billing_pipeline.records import LineCounts
from billing_pipeline.sources.personal_names import Pseudonymise
from resources import delivery_manifest, guard_store
from resources.database import Database
from resources.delivery_manifest import DeliveredFile, LakeGeneration
from resources.lake import Lake
from resources.landing import Landing
from resources.storage_config import StorageSource

# Raise it when a reader takes, refuses or spells something differently: every delivery day is then read anew when asked for.
READER_VERSION = 3
ROUNDS_BEFORE_GIVING_WAY = 5

Progress = Callable[[str, int, int], None]


class StorageDeliveryChangingError(BillingError):
    """Files of a delivery day kept arriving while it was read."""


class StorageFileGoneError(BillingError):
    """A file that counts has to be read once more, and is gone, or is refused by a profile edited since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageHands:
    """What ingest works with. `landing_url` is where `landing` leads: metadata of S3 objects is asked for there.

    `pseudonymise` turns an e-mail address in a name into a keyed pseudonym; None: such names are refused.
    """

    database: Database
    lake: Lake
    landing: Landing
    landing_url: str
    scratch_dir: Path
    memory_limit: str
    threads: int
    pseudonymise: Pseudonymise | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Who ingests."""

    run_id: str
    code_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageDayIngest:
    """One delivery day of a dataset. `counts` and `rejected_by_reason` over all of its files; `event_days`: rows of the lake."""

    dataset: str
    day: date
    generation: str
    uri: str
    rows: int
    files: tuple[DeliveredFile, ...]
    counts: LineCounts
    rejected_by_reason: Mapping[str, int]
    event_days: Mapping[date, int]
    verdicts: tuple[Verdict, ...]
    was_read: bool


def read_with(source: StorageSource) -> str:
    """Return what a file of `source` is read with: while it stands, its rows are taken over from the generation before."""
    scope = json.dumps([source.objects, sorted(source.buckets)])
    return f"{READER_VERSION}:{source.profile.sha256}:{hashlib.sha256(scope.encode()).hexdigest()[:8]}"


def inputs_digest(files: Sequence[DeliveredFile], sources: Mapping[str, StorageSource]) -> str:
    """Return the digest of the files that a generation is made of, and of what they are read with."""
    parts = sorted([file.source, file.content_sha256, file.key, read_with(sources[file.source])] for file in files)
    return hashlib.sha256(json.dumps([READER_VERSION, parts]).encode()).hexdigest()


def new_generation(digest: str) -> str:
    """Return a name for a generation of these inputs that no other attempt has."""
    return f"{digest[:16]}-{secrets.token_hex(6)}"


def is_up_to_date(
    files: Sequence[DeliveredFile], current: LakeGeneration | None, sources: Mapping[str, StorageSource], lake: Lake
) -> bool:
    """Return whether the current generation is what the files would give."""
    return (
        current is not None
        and all(file.status != "pending" for file in files)
        and current.inputs_digest == inputs_digest(files, sources)
        and lake.holds(current.uri)
    )


def is_decided(file: DeliveredFile) -> bool:
    """Return whether a person has let a held file through, so that bounds no longer stop it."""
    return file.reason is not None and file.status == "pending"


def summary(
    connection: psycopg.Connection, dataset: str, day: date, sources: Sequence[str], *, was_read: bool
) -> StorageDayIngest:
    """Return what the delivery day holds now."""
    files = delivery_manifest.files_of(
        connection, sources, day, ("pending", "accepted", "rejected", "held", "duplicate")
    )
    current = delivery_manifest.current_generation(connection, dataset, day)
    reasons = connection.execute(
        "select reason, count(*) from core.quarantine where file_id = any(%s) group by reason",
        [[file.file_id for file in files]],
    ).fetchall()
    event_days = connection.execute(
        "select event_day, row_count from core.lake_partition join core.lake_generation_day"
        " using (dataset, partition_key, generation) where dataset = %s and partition_key = %s order by 1",
        [dataset, day],
    ).fetchall()
    return StorageDayIngest(
        dataset=dataset,
        day=day,
        generation=current.generation if current else "",
        uri=current.uri if current else "",
        rows=current.row_count if current else 0,
        files=files,
        counts=sum_counts([file.counts for file in files]),
        rejected_by_reason=dict(reasons),
        event_days=dict(event_days),
        verdicts=guard_store.verdicts(connection, dataset, [day.isoformat()]),
        was_read=was_read,
    )


def not_taken(files: Sequence[DeliveredFile]) -> Mapping[str, str]:
    """Return key -> why, of files that were refused or are held. A refused one that was delivered anew and taken is mended."""
    taken = {(file.source, file.key) for file in files if file.status == "accepted"}
    return {
        file.key: f"{file.reason}: {file.detail}"
        for file in files
        if file.status == "held" or (file.status == "rejected" and (file.source, file.key) not in taken)
    }


def sum_counts(counts: Sequence[LineCounts]) -> LineCounts:
    """Return the counts of several files together."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(
            lines_read=count.lines_read,
            accepted=count.accepted,
            rejected=count.rejected,
            duplicate=count.duplicate,
            out_of_scope=count.out_of_scope,
        )
    names = ("lines_read", "accepted", "rejected", "duplicate", "out_of_scope")
    return LineCounts(**{name: total[name] for name in names})


def giving_way(dataset: str, day: date) -> StorageDeliveryChangingError:
    """Return the error of a day that would not keep still."""
    return StorageDeliveryChangingError(
        f"new files for the delivery day {day} were registered each of the {ROUNDS_BEFORE_GIVING_WAY} times it was read",
        bill="nothing of it was published; what was published before is still in place",
        fix=f"let the delivery finish, then materialize {dataset} for this day again",
    )


def file_gone(file: DeliveredFile, why: str) -> StorageFileGoneError:
    """Return the error of a file that counts and cannot be read again."""
    return StorageFileGoneError(
        f"{file.key} of source {file.source} was read before and must be read again, but {why}",
        bill="what it says of storage stays counted; nothing of this delivery day was published",
        fix=f"restore the file with SHA-256 {file.content_sha256} under this name, or the lake file that it was read into, or "
        "go back to the profile it was read with",
    )


def with_releases(
    verdicts: Sequence[Verdict], released: Mapping[str, frozenset[str]], day: date
) -> tuple[Verdict, ...]:
    """Return the verdicts, those that a person has let through as released."""
    return checks.with_releases(verdicts, released.get(day.isoformat(), frozenset()))
