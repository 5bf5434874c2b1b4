"""The demo's trail: names of CloudTrail's log files, and its hourly digests, signed and chained.

The private key is made from a sentence, so that the digests are the same bytes every time: it proves nothing to anybody, and
its public half lies in catalog/cloudtrail_keys.json for the demo alone. Not here: what happened (demo_storage), the check of
digests (cloudtrail_digests).
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPrivateNumbers,
    RSAPublicNumbers,
    rsa_crt_dmp1,
    rsa_crt_dmq1,
    rsa_crt_iqmp,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from resources.demo_files import gzipped

ACCOUNT, REGION, TRAIL = "111122223333", "eu-central-1", "demo"
LOG_BUCKET = "demo-trail"

_EXPONENT = 65_537
# How far the next prime is from the number that the sentence gives.
_TO_PRIME = {"p": 338, "q": 400}
_HEX_OF_FINGERPRINT = 32


def log_key(published_at: datetime) -> str:
    """Return the key of the log file that is published in the slot of `published_at`."""
    folder = f"AWSLogs/{ACCOUNT}/CloudTrail/{REGION}/{published_at:%Y/%m/%d}"
    unique = hashlib.sha256(published_at.isoformat().encode()).hexdigest()[:16]
    return f"{folder}/{ACCOUNT}_CloudTrail_{REGION}_{published_at:%Y%m%dT%H%M}Z_{unique}.json.gz"


@dataclass(frozen=True, slots=True)
class _Made:
    key: str
    content: bytes
    signature: str


class DigestChain:
    """Makes hourly digests that name each other."""

    def __init__(self) -> None:
        self._last: _Made | None = None

    def add(self, end: datetime, logs: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return the files of the digest of the hour before `end`, which lists `logs` (key -> inflated content)."""
        last = self._last
        folder = f"AWSLogs/{ACCOUNT}/CloudTrail-Digest/{REGION}/{end:%Y/%m/%d}"
        key = f"{folder}/{ACCOUNT}_CloudTrail-Digest_{REGION}_{TRAIL}_{REGION}_{end:%Y%m%dT%H%M%S}Z.json.gz"
        document = {
            "awsAccountId": ACCOUNT,
            "digestStartTime": _instant(end - timedelta(hours=1)),
            "digestEndTime": _instant(end),
            "digestS3Bucket": LOG_BUCKET,
            "digestS3Object": key,
            "digestPublicKeyFingerprint": _fingerprint(),
            "digestSignatureAlgorithm": "SHA256withRSA",
            "newestEventTime": None,
            "oldestEventTime": None,
            "previousDigestS3Bucket": LOG_BUCKET if last else None,
            "previousDigestS3Object": last.key if last else None,
            "previousDigestHashValue": _sha256(last.content) if last else None,
            "previousDigestHashAlgorithm": "SHA-256" if last else None,
            "previousDigestSignature": last.signature if last else None,
            "logFiles": [
                {"s3Bucket": LOG_BUCKET, "s3Object": log, "hashValue": _sha256(content), "hashAlgorithm": "SHA-256"}
                for log, content in logs.items()
            ],
        }
        content = json.dumps(document).encode()
        lines = [_instant(end), f"{LOG_BUCKET}/{key}", _sha256(content), last.signature if last else "null"]
        signature = _private_key().sign("\n".join(lines).encode(), PKCS1v15(), SHA256()).hex()
        self._last = _Made(key, content, signature)
        metadata = {"signature": signature, "signature-algorithm": "SHA256withRSA"}
        return {key: gzipped([content]), f"{key}.metadata.json": json.dumps(metadata).encode()}


def public_keys() -> bytes:
    """Return the content of catalog/cloudtrail_keys.json, the answer of `aws cloudtrail list-public-keys`."""
    entry = {"Fingerprint": _fingerprint(), "Value": base64.b64encode(_public_der()).decode()}
    return json.dumps({"PublicKeyList": [entry]}, indent=2).encode() + b"\n"


@cache
def _private_key() -> RSAPrivateKey:
    p, q = (_prime(name) for name in ("p", "q"))
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    return RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=rsa_crt_dmp1(d, p),
        dmq1=rsa_crt_dmq1(d, q),
        iqmp=rsa_crt_iqmp(p, q),
        public_numbers=RSAPublicNumbers(e=_EXPONENT, n=p * q),
    ).private_key()


def _prime(name: str) -> int:
    digits = hashlib.shake_256(f"demo trail {name}".encode()).digest(128)
    return (int.from_bytes(digits) | 1 | 3 << 1022) + _TO_PRIME[name]


@cache
def _public_der() -> bytes:
    return _private_key().public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)


def _fingerprint() -> str:
    return _sha256(_public_der())[:_HEX_OF_FINGERPRINT]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _instant(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
