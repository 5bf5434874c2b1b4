"""CloudTrail digests as they were delivered: read, kept, verified with RSA, and what they say of a delivery day.

A signature is in the object's metadata (in a folder: the side file `<digest>.metadata.json`), and again in the digest after it.
Not here: the rules of the chain (billing_pipeline/sources/cloudtrail_digest).
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import psycopg
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from billing_pipeline.checks import Subject, Verdict
from billing_pipeline.errors import BillingError
from billing_pipeline.sources import cloudtrail_digest as rules
from billing_pipeline.sources.cloudtrail_digest import SIGNATURE_ALGORITHM, CheckedDigest, Digest, ListedLog
from billing_pipeline.storage_delivery_checks import digests_verified
from resources.event_files import EventFile
from resources.landing import Landing, LandingFileChangedError
from resources.object_store import Bucket, ObjectNotFoundError, is_s3_url
from resources.storage_config import OBJECT_EVENTS, StorageSource

SIDE_FILE = ".metadata.json"
# A log file published at midnight is listed by the digest of the hour after it.
MARGIN = timedelta(hours=3)


class PublicKeysError(BillingError):
    """The file with CloudTrail's public keys cannot be read."""


class DigestSignatures:
    """Finds the signature that an object's metadata holds."""

    def __init__(self, landing: Landing, landing_url: str) -> None:
        self._landing = landing
        self._bucket = _MetadataBucket(landing_url) if is_s3_url(landing_url) else None

    def of(self, key: str) -> str | None:
        """Return the hex signature of the digest `key`; None where nothing holds it (yet)."""
        metadata = self._side_file(key)
        if metadata is None and self._bucket is not None:
            metadata = self._bucket.metadata(key)
        if metadata is None or metadata.get("signature-algorithm") != SIGNATURE_ALGORITHM:
            return None
        signature = metadata.get("signature")
        return signature if isinstance(signature, str) else None

    def _side_file(self, key: str) -> Mapping[str, object] | None:
        try:
            with self._landing.fetched(key + SIDE_FILE) as path:
                metadata = json.loads(path.read_bytes())
        except (LandingFileChangedError, ValueError, RecursionError):
            return None
        return metadata if isinstance(metadata, dict) else None


class _MetadataBucket(Bucket):
    """A bucket that also tells the user metadata of an object."""

    def metadata(self, key: str) -> Mapping[str, object] | None:
        """Return the user metadata of `key`; None when there is no object."""
        try:
            with self._explained(key):
                return self._s3.head_object(Bucket=self._name, Key=self._prefix + key)["Metadata"]
        except ObjectNotFoundError:
            return None


def public_keys(path: Path | None) -> Mapping[str, RSAPublicKey]:
    """Return fingerprint -> key of a file with the answer of `aws cloudtrail list-public-keys`; none without a file.

    Raises:
        PublicKeysError: the file is missing or is not such an answer.
    """
    if path is None:
        return {}
    try:
        answer = json.loads(path.read_bytes())
        listed = answer.get("publicKeyList") or answer["PublicKeyList"]
        return {entry["Fingerprint"]: _public_key(base64.b64decode(entry["Value"])) for entry in listed}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PublicKeysError(
            f"CloudTrail's public keys cannot be read from {path}: {type(error).__name__}",
            bill="no digest can be verified, so nothing of its delivery day was ingested",
            fix="write the answer of `aws cloudtrail list-public-keys` for the trail's region into this file",
        ) from error


def _public_key(content: bytes) -> RSAPublicKey:
    """Return the RSA key of PKCS #1 DER, as AWS gives it, or of a SubjectPublicKeyInfo."""
    key = load_der_public_key(content)
    if not isinstance(key, RSAPublicKey):
        raise ValueError("not an RSA key")
    return key


def signature_problem(digest: Digest, signature: str | None, keys: Mapping[str, RSAPublicKey]) -> str | None:
    """Return why a digest cannot be trusted by itself; None when its signature holds."""
    key = keys.get(digest.fingerprint)
    if key is None:
        return f"there is no public key with fingerprint {digest.fingerprint[:40]}"
    if signature is None:
        return "its signature was not delivered"
    try:
        key.verify(binascii.unhexlify(signature), rules.signed_text(digest), PKCS1v15(), SHA256())
    except (InvalidSignature, binascii.Error, ValueError):
        return "its signature does not hold"
    return None


def write_digest(
    connection: psycopg.Connection, source: str, file_id: int, digest: Digest, signature: str | None
) -> None:
    """Keep a digest that was read."""
    content = {**asdict(digest), "start": digest.start.isoformat(), "end": digest.end.isoformat()}
    connection.execute(
        """
        insert into core.cloudtrail_digest
            (source, digest_key, file_id, chain, start_at, end_at, content, signature)
        values (%s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (source, digest_key) do update set
            (file_id, chain, start_at, end_at, content, signature) = (
                excluded.file_id, excluded.chain, excluded.start_at, excluded.end_at, excluded.content, excluded.signature
            )
        """,
        [
            source, rules.canonical_key(digest.key), file_id, rules.chain_of(digest.key), digest.start, digest.end,
            json.dumps(content), signature,
        ],
    )  # fmt: skip


def write_logs(connection: psycopg.Connection, files: Sequence[EventFile]) -> None:
    """Keep what digests say of log files that were read, and how many batch deletes they name."""
    connection.execute(
        """
        insert into core.cloudtrail_log (file_id, source, log_key, content_sha256, batch_deletes)
        select * from unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[])
        on conflict (file_id) do update set
            content_sha256 = excluded.content_sha256, batch_deletes = excluded.batch_deletes
        """,
        [
            [one.file.file_id for one in files if one.content_sha256],
            [one.file.source for one in files if one.content_sha256],
            [rules.canonical_key(one.file.key) for one in files if one.content_sha256],
            [one.content_sha256 for one in files if one.content_sha256],
            [one.batch_deletes for one in files if one.content_sha256],
        ],
    )


def batch_deletes(connection: psycopg.Connection, sources: Sequence[str], day: date) -> int:
    """Return how many DeleteObjects the log files of a delivery day name."""
    ((count,),) = connection.execute(
        "select coalesce(sum(batch_deletes), 0)::bigint from core.cloudtrail_log as log join core.source_file as file"
        " using (file_id) where file.source = any(%s) and file.delivery_day = %s and file.status = 'accepted'",
        [list(sources), day],
    ).fetchall()
    return int(count)


def touched_days(digest: Digest) -> frozenset[date]:
    """Return the delivery days of which a digest says something."""
    slots = [slot for log in digest.logs if (slot := rules.delivered_at(log.key)) is not None]
    return frozenset(instant.date() for instant in (digest.start, digest.end - timedelta(seconds=1), *slots))


def verdict(connection: psycopg.Connection, sources: Sequence[StorageSource], day: date) -> Verdict:
    """Return what the digests of these sources say about a delivery day."""
    findings: list[str] = []
    seen: list[str] = []
    for source in sources:
        if source.digests == "ignored":
            continue
        checked = _checked(connection, source, day)
        present = _present(connection, source.name, day)
        seen += [one.digest.sha256 for one in checked]
        findings += _day_findings(source, checked, present, day)
    named = sorted(set(findings))
    inputs = hashlib.sha256(json.dumps([sorted(seen), named]).encode()).hexdigest()
    return digests_verified(
        Subject(asset=OBJECT_EVENTS, partition_key=day.isoformat(), inputs_digest=inputs),
        findings=named,
        digests=len(seen),
        is_required=any(source.digests == "required" for source in sources),
    )


def _day_findings(
    source: StorageSource, checked: Sequence[CheckedDigest], present: Mapping[str, str], day: date
) -> list[str]:
    start = datetime.combine(day, time(), UTC)
    end = start + timedelta(days=1)
    found = []
    for chain in sorted({rules.chain_of(one.digest.key) for one in checked}):
        links = [one for one in checked if rules.chain_of(one.digest.key) == chain]
        found += [one for one in rules.chain_findings(links) if one.start < end and one.end > start]
    streams = {rules.stream_of(one.digest.key) for one in checked}
    for stream in streams:
        own = [one for one in checked if rules.stream_of(one.digest.key) == stream]
        logs = {key: sha256 for key, sha256 in present.items() if rules.stream_of(key) == stream}
        found += rules.log_findings(own, logs, start=start, end=end)
    texts = [f"{one.key}: {one.problem}" for one in found]
    if source.digests == "required":
        texts += [
            f"{source.name} {stream}: no digest covers {gap_start:%H:%M} to {gap_end:%H:%M} (UTC)"
            for stream in sorted(str(name) for name in streams | {rules.stream_of(key) for key in present})
            for gap_start, gap_end in rules.uncovered(
                [one for one in checked if str(rules.stream_of(one.digest.key)) == stream], start=start, end=end
            )
        ]
    return texts


def _checked(connection: psycopg.Connection, source: StorageSource, day: date) -> list[CheckedDigest]:
    """Return the digests around a day with what their signatures say."""
    start = datetime.combine(day, time(), UTC)
    rows = connection.execute(
        "select digest_key, content, signature from core.cloudtrail_digest"
        " where source = %s and end_at > %s and start_at < %s order by end_at, digest_key",
        [source.name, start - MARGIN, start + timedelta(days=1) + MARGIN],
    ).fetchall()
    digests = [(key, _digest(content), signature) for key, content, signature in rows]
    carried = {
        rules.canonical_key(one.previous_key): one.previous_signature for _, one, _ in digests if one.previous_key
    }
    keys = public_keys(source.public_keys) if digests else {}
    return [
        CheckedDigest(digest=digest, problem=signature_problem(digest, signature or carried.get(key), keys))
        for key, digest, signature in digests
    ]


def _digest(content: Mapping[str, object]) -> Digest:
    fields = dict(content)
    logs = fields.pop("logs")
    assert isinstance(logs, list)
    digest = Digest(**{**fields, "logs": tuple(ListedLog(**log) for log in logs)})  # type: ignore[arg-type]
    return replace(
        digest,
        start=datetime.fromisoformat(str(fields["start"])),
        end=datetime.fromisoformat(str(fields["end"])),
        logs=tuple(replace(log, key=rules.canonical_key(log.key)) for log in digest.logs),
    )


def _present(connection: psycopg.Connection, source: str, day: date) -> Mapping[str, str]:
    """Return log key -> SHA-256 of the inflated bytes, of the log files of a delivery day that were read, copies among them."""
    rows = connection.execute(
        """
        select file.key, log.content_sha256
        from core.source_file as file
        join core.source_file as original using (source, content_sha256)
        join core.cloudtrail_log as log on log.file_id = original.file_id
        where file.source = %s and file.delivery_day = %s and file.status in ('accepted', 'duplicate')
            and original.status = 'accepted'
        """,
        [source, day],
    ).fetchall()
    return {rules.canonical_key(key): sha256 for key, sha256 in rows}
