"""Read the snapshots that were dropped or pushed as files: landing folder of a source -> draft, and outcome of each file.

A file counts whole or not at all; of a file that can be read, a snapshot or sample that cannot be taken is quarantined by its
position, samples counted through the file. Not here: rules of registering (delivery_manifest), publishing (traffic_publisher).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from billing_pipeline.records import Reason
from billing_pipeline.sources.prometheus_text import PrometheusTextError
from billing_pipeline.sources.traffic_snapshots import (
    BodyUnreadableError,
    Pseudonymise,
    SnapshotReading,
    SnapshotRejection,
    TrafficSnapshot,
    parse_body,
)
from billing_pipeline.sources.xray_outputs import XrayNodeError, XrayOutputError, XraySilentError, read_delivered
from resources import delivery_manifest
from resources.database import Database
from resources.delivery_manifest import Arrival, DeliveredFile, FileOutcome, Reject
from resources.inflate import FileRejected, Framing, inflated, sniff
from resources.landing import Landing, LandingFile, LandingFileChangedError, LandingKeyError, LandingNotFoundError
from resources.traffic_config import TrafficSource
from resources.traffic_samples import DATASET, Draft

# Raise it when a file is read differently.
READER_VERSION = "1"
# A body is parsed as a whole; this many bytes of JSON are some ten million samples' worth of memory at most.
LARGEST_FILE_BYTES = 256 << 20
FILES_PER_REGISTRATION = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReading:
    """A file that was read into a draft, or refused. Counts of `outcome` are filled in when it is published."""

    file_id: int
    source: str
    outcome: FileOutcome


def discover(database: Database, landing: Landing, sources: Sequence[TrafficSource], *, seen_at: datetime) -> None:
    """Enter every file below the sources' folders that is not known into the manifest. The same file again: nothing."""
    for source in sources:
        with database.reading() as connection:
            known = delivery_manifest.known_files(connection, source.name)
        unknown = [
            file
            for file in _files_below(landing, source.landing_folder)
            if (file.key, file.size_bytes, file.modified_at) not in known
        ]
        for start in range(0, len(unknown), FILES_PER_REGISTRATION):
            arrivals = _hashed(landing, unknown[start : start + FILES_PER_REGISTRATION])
            with database.transaction(f"core/source_file|{source.name}") as connection:
                delivery_manifest.register(
                    connection, dataset=DATASET, source=source.name, files=arrivals, seen_at=seen_at
                )


def read_file(
    landing: Landing, file: DeliveredFile, source: TrafficSource, draft: Draft, *, pseudonymise: Pseudonymise | None
) -> FileReading:
    """Add what a file says to the draft; a file that is refused adds nothing."""
    try:
        content = _content(landing, file)
        readings = _readings(content, file, source, pseudonymise)
    except XraySilentError as error:
        # The exporter has said that it could not ask Xray: understood, and the minute has no snapshot.
        return _reading(file, status="accepted", detail=error.what)
    except (BodyUnreadableError, PrometheusTextError) as error:
        return _reading(file, status="rejected", reason=Reason.BAD_JSON, detail=error.what)
    except (XrayOutputError, XrayNodeError, _OtherNodeError) as error:
        return _reading(file, status="rejected", reason=Reason.BAD_VALUE, detail=str(error).splitlines()[0])
    except FileRejected as error:
        return _reading(file, status="rejected", reason=error.reason, detail=error.detail)
    rejects: list[Reject] = []
    position = 0
    for reading in readings:
        if isinstance(reading, SnapshotRejection):
            position += 1
            rejects.append((position, reading.reason, reading.field, None))
            continue
        refused = {rejection.position for rejection in reading.rejected}
        count = len(reading.samples) + len(refused)
        positions = [position + place for place in range(1, count + 1) if place not in refused]
        rejects += [(position + one.position, one.reason, one.field, None) for one in reading.rejected]
        draft.add(reading, source=source.name, file_id=file.file_id, positions=positions)
        position += count
    return _reading(file, status="accepted", rejects=rejects)


class _OtherNodeError(Exception):
    """A file names another node than its source has."""


def _files_below(landing: Landing, folder: str) -> list[LandingFile]:
    try:
        return list(landing.list(f"{folder}/"))
    except LandingNotFoundError:
        # Nothing was ever dropped or pushed for this source.
        return []


def _hashed(landing: Landing, files: Sequence[LandingFile]) -> list[Arrival]:
    arrivals: list[Arrival] = []
    for file in files:
        try:
            with landing.fetched(file.key) as path, path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except LandingFileChangedError:
            # Still being written: the next run finds it whole.
            continue
        arrivals.append((file, digest, file.modified_at.date()))
    return arrivals


def _content(landing: Landing, file: DeliveredFile) -> bytes:
    try:
        with landing.fetched(file.key) as path:
            return _read(path, file)
    except (LandingKeyError, LandingFileChangedError) as missing:
        raise FileRejected(
            Reason.UNREADABLE, "the file was changed or removed after it had been registered"
        ) from missing


def _read(path: Path, file: DeliveredFile) -> bytes:
    with path.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != file.content_sha256:
            raise FileRejected(Reason.UNREADABLE, "the file was overwritten after it had been registered")
    kind = sniff(path)
    if kind.framing is not Framing.LINES:
        raise FileRejected(Reason.BINARY, "snapshots are JSON or Prometheus text, not Avro")
    return b"".join(inflated(path, kind.compression, max_bytes=LARGEST_FILE_BYTES))


def _readings(
    content: bytes, file: DeliveredFile, source: TrafficSource, pseudonymise: Pseudonymise | None
) -> Sequence[SnapshotReading]:
    if source.format == "snapshots":
        readings = parse_body(content, as_of=file.first_seen_at, pseudonymise=pseudonymise)
    else:
        readings = read_delivered(
            content,
            file_name=PurePosixPath(file.key).name,
            output_format=source.format,
            env=source.env,
            node=source.node,
            as_of=file.first_seen_at,
            pseudonymise=pseudonymise,
        )
    for position, reading in enumerate(readings, 1):
        if isinstance(reading, TrafficSnapshot) and (reading.env, reading.node) != (source.env, source.node):
            raise _OtherNodeError(f"snapshot {position} is of another node or environment than source {source.name}")
    return readings


def _reading(
    file: DeliveredFile,
    *,
    status: str,
    reason: Reason | None = None,
    detail: str | None = None,
    rejects: Sequence[Reject] = (),
) -> FileReading:
    return FileReading(
        file_id=file.file_id,
        source=file.source,
        outcome=FileOutcome(
            file_id=file.file_id,
            status=status,
            read_with=READER_VERSION,
            reason=reason,
            detail=detail,
            rejects=rejects,
        ),
    )
