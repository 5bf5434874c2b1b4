"""Look into the landing zone for deliveries about storage, and enter what is new into the manifest.

An inventory is one delivery: its manifest, once manifest.checksum is there, which S3 writes last. Its content is the manifest, the
checksum and which of its data files are there with which size, so that a refused one is taken when what lacked arrives.
Not here: reading (the ingests), statements (delivery_manifest).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import psycopg

from billing_pipeline.sources.cloudtrail_digest import is_digest_key
from billing_pipeline.sources.s3_inventory import CHECKSUM_NAME, MANIFEST_NAME
from resources import delivery_manifest
from resources.cloudtrail_digests import SIDE_FILE
from resources.database import Database
from resources.delivery_manifest import Arrival
from resources.landing import Landing, LandingFile, LandingFileChangedError, LandingKeyError, LandingNotFoundError
from resources.storage_config import Kind, StorageSource, delivery_day_of
from resources.storage_files import DataFiles, sha256_of

# Files registered in one transaction: a killed discovery hashes at most these again.
FILES_PER_REGISTRATION = 500
SNAPSHOT_FOLDERS = (Kind.INVENTORY, Kind.LISTING)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageDiscovery:
    """What a look into the landing zone found. Keys; `waiting`: manifests whose checksum has not arrived.

    `missing_folders`: landing folders that do not exist (yet). `delivery_days`: (dataset, day) with files that wait to be read.
    """

    new_files: tuple[str, ...]
    held_files: tuple[str, ...]
    duplicate_files: tuple[str, ...]
    waiting: tuple[str, ...]
    missing_folders: tuple[str, ...]
    delivery_days: tuple[tuple[str, date], ...]


@dataclass(slots=True, kw_only=True)
class _Found:
    new: list[str]
    held: list[str]
    duplicate: list[str]
    waiting: list[str]
    missing: list[str]


def discover(
    database: Database, landing: Landing, sources: Sequence[StorageSource], *, seen_at: datetime
) -> StorageDiscovery:
    """Register every delivery that the manifest does not know. The same again: nothing.

    A known key with other content is held, unless all its earlier contents were refused; the same content under another key
    is a duplicate. Neither is read.
    """
    found = _Found(new=[], held=[], duplicate=[], waiting=[], missing=[])
    for source in sources:
        try:
            files = [file for file in landing.list(source.landing) if source.owns(file)]
        except LandingNotFoundError:
            found.missing.append(source.landing)
            continue
        with database.reading() as connection:
            known = delivery_manifest.known_files(connection, source.name)
            refused = _refused_keys(connection, source.name)
        wanted = (
            file
            for file in _deliveries(source, files, found)
            if (file.key, file.size_bytes, file.modified_at) not in known or file.key in refused
        )
        arrivals = _arrivals(landing, source, wanted, files)
        for batch in _batched(arrivals):
            with database.transaction(f"core/source_file|{source.name}") as connection:
                registered = delivery_manifest.register(
                    connection, dataset=source.dataset, source=source.name, files=batch, seen_at=seen_at
                )
                if registered.duplicate:
                    for day in {day for _, _, day in batch}:
                        delivery_manifest.write_duplicates(connection, [source.name], day)
            found.new += registered.new
            found.held += registered.held
            found.duplicate += registered.duplicate
    return StorageDiscovery(
        new_files=tuple(found.new),
        held_files=tuple(found.held),
        duplicate_files=tuple(found.duplicate),
        waiting=tuple(found.waiting),
        missing_folders=tuple(found.missing),
        delivery_days=waiting_days(database, sources),
    )


def waiting_days(database: Database, sources: Sequence[StorageSource]) -> tuple[tuple[str, date], ...]:
    """Return (dataset, delivery day) of what waits to be read."""
    datasets = sorted({source.dataset for source in sources})
    with database.reading() as connection:
        return tuple(
            (dataset, day)
            for dataset in datasets
            for day in delivery_manifest.delivery_days(
                connection, [source.name for source in sources if source.dataset == dataset], pending_only=True
            )
        )


def _deliveries(source: StorageSource, files: Sequence[LandingFile], found: _Found) -> Iterator[LandingFile]:
    """Yield the files that are deliveries by themselves."""
    keys = {file.key for file in files}
    for file in files:
        name = file.key.rpartition("/")[2]
        if source.kind in SNAPSHOT_FOLDERS:
            if name != MANIFEST_NAME:
                continue
            if file.key.removesuffix(MANIFEST_NAME) + CHECKSUM_NAME in keys:
                yield file
            else:
                found.waiting.append(file.key)
        elif not name.endswith(SIDE_FILE) and not (source.digests == "ignored" and is_digest_key(file.key)):
            yield file


def _arrivals(
    landing: Landing, source: StorageSource, wanted: Iterator[LandingFile], files: Sequence[LandingFile]
) -> Iterator[Arrival]:
    data_files = DataFiles(landing, files)
    for file in wanted:
        try:
            if source.kind in SNAPSHOT_FOLDERS:
                sha256 = data_files.read_manifest(file.key)[2]
            else:
                with landing.fetched(file.key) as path:
                    sha256 = sha256_of(path)
        except (LandingFileChangedError, LandingKeyError):
            continue  # it is found again, whole, by the next look
        yield file, sha256, delivery_day_of(file)


def _batched(arrivals: Iterator[Arrival]) -> Iterator[list[Arrival]]:
    batch: list[Arrival] = []
    for arrival in arrivals:
        batch.append(arrival)
        if len(batch) == FILES_PER_REGISTRATION:
            yield batch
            batch = []
    if batch:
        yield batch


def _refused_keys(connection: psycopg.Connection, source: str) -> frozenset[str]:
    """Return the keys of which nothing was taken: their files may have been mended without a change that shows."""
    rows = connection.execute(
        "select key from core.source_file where source = %s group by key having bool_and(status = 'rejected')", [source]
    ).fetchall()
    return frozenset(row[0] for row in rows)
