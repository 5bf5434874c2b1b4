"""A CloudTrail log file: parsed JSON -> what happened to objects, an allow list of facts. Pure.

Position = index in `Records`, from 1. Nothing of who called, from where or with what survives; keys become a repository and a
hash. What has no size is kept as `unsized`: the next snapshot decides, nothing is guessed. Not here: gzip (inflate),
duplicates (sql/object_events_outcomes), digests (cloudtrail_digest).
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from billing_pipeline.records import Reason
from billing_pipeline.sources.json_numbers import exact_decimal
from billing_pipeline.sources.personal_names import Pseudonymise, has_address
from billing_pipeline.sources.storage_profile import LARGEST_BYTES, StorageProfile, is_key, object_id, version_object_id
from billing_pipeline.sources.storage_reasons import FileRefusal, StorageReason
from billing_pipeline.sources.timestamps import parse_instant

S3 = "s3.amazonaws.com"
# Only these change what is stored. Reads, ACLs, tags, and uploads that were begun or given up are out of scope.
PUTS = frozenset({"PutObject"})
PARTS = frozenset({"UploadPart", "UploadPartCopy"})
# Their size stands nowhere in the record: a form's body is not the object, a copy's and a completion's body is XML.
UNSIZED = frozenset({"PostObject", "CopyObject", "CompleteMultipartUpload", "RenameObject"})
DELETES = frozenset({"DeleteObject"})
# No keys, no count. AWS writes a DeleteObject for each key beside it, and those count.
BATCH_DELETE = "DeleteObjects"
CHANGES = PUTS | PARTS | UNSIZED | DELETES
DELIVERY_SERVICE = "cloudtrail.amazonaws.com"
LOG_FOLDER = "AWSLogs/"
# How S3 calls the version that an object has without versioning; kept as null.
NULL_VERSION = "null"
# eventCategory exists since this version.
FIRST_WITH_CATEGORY = (1, 7)
MAX_ID_LENGTH = 128


class Action(StrEnum):
    """What an event did. `part`: of an upload, no object yet. `delete_version`: of an object of which the current version is sold.
    `delete_marker`: an object hidden or shown again where all versions are sold, so that nothing sold changes. `unsized`: changed,
    size unknown."""

    PUT = "put"
    PART = "part"
    DELETE = "delete"
    DELETE_VERSION = "delete_version"
    DELETE_MARKER = "delete_marker"
    UNSIZED = "unsized"


class Ignored(StrEnum):
    """Why a record is out of scope."""

    OTHER_SERVICE = "other_service"
    NO_CHANGE = "no_change"
    FAILED = "failed"
    LOG_DELIVERY = "log_delivery"
    OTHER_BUCKET = "other_bucket"
    OTHER_KEY = "other_key"
    BATCH_DELETE = "batch_delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectEvent:
    """One event. `event_at` is aware UTC; `bytes` is null where the record does not say; ids are AWS's own.

    `object_id` names the version too where every version is sold.
    """

    event_id: str
    shared_event_id: str | None
    event_at: datetime
    bucket: str
    repository: str
    owner: str | None
    object_id: str
    event_name: str
    action: Action
    bytes: int | None
    upload_id: str | None
    part_number: int | None
    version_id: str | None
    original_event_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRejection:
    """A record that is refused: its position, why, and which field."""

    position: int
    reason: str
    field: str | None = None


@dataclass(slots=True, kw_only=True)
class LogRead:
    """What a log file holds. read = events + rejections + ignored."""

    read: int = 0
    events: list[tuple[int, ObjectEvent]] = field(default_factory=list)
    rejections: list[EventRejection] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


class _Refused(Exception):
    """A record is refused while it is taken apart."""

    def __init__(self, reason: str, field_name: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field_name


class _Out(Exception):
    """A record is out of scope."""

    def __init__(self, why: Ignored) -> None:
        super().__init__(why)
        self.why = why


def read_log(
    content: bytes,
    *,
    profile: StorageProfile,
    buckets: Collection[str],
    as_of: datetime,
    pseudonymise: Pseudonymise | None = None,
) -> LogRead | FileRefusal:
    """Return what a log file's inflated content holds.

    `buckets`: those that are metered, all when empty. `as_of`: when the file was first seen; events after it are refused.
    `pseudonymise` None: events of repositories that are named after an e-mail address are refused.
    """
    records = _records(content)
    if isinstance(records, FileRefusal):
        return records
    done = LogRead(read=len(records))
    for position, record in enumerate(records, 1):
        try:
            if not isinstance(record, dict):
                raise _Refused(Reason.NOT_AN_OBJECT)
            event = _event(record, profile=profile, buckets=buckets, as_of=as_of, pseudonymise=pseudonymise)
            done.events.append((position, event))
        except _Refused as refused:
            done.rejections.append(EventRejection(position=position, reason=str(refused.reason), field=refused.field))
        except _Out as out:
            done.ignored[out.why] += 1
    return done


def version_of(text: object) -> tuple[int, int] | None:
    """Return (major, minor) of an eventVersion; as integers, because 1.10 is later than 1.9. None: not a version."""
    if not isinstance(text, str):
        return None
    major, dot, minor = text.partition(".")
    if not (dot and major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        return None
    return int(major), int(minor)


def size_of(value: object) -> int | None:
    """Return a byte count as it stands in logs: 25701, 25701.0 or "25701". None: absent, or not a count of bytes."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 19):
            return None
        value = int(value)
    if isinstance(value, Decimal):
        if not value.is_finite() or value.adjusted() > 19 or value != value.to_integral_value():
            return None
        value = int(value)
    return value if isinstance(value, int) and 0 <= value <= LARGEST_BYTES else None


def _records(content: bytes) -> list[Any] | FileRefusal:
    try:
        # Infinity and NaN become text, which is no size.
        document = json.loads(content.decode("utf-8-sig"), parse_float=exact_decimal, parse_constant=str)
    except UnicodeDecodeError:
        return FileRefusal(reason=Reason.ENCODING, detail="the file is not UTF-8")
    except RecursionError:
        return FileRefusal(reason=Reason.TOO_DEEP, detail="nested deeper than any record")
    except ValueError as error:
        if getattr(error, "msg", "") == "Extra data":
            return FileRefusal(reason=StorageReason.WRAPPER, detail="several JSON documents, not one with Records")
        return FileRefusal(reason=Reason.BAD_JSON, detail="the file is not JSON")
    if not isinstance(document, dict):
        return FileRefusal(reason=StorageReason.WRAPPER, detail="the file is not an object with Records")
    if "digestS3Object" in document:
        return FileRefusal(reason=StorageReason.DIGEST_AS_LOG, detail="a digest lies among the log files")
    records = document.get("Records")
    if not isinstance(records, list):
        return FileRefusal(reason=StorageReason.WRAPPER, detail="Records is missing or not a list")
    for record in records:
        source = record.get("eventSource") if isinstance(record, dict) else None
        # S3 notifications and SQS envelopes have Records too; each would be read as something that it is not.
        if isinstance(source, str) and source.startswith("aws:"):
            return FileRefusal(
                reason=StorageReason.WRAPPER, detail="Records of a notification or a queue, not of CloudTrail"
            )
    return records


def _event(
    record: Mapping[str, Any],
    *,
    profile: StorageProfile,
    buckets: Collection[str],
    as_of: datetime,
    pseudonymise: Pseudonymise | None,
) -> ObjectEvent:
    name = _in_scope(record)
    parameters = record.get("requestParameters")
    if not isinstance(parameters, dict):
        raise _Refused(Reason.MISSING_FIELD, "requestParameters")
    bucket = _text(parameters, "bucketName")
    if buckets and bucket not in buckets:
        raise _Out(Ignored.OTHER_BUCKET)
    if name == BATCH_DELETE:
        raise _Out(Ignored.BATCH_DELETE)
    key = parameters.get("key")
    if key is None:
        raise _Refused(Reason.MISSING_FIELD, "requestParameters.key")
    if not isinstance(key, str) or not is_key(key):
        raise _Refused(StorageReason.BAD_KEY, "requestParameters.key")
    if key.startswith(LOG_FOLDER):
        raise _Out(Ignored.LOG_DELIVERY)
    event_at = parse_instant(record.get("eventTime"), layout="rfc3339", as_of=as_of)
    if isinstance(event_at, Reason):
        raise _Refused(event_at, "eventTime")
    event_id = _identifier(record, "eventID")
    if event_id is None:
        raise _Refused(Reason.MISSING_FIELD, "eventID")
    belonging = profile.belonging(key)
    if belonging is None:
        raise _Out(Ignored.OTHER_KEY)
    kept = belonging.kept(pseudonymise)
    if kept is None:
        raise _Refused(StorageReason.PERSONAL_NAME, "requestParameters.key")
    if has_address(bucket):
        raise _Refused(StorageReason.PERSONAL_NAME, "requestParameters.bucketName")
    every_version = profile.bytes_sold == "all_versions"
    action, size, version_id = _change(name, record, parameters, every_version=every_version)
    identity = object_id(bucket, key)
    return ObjectEvent(
        event_id=event_id,
        shared_event_id=_identifier(record, "sharedEventID"),
        event_at=event_at,
        bucket=bucket,
        repository=kept.repository,
        owner=kept.owner,
        object_id=version_object_id(identity, version_id) if every_version else identity,
        event_name=name,
        action=action,
        bytes=size,
        upload_id=_parameter(parameters, "uploadId") if name in PARTS | UNSIZED else None,
        part_number=size_of(parameters.get("partNumber")) if name in PARTS else None,
        version_id=version_id,
        original_event_id=_corrected(record),
    )


def _in_scope(record: Mapping[str, Any]) -> str:
    """Return the event's name when it is a successful S3 data event that changes what is stored."""
    version = version_of(record.get("eventVersion"))
    if record.get("eventSource") != S3:
        raise _Out(Ignored.OTHER_SERVICE)
    if "eventVersion" in record and (version is None or version[0] != 1):
        raise _Refused(StorageReason.EVENT_VERSION, "eventVersion")
    name = record.get("eventName")
    if not isinstance(name, str) or (name not in CHANGES and name != BATCH_DELETE):
        raise _Out(Ignored.NO_CHANGE)
    if record.get("errorCode") is not None:
        raise _Out(Ignored.FAILED)
    if version is None:
        raise _Refused(Reason.MISSING_FIELD, "eventVersion")
    identity = record.get("userIdentity")
    if isinstance(identity, dict) and identity.get("invokedBy") == DELIVERY_SERVICE:
        raise _Out(Ignored.LOG_DELIVERY)
    category = record.get("eventCategory")
    if category is None:
        if version >= FIRST_WITH_CATEGORY:
            raise _Refused(Reason.MISSING_FIELD, "eventCategory")
    elif category != "Data":
        raise _Refused(StorageReason.NOT_A_DATA_EVENT, "eventCategory")
    if record.get("managementEvent") is True:
        raise _Refused(StorageReason.NOT_A_DATA_EVENT, "managementEvent")
    return name


def _change(
    name: str, record: Mapping[str, Any], parameters: Mapping[str, Any], *, every_version: bool
) -> tuple[Action, int | None, str | None]:
    """Return what was done, the bytes where the record says them, and the version that it was done to."""
    response = record.get("responseElements")
    if isinstance(response, str):
        # Athena and CloudTrail Lake write it as text.
        try:
            response = json.loads(response)
        except (ValueError, RecursionError):
            response = None
    answer = response if isinstance(response, dict) else {}
    written = _version(answer, "x-amz-version-id")
    if name in DELETES:
        return _deletion(parameters, answer, every_version=every_version)
    extra = record.get("additionalEventData")
    size = size_of(extra.get("bytesTransferredIn")) if isinstance(extra, dict) else None
    if name in PARTS:
        return Action.PART, size if name == "UploadPart" else None, None
    if name in PUTS and size is not None:
        return Action.PUT, size, written
    return Action.UNSIZED, None, written


def _deletion(
    parameters: Mapping[str, Any], answer: Mapping[str, Any], *, every_version: bool
) -> tuple[Action, int | None, str | None]:
    is_marker = str(answer.get("x-amz-delete-marker")).lower() == "true"
    if "versionId" not in parameters:
        # A marker hides the object; its versions stay stored, but for the null version, of which it takes the place.
        hides = every_version and is_marker and answer.get("x-amz-version-id") != NULL_VERSION
        return Action.DELETE_MARKER if hides else Action.DELETE, None, None
    version_id = _version(parameters, "versionId")
    if not is_marker:
        return Action.DELETE if every_version else Action.DELETE_VERSION, None, version_id
    # The marker itself is gone: no stored byte went, but an older version is listed again, and nothing here says its size.
    return Action.DELETE_MARKER if every_version else Action.UNSIZED, None, version_id


def _corrected(record: Mapping[str, Any]) -> str | None:
    """Return the id of the event that this one corrects."""
    addendum = record.get("addendum")
    if not isinstance(addendum, dict) or addendum.get("reason") != "UPDATED_DATA":
        return None
    original = _identifier(addendum, "originalEventID")
    if original is None:
        raise _Refused(Reason.MISSING_FIELD, "addendum.originalEventID")
    return original


def _identifier(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if value is None:
        return None
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= MAX_ID_LENGTH
        or not value.isascii()
        or not value.isprintable()
    ):
        raise _Refused(Reason.BAD_VALUE, name)
    return value


def _parameter(parameters: Mapping[str, Any], name: str) -> str | None:
    value = parameters.get(name)
    return value if isinstance(value, str) and value and is_key(value) else None


def _version(parameters: Mapping[str, Any], name: str) -> str | None:
    version_id = _parameter(parameters, name)
    return None if version_id == NULL_VERSION else version_id


def _text(parameters: Mapping[str, Any], name: str) -> str:
    value = parameters.get(name)
    if value is None:
        raise _Refused(Reason.MISSING_FIELD, f"requestParameters.{name}")
    if not isinstance(value, str) or not is_key(value):
        raise _Refused(Reason.BAD_VALUE, f"requestParameters.{name}")
    return value
