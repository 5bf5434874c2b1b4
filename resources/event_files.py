"""Read delivered files of events: CloudTrail logs and lists of visibility events -> rows for the lake, with counts.

Files are fetched and inflated several at a time. Not here: duplicates over files (event_ingest), digests (cloudtrail_digests).
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC

import pyarrow as pa

from billing_pipeline.records import LineCounts
from billing_pipeline.sources.cloudtrail import Action, Ignored, ObjectEvent, read_log
from billing_pipeline.sources.personal_names import Pseudonymise
from billing_pipeline.sources.storage_reasons import FileRefusal
from billing_pipeline.sources.visibility_events import RepositoryEvent, read_fields
from resources.delivery_manifest import NOTHING_READ, DeliveredFile, Reject
from resources.landing import Landing
from resources.storage_config import StorageSource
from resources.storage_files import (
    OBJECT_EVENT_SCHEMA,
    VISIBILITY_EVENT_SCHEMA,
    Refused,
    content_of,
    fetched,
)
from resources.table_reader import read_table

FILES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFile:
    """What a file of events holds. `counts.accepted` are lines with events, before duplicates over files are found.

    `unsized`, `batch_deletes`: events that changed sizes without saying how. `content_sha256`: of the inflated bytes of a log.
    """

    file: DeliveredFile
    rows: pa.Table
    counts: LineCounts = NOTHING_READ
    rejects: tuple[Reject, ...] = ()
    refusal: FileRefusal | None = None
    unsized: Mapping[str, int] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)
    content_sha256: str | None = None

    @property
    def batch_deletes(self) -> int:
        """Return how many batch deletes the file names, none of which names a key."""
        return self.ignored.get(Ignored.BATCH_DELETE, 0)


def read_logs(
    landing: Landing,
    files: Sequence[DeliveredFile],
    sources: Mapping[str, StorageSource],
    pseudonymise: Pseudonymise | None,
) -> Iterator[EventFile]:
    """Yield what each log file holds, in order."""
    with ThreadPoolExecutor(max_workers=FILES_AT_ONCE) as fetchers:
        for start in range(0, len(files), FILES_AT_ONCE * 4):
            batch = files[start : start + FILES_AT_ONCE * 4]
            contents = list(fetchers.map(lambda file: _content(landing, file), batch))
            for file, content in zip(batch, contents, strict=True):
                yield _read_log(file, content, sources[file.source], pseudonymise)


def read_visibility(landing: Landing, file: DeliveredFile, pseudonymise: Pseudonymise | None) -> EventFile:
    """Return what a list of visibility events holds."""
    events: list[tuple[int, RepositoryEvent]] = []
    rejects: list[Reject] = []
    read = 0
    try:
        with fetched(landing, file) as path:
            for position, fields in read_table(path):
                read += 1
                said = (
                    read_fields(fields, as_of=file.first_seen_at, pseudonymise=pseudonymise)
                    if isinstance(fields, Mapping)
                    else fields
                )
                if said and isinstance(said[0], RepositoryEvent):
                    events += [(position, event) for event in said if isinstance(event, RepositoryEvent)]
                else:
                    rejects.append((position, str(said[0]), None if said[1] is None else str(said[1]), None))
    except Refused as error:
        return EventFile(file=file, rows=VISIBILITY_EVENT_SCHEMA.empty_table(), refusal=error.refusal)
    rows = {
        "source": [file.source] * len(events),
        "event_id": [event.event_id for _, event in events],
        "event_at": [event.event_at.astimezone(UTC).replace(tzinfo=None) for _, event in events],
        "repository": [event.repository for _, event in events],
        "kind": [str(event.kind) for _, event in events],
        "value": [event.value for _, event in events],
        "file_id": [file.file_id] * len(events),
        "line_number": [position for position, _ in events],
    }
    rejected = len(rejects)
    counts = LineCounts(lines_read=read, accepted=read - rejected, rejected=rejected, duplicate=0, out_of_scope=0)
    return EventFile(
        file=file,
        rows=pa.table(rows, schema=VISIBILITY_EVENT_SCHEMA),
        counts=counts,
        rejects=tuple(rejects),
    )


def _content(landing: Landing, file: DeliveredFile) -> bytes | FileRefusal:
    try:
        with fetched(landing, file) as path:
            return content_of(path)
    except Refused as error:
        return error.refusal


def _read_log(
    file: DeliveredFile, content: bytes | FileRefusal, source: StorageSource, pseudonymise: Pseudonymise | None
) -> EventFile:
    if isinstance(content, FileRefusal):
        return EventFile(file=file, rows=OBJECT_EVENT_SCHEMA.empty_table(), refusal=content)
    log = read_log(
        content,
        profile=source.profile,
        buckets=source.buckets,
        as_of=file.first_seen_at,
        pseudonymise=pseudonymise,
    )
    if isinstance(log, FileRefusal):
        return EventFile(file=file, rows=OBJECT_EVENT_SCHEMA.empty_table(), refusal=log)
    return EventFile(
        file=file,
        rows=_event_rows(file, log.events),
        counts=LineCounts(
            lines_read=log.read,
            accepted=len(log.events),
            rejected=len(log.rejections),
            duplicate=0,
            out_of_scope=log.ignored.total(),
        ),
        rejects=tuple((one.position, one.reason, one.field, None) for one in log.rejections),
        unsized=Counter(event.event_name for _, event in log.events if event.action is Action.UNSIZED),
        ignored=log.ignored,
        content_sha256=hashlib.sha256(content).hexdigest(),
    )


def _event_rows(file: DeliveredFile, events: Sequence[tuple[int, ObjectEvent]]) -> pa.Table:
    same = [
        name
        for name in OBJECT_EVENT_SCHEMA.names
        if name not in ("source", "event_at", "action", "file_id", "line_number")
    ]
    columns: dict[str, list[object]] = {name: [getattr(event, name) for _, event in events] for name in same}
    columns |= {
        "source": [file.source] * len(events),
        "event_at": [event.event_at.replace(tzinfo=None) for _, event in events],
        "action": [str(event.action) for _, event in events],
        "file_id": [file.file_id] * len(events),
        "line_number": [position for position, _ in events],
    }
    return pa.table({name: columns[name] for name in OBJECT_EVENT_SCHEMA.names}, schema=OBJECT_EVENT_SCHEMA)
