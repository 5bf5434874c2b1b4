"""Why a record, a row or a whole file about storage is refused or held. Values; reasons of every source are in records."""

from dataclasses import dataclass
from enum import StrEnum


class StorageReason(StrEnum):
    """The value is what operators read in tables and reports."""

    # records and rows
    BAD_KEY = "bad_key"
    PERSONAL_NAME = "personal_name"
    EVENT_VERSION = "event_version"
    NOT_A_DATA_EVENT = "not_a_data_event"
    ID_CONFLICT = "id_conflict"
    SIZE_UNKNOWN = "size_unknown"
    # files
    WRAPPER = "wrapper"
    DIGEST_AS_LOG = "digest_as_log"
    BAD_MANIFEST = "bad_manifest"
    MANIFEST_CHECKSUM = "manifest_checksum"
    SCHEMA = "schema"
    COLUMN_COUNT = "column_count"
    FILE_MISSING = "file_missing"
    FILE_CHECKSUM = "file_checksum"
    CONFLICTING_ROWS = "conflicting_rows"
    BAD_ROWS = "bad_rows"
    OTHER_BUCKET = "other_bucket"
    OUT_OF_BOUNDS = "out_of_bounds"
    SAME_INSTANT_OTHER_CONTENT = "same_instant_other_content"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRefusal:
    """A file that is refused as a whole; the detail holds none of its content."""

    reason: str
    detail: str
