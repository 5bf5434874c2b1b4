"""CloudTrail digests: which log files were delivered, chained and signed -> what of it is proven. Pure.

An hourly digest lists the log files delivered in that hour with the SHA-256 of their inflated bytes, names the digest before it
with hash and signature, and is itself signed (RSA PKCS #1 v1.5 over the text of `signed_text`). A listed file that is missing,
and a file that no digest lists, hold the delivery day they belong to. Not here: RSA and files (cloudtrail_digests).
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from billing_pipeline.records import Reason
from billing_pipeline.sources.storage_reasons import FileRefusal

SIGNATURE_ALGORITHM = "SHA256withRSA"
HASH_ALGORITHM = "SHA-256"
BACKFILL_SUFFIX = "_backfill.json.gz"
# The name of a log file says a slot of five minutes, the digest the second of delivery: one may run over the hour.
SLOT = timedelta(minutes=10)

_DIGEST_KEY = re.compile(r"(?:^|/)CloudTrail-Digest/.*\.json\.gz$")
_LOG_TIME = re.compile(r"_CloudTrail_[a-z0-9-]+_(\d{8}T\d{4})Z_")
_CHAIN = re.compile(r"(\d+_CloudTrail-Digest_([a-z0-9-]+)_.+)_\d{8}T\d{6}Z(?:_backfill)?\.json\.gz$")
_LOG_STREAM = re.compile(r"(\d+)_CloudTrail_([a-z0-9-]+)_\d{8}T\d{4}Z_")
_HEX = re.compile(r"[0-9a-f]{64}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedLog:
    """A log file that a digest lists; `sha256` is of its inflated bytes."""

    bucket: str
    key: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """One digest. `sha256` is of its inflated bytes; all `previous_*` are null in the first of a chain."""

    bucket: str
    key: str
    start: datetime
    end: datetime
    fingerprint: str
    sha256: str
    previous_bucket: str | None
    previous_key: str | None
    previous_sha256: str | None
    previous_signature: str | None
    logs: tuple[ListedLog, ...]

    @property
    def is_backfill(self) -> bool:
        """Return whether AWS wrote it later, for hours in which digests were not delivered. It is outside of the chain."""
        return self.key.endswith(BACKFILL_SUFFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedDigest:
    """A digest with what the signature check said: null is sound, else why not."""

    digest: Digest
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFinding:
    """What is wrong, and the span that cannot be trusted for it. `key`: of the digest or log file that it is about."""

    problem: str
    key: str
    start: datetime
    end: datetime


def is_digest_key(key: str) -> bool:
    """Return whether an object of this key is a digest."""
    return _DIGEST_KEY.search(key) is not None


def canonical_key(key: str) -> str:
    """Return a key from `AWSLogs/` on: the same file has other folders before it where it is kept and where it came from."""
    return key[max(key.find("AWSLogs/"), 0) :]


def chain_of(digest_key: str) -> str:
    """Return account, region and trail of a digest: those of one chain follow each other."""
    match = _CHAIN.search(digest_key)
    return match[1] if match else digest_key.rpartition("/")[0]


def stream_of(key: str) -> str | None:
    """Return account and region, of a log file or a digest; None when the name does not say."""
    match = _LOG_STREAM.search(key)
    if match is not None:
        return f"{match[1]} {match[2]}"
    match = _CHAIN.search(key)
    return None if match is None else f"{match[1].partition('_')[0]} {match[2]}"


def delivered_at(log_key: str) -> datetime | None:
    """Return the five-minute slot in a log file's name: when it was published, not when its events happened."""
    match = _LOG_TIME.search(log_key)
    if match is None:
        return None
    try:
        return datetime.strptime(match[1], "%Y%m%dT%H%M").replace(tzinfo=UTC)
    except ValueError:
        return None


def read_digest(content: bytes) -> Digest | FileRefusal:
    """Return the digest that inflated `content` holds."""
    try:
        document = json.loads(content)
        return _digest(document, hashlib.sha256(content).hexdigest())
    except (KeyError, TypeError, AttributeError) as error:
        return FileRefusal(
            reason=Reason.MISSING_FIELD, detail=f"the digest lacks {type(error).__name__}: {error}"[:120]
        )
    except (ValueError, RecursionError):
        return FileRefusal(
            reason=Reason.BAD_JSON, detail="not a digest: no JSON, or a field has not the form it must have"
        )


def signed_text(digest: Digest) -> bytes:
    """Return what the signature of a digest is over."""
    end = digest.end.strftime(_TIME)
    previous = "null" if digest.previous_signature is None else digest.previous_signature
    return f"{end}\n{digest.bucket}/{digest.key}\n{digest.sha256}\n{previous}".encode()


def chain_findings(checked: Sequence[CheckedDigest]) -> tuple[ChainFinding, ...]:
    """Return where the chain of digests is not sound: signatures, hashes of the one before, gaps. Backfills stand alone.

    A digest whose `previous` is null begins a chain: where others ended before it, the hours between are a gap.
    """
    found = [
        _finding(one.problem, one.digest.key, one.digest.start, one.digest.end)
        for one in checked
        if one.problem is not None
    ]
    chain = sorted((one.digest for one in checked if not one.digest.is_backfill), key=lambda one: (one.end, one.key))
    backfilled = [(one.digest.start, one.digest.end) for one in checked if one.digest.is_backfill and not one.problem]
    for before, digest in pairwise(chain):
        if digest.previous_key is None:
            if not _covered(before.end, digest.start, backfilled):
                found.append(_finding("no digest covers these hours", digest.key, before.end, digest.start))
        elif digest.previous_key != before.key or digest.previous_bucket != before.bucket:
            if not _covered(before.end, digest.start, backfilled):
                found.append(
                    _finding(
                        f"the digest before it, {digest.previous_key}, is missing", digest.key, before.end, digest.end
                    )
                )
        elif digest.previous_sha256 != before.sha256:
            found.append(
                _finding("its hash is not the one that the next digest names", before.key, before.start, digest.end)
            )
        elif digest.start > before.end:
            found.append(_finding("no digest covers these hours", digest.key, before.end, digest.start))
    return tuple(found)


def log_findings(
    checked: Sequence[CheckedDigest], present: Mapping[str, str], *, start: datetime, end: datetime
) -> tuple[ChainFinding, ...]:
    """Return listed log files that are missing or differ, and present ones that a finished hour does not list, in a window.

    `present`: key -> SHA-256 hex of the inflated bytes, of the log files delivered in `[start, end)`. A file newer than
    the last digest is not listed yet, and nothing is wrong with it.
    """
    listed = {log.key: log for one in checked for log in one.digest.logs}
    found = []
    for key, log in sorted(listed.items()):
        slot = delivered_at(key)
        if slot is None or not start <= slot < end:
            continue
        if key not in present:
            found.append(_finding("a digest lists it, and it was not delivered", key, slot, slot))
        elif present[key] != log.sha256:
            found.append(_finding("it is not the file that the digest lists", key, slot, slot))
    first = min((one.digest.start for one in checked), default=None)
    last = max((one.digest.end for one in checked), default=None)
    for key in sorted(present.keys() - listed.keys()):
        slot = delivered_at(key)
        if slot is not None and first is not None and last is not None and first <= slot and slot + SLOT < last:
            found.append(_finding("no digest lists it", key, slot, slot))
    return tuple(found)


def uncovered(
    checked: Sequence[CheckedDigest], *, start: datetime, end: datetime
) -> tuple[tuple[datetime, datetime], ...]:
    """Return the spans of `[start, end)` that no digest covers."""
    spans, at = [], start
    for digest in sorted((one.digest for one in checked), key=lambda one: one.start):
        if digest.start > at:
            spans.append((at, min(digest.start, end)))
        at = max(at, digest.end)
        if at >= end:
            break
    if at < end:
        spans.append((at, end))
    return tuple(span for span in spans if span[0] < span[1] and span[0] < end)


def _covered(start: datetime, end: datetime, spans: Collection[tuple[datetime, datetime]]) -> bool:
    at = start
    for span_start, span_end in sorted(spans):
        if span_start <= at:
            at = max(at, span_end)
    return at >= end


def _digest(document: Any, sha256: str) -> Digest:
    previous = document["previousDigestHashValue"]
    return Digest(
        bucket=_required(document, "digestS3Bucket"),
        key=_required(document, "digestS3Object"),
        start=_instant(document["digestStartTime"]),
        end=_instant(document["digestEndTime"]),
        fingerprint=_required(document, "digestPublicKeyFingerprint"),
        sha256=sha256,
        previous_bucket=_optional(document, "previousDigestS3Bucket"),
        previous_key=_optional(document, "previousDigestS3Object"),
        previous_sha256=None if previous is None else str(previous).lower(),
        previous_signature=_optional(document, "previousDigestSignature"),
        logs=tuple(
            ListedLog(bucket=_required(log, "s3Bucket"), key=_required(log, "s3Object"), sha256=_hash(log))
            for log in document["logFiles"]
        ),
    )


def _hash(log: Mapping[str, Any]) -> str:
    value = _required(log, "hashValue").lower()
    if log.get("hashAlgorithm") != HASH_ALGORITHM or not _HEX.fullmatch(value):
        raise ValueError("hashValue")
    return value


def _required(document: Mapping[str, Any], name: str) -> str:
    value = document[name]
    if not isinstance(value, str) or not value:
        raise ValueError(name)
    return value


def _optional(document: Mapping[str, Any], name: str) -> str | None:
    return None if document[name] is None else _required(document, name)


def _instant(text: object) -> datetime:
    if not isinstance(text, str):
        raise ValueError("not a time")
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


def _finding(problem: str, key: str, start: datetime, end: datetime) -> ChainFinding:
    return ChainFinding(problem=problem, key=key, start=start, end=end)
