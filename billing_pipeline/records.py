"""What we know of a request, in canonical form, and why a line was refused. Pure values.

Grain of `RequestRecord`: one accepted log line. Only allow-listed facts: no address, e-mail, user agent, token or raw path
has a field here (law 10). Not here: how a source spells these facts (sources/), who pays for them (catalog, meters).
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

UNMATCHED_ENDPOINT = "unmatched"


class Reason(StrEnum):
    """Why a line or a whole file is refused. The value is what operators read in tables and reports."""

    # lines
    BAD_JSON = "bad_json"
    NOT_AN_OBJECT = "not_an_object"
    TRUNCATED_LINE = "truncated_line"
    TOO_LONG = "too_long"
    TOO_DEEP = "too_deep"
    NUL_BYTES = "nul_bytes"
    ENCODING = "encoding"
    DUPLICATE_KEY = "duplicate_key"
    MISSING_FIELD = "missing_field"
    FLAG_MISSING = "flag_missing"
    WRONG_TYPE = "wrong_type"
    BAD_VALUE = "bad_value"
    OUT_OF_RANGE = "out_of_range"
    BAD_PATH = "bad_path"
    BAD_TIMESTAMP = "bad_timestamp"
    NO_TIMEZONE = "no_timezone"
    AMBIGUOUS_UNIT = "ambiguous_unit"
    LEAP_SECOND = "leap_second"
    SENTINEL_TIME = "sentinel_time"
    FUTURE = "future"
    # files
    BAD_COMPRESSION = "bad_compression"
    NESTED_COMPRESSION = "nested_compression"
    TOO_LARGE = "too_large"
    BINARY = "binary"
    EMPTY_FILE = "empty_file"
    BAD_RATIO = "bad_ratio"
    BAD_AVRO = "bad_avro"
    SCHEMA_INCOMPATIBLE = "schema_incompatible"
    TIMESTAMP_UNIT_UNKNOWN = "timestamp_unit_unknown"
    UNREADABLE = "unreadable"
    SAME_KEY_OTHER_CONTENT = "same_key_other_content"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One API request. `event_at` is aware UTC; `response_time_us` whole microseconds; bytes are bytes."""

    event_id: str
    event_at: datetime
    client_id: str
    method: str
    endpoint: str
    status_code: int
    response_time_us: int | None
    response_bytes: int | None
    is_simulated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A refused line: its position, why, which canonical field. Never its text."""

    line_number: int
    reason: Reason
    field: str | None = None
    line_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfScope:
    """A line of the file that the profile says is not ours to meter."""

    line_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineCounts:
    """Law 1 for a file or a partition: lines read = accepted + rejected + duplicate + out of scope."""

    lines_read: int
    accepted: int
    rejected: int
    duplicate: int
    out_of_scope: int

    @property
    def unaccounted(self) -> int:
        """Return lines read less lines with an outcome; 0 when nothing is lost."""
        return self.lines_read - self.accepted - self.rejected - self.duplicate - self.out_of_scope


def line_digest(line: bytes) -> str:
    """Return the SHA-256 hex of a line without its line end, by which a person finds it in the source file."""
    return hashlib.sha256(line.rstrip(b"\r\n")).hexdigest()
