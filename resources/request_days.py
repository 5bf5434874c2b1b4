"""What a delivery day is made of: its files, the digest of them and of their profiles, the generation it points at.

Read for a whole range at once. Not here: reading files (request_day_reader), publishing (request_day_writer), statements
(request_manifest).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import psycopg

from resources import request_manifest
from resources.lake import Lake
from resources.request_manifest import Generation, ManifestFile
from resources.source_config import SourceConfig

# Raise it when the reader takes, refuses or spells a line differently: every delivery day is then read anew when asked for.
READER_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDay:
    """A delivery day as the manifest has it. `current` is None also when the lake has lost it: the files are read again."""

    day: date
    files: tuple[ManifestFile, ...]
    inputs_digest: str
    current: Generation | None

    @property
    def is_up_to_date(self) -> bool:
        """Return whether the current generation is what its files would give."""
        return (
            self.current is not None
            and self.current.inputs_digest == self.inputs_digest
            and all(file.status != "pending" for file in self.files)
        )

    @property
    def packed_bytes(self) -> int:
        """Return the size of the files as they were delivered."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class RequestDays:
    """Looks up delivery days of these sources."""

    lake: Lake
    sources: Mapping[str, SourceConfig]

    def read(self, connection: psycopg.Connection, days: Sequence[date]) -> tuple[RequestDay, ...]:
        """Return `days` as they are now, in their order."""
        files = request_manifest.files_of(connection, days, list(self.sources))
        current = request_manifest.current_generations(connection, days)
        return tuple(
            RequestDay(
                day=day,
                files=files[day],
                inputs_digest=self._inputs_digest(files[day]),
                current=current[day] if day in current and self.lake.holds(current[day].uri) else None,
            )
            for day in days
        )

    def read_with(self, source: str) -> str:
        """Return what a file of `source` is read with: while it stands, a file need not be read again."""
        return f"{READER_VERSION}:{self.sources[source].profile.sha256}"

    def _inputs_digest(self, files: Sequence[ManifestFile]) -> str:
        parts = sorted([file.source, file.content_sha256, self.sources[file.source].profile.sha256] for file in files)
        return hashlib.sha256(json.dumps([READER_VERSION, parts]).encode()).hexdigest()
