"""The chain of digests: what is signed, what follows what, what is listed. awscli's own validator is the oracle."""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from awscli.customizations.cloudtrail.validation import (
    DigestError,
    DigestProvider,
    DigestTraverser,
    Sha256RSADigestValidator,
    normalize_date,
    parse_date,
)
from botocore.exceptions import ClientError

from billing_pipeline.sources.cloudtrail_digest import (
    CheckedDigest,
    Digest,
    chain_findings,
    chain_of,
    delivered_at,
    is_digest_key,
    log_findings,
    read_digest,
    stream_of,
    uncovered,
)
from billing_pipeline.sources.storage_reasons import FileRefusal
from resources.cloudtrail_digests import PublicKeysError, public_keys, signature_problem
from resources.database import Database
from resources.storage_config import OBJECT_EVENTS, Kind
from tests import storage_files
from tests.storage_files import (
    ACCOUNT,
    REGION,
    TRAIL,
    DigestChain,
    StorageDeliveries,
    log_bytes,
    log_key,
    profile,
    record,
    source,
)

START = datetime(2026, 6, 1, 4, 0, tzinfo=UTC)
BUCKET = "trail-bucket"
CHAIN = "s3/billing-trail/AWSLogs/218007301253"


def hours(count: int = 4) -> DigestChain:
    """Return a chain of digests, the second of which lists a log."""
    chain = DigestChain()
    for number in range(1, count + 1):
        logs = {log_key(slot="0505"): log_bytes(record())} if number == 2 else {}
        chain.add(START + timedelta(hours=number), logs)
    return chain


def digests(chain: DigestChain) -> list[Digest]:
    """Return the digests of a chain, read."""
    found = [read_digest(content) for _, content, _ in chain.made]
    assert all(isinstance(one, Digest) for one in found)
    return [one for one in found if isinstance(one, Digest)]


def sound(found: list[Digest]) -> list[CheckedDigest]:
    return [CheckedDigest(digest=one, problem=None) for one in found]


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_bytes(storage_files.public_keys())
    return path


class TestSignature:
    def test_holds_as_awscli_says(self, keys_file: Path) -> None:
        keys = public_keys(keys_file)
        value = json.loads(keys_file.read_bytes())["publicKeyList"][0]["Value"]
        for key, content, signature in hours().made:
            digest = read_digest(content)
            assert isinstance(digest, Digest)
            assert signature_problem(digest, signature, keys) is None
            Sha256RSADigestValidator().validate(
                BUCKET, key, value, {**json.loads(content), "_signature": signature}, content
            )

    @pytest.mark.parametrize(
        "tamper",
        [
            lambda content, signature: (content.replace(b'"logFiles": []', b'"logFiles":  []'), signature),
            lambda content, signature: (content.replace(b"08:00:00Z", b"08:00:01Z"), signature),
            lambda content, signature: (content.replace(b"trail-bucket", b"other-bucket"), signature),
            lambda content, signature: (content, "00" + signature[2:]),
            lambda content, signature: (content, signature[:-2]),
            lambda content, signature: (content, ""),
        ],
    )
    def test_does_not_hold_of_a_tampered_digest_as_awscli_says(
        self, keys_file: Path, tamper: Callable[[bytes, str], tuple[bytes, str]]
    ) -> None:
        key, content, signature = hours().made[3]
        content, signature = tamper(content, signature)
        digest = read_digest(content)
        assert isinstance(digest, Digest)
        assert signature_problem(digest, signature, public_keys(keys_file)) == "its signature does not hold"
        value = json.loads(keys_file.read_bytes())["publicKeyList"][0]["Value"]
        with pytest.raises(DigestError):
            Sha256RSADigestValidator().validate(
                BUCKET, key, value, {**json.loads(content), "_signature": signature}, content
            )

    def test_needs_a_key_and_a_signature(self, keys_file: Path) -> None:
        digest = digests(hours())[0]
        assert "no public key" in str(signature_problem(digest, "00", {}))
        assert "not delivered" in str(signature_problem(digest, None, public_keys(keys_file)))
        assert "does not hold" in str(signature_problem(digest, "no hex", public_keys(keys_file)))

    @pytest.mark.parametrize("content", [b"", b"{}", b'{"publicKeyList": [{"Fingerprint": "f", "Value": "AAAA"}]}'])
    def test_needs_keys_that_can_be_read(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "keys.json"
        path.write_bytes(content)
        with pytest.raises(PublicKeysError, match="list-public-keys"):
            public_keys(path)
        with pytest.raises(PublicKeysError):
            public_keys(tmp_path / "none.json")


class TestChain:
    def test_that_is_whole_has_no_finding(self) -> None:
        assert chain_findings(sound(digests(hours()))) == ()
        assert chain_findings(list(reversed(sound(digests(hours()))))) == ()

    def test_names_a_digest_that_is_missing(self) -> None:
        first, _, third, fourth = sound(digests(hours()))
        (finding,) = chain_findings([first, third, fourth])
        assert "is missing" in finding.problem
        assert (finding.start, finding.end) == (first.digest.end, third.digest.end)

    def test_names_a_digest_that_is_not_the_one_before(self) -> None:
        first, second, *_ = digests(hours())
        (finding,) = chain_findings(sound([replace(first, sha256="0" * 64), second]))
        assert "hash is not the one" in finding.problem

    def test_names_hours_without_digests(self) -> None:
        first, second, third, _ = digests(hours())
        (finding,) = chain_findings(sound([first, replace(third, previous_key=None)]))
        assert (finding.start, finding.end) == (first.end, third.start)
        late = replace(second, start=second.start + timedelta(minutes=10))
        assert len(chain_findings(sound([first, late]))) == 1

    def test_may_begin_anew_without_a_gap(self) -> None:
        first, second, *_ = digests(hours())
        assert chain_findings(sound([first, replace(second, previous_key=None)])) == ()

    def test_is_mended_by_a_backfill(self) -> None:
        first, second, third, fourth = digests(hours())
        backfill = replace(second, key=second.key.replace(".json.gz", "_backfill.json.gz"))
        assert backfill.is_backfill
        assert chain_findings(sound([first, backfill, third, fourth])) == ()

    def test_repeats_what_a_signature_says(self) -> None:
        first, *_ = digests(hours())
        (finding,) = chain_findings([CheckedDigest(digest=first, problem="its signature does not hold")])
        assert (finding.problem, finding.start) == ("its signature does not hold", first.start)


class TestLogs:
    START = datetime(2026, 6, 1, tzinfo=UTC)

    def findings(self, present: dict[str, str]) -> list[str]:
        found = log_findings(sound(digests(hours())), present, start=self.START, end=self.START + timedelta(days=1))
        return [one.problem for one in found]

    def listed(self) -> dict[str, str]:
        return {log.key: log.sha256 for one in digests(hours()) for log in one.logs}

    def test_that_are_listed_and_there_have_no_finding(self) -> None:
        assert self.findings(self.listed()) == []

    def test_that_are_missing_differ_or_are_not_listed_are_named(self) -> None:
        assert self.findings({}) == ["a digest lists it, and it was not delivered"]
        assert self.findings(dict.fromkeys(self.listed(), "0" * 64)) == ["it is not the file that the digest lists"]
        assert self.findings({**self.listed(), log_key(slot="0600", name="X" * 16): "0"}) == ["no digest lists it"]

    @pytest.mark.parametrize("slot", ["0355", "0755", "0800", "2300"])
    def test_outside_of_what_the_digests_cover_are_not_expected_in_them(self, slot: str) -> None:
        assert self.findings({**self.listed(), log_key(slot=slot, name="X" * 16): "0"}) == []

    def test_of_other_days_are_not_looked_for(self) -> None:
        start = self.START + timedelta(days=1)
        assert log_findings(sound(digests(hours())), {}, start=start, end=start + timedelta(days=1)) == ()

    def test_hours_without_a_digest_are_known(self) -> None:
        spans = uncovered(sound(digests(hours())), start=self.START, end=self.START + timedelta(days=1))
        assert [(start.hour, end.hour) for start, end in spans] == [(0, 4), (8, 0)]
        assert uncovered([], start=self.START, end=START) == ((self.START, START),)


class TestNames:
    def test_say_what_a_file_is(self) -> None:
        digest_key = hours().made[0][0]
        assert is_digest_key(digest_key)
        assert not is_digest_key(log_key())
        assert stream_of(digest_key) == stream_of(log_key()) == f"{ACCOUNT} {REGION}"
        assert chain_of(digest_key) == f"{ACCOUNT}_CloudTrail-Digest_{REGION}_{TRAIL}_{REGION}"
        assert delivered_at(log_key(slot="0505")) == datetime(2026, 6, 1, 5, 5, tzinfo=UTC)

    @pytest.mark.parametrize("key", ["x.json.gz", "1_CloudTrail_us-east-1_20261301T9999Z_x.json.gz", ""])
    def test_may_say_nothing(self, key: str) -> None:
        assert delivered_at(key) is None

    @pytest.mark.parametrize(
        "changes",
        [
            {"digestEndTime": "soon"},
            {"digestEndTime": 5},
            {"digestS3Object": None},
            {"logFiles": None},
            {"logFiles": [{"s3Bucket": "b", "s3Object": "o", "hashValue": "xyz", "hashAlgorithm": "SHA-256"}]},
            {"logFiles": [{"s3Bucket": "b", "s3Object": "o", "hashValue": "0" * 64, "hashAlgorithm": "MD5"}]},
            {"previousDigestSignature": 5},
        ],
    )
    def test_of_a_broken_digest_do_not_help_it(self, changes: dict[str, Any]) -> None:
        content = json.dumps({**json.loads(hours().made[0][1]), **changes}).encode()
        assert isinstance(read_digest(content), FileRefusal)
        assert isinstance(read_digest(b"[" * 99_999), FileRefusal)
        assert isinstance(read_digest(b"[]"), FileRefusal)


class FolderClient:
    """As much of an S3 client as awscli's provider asks for, over a folder with metadata beside each object."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get_client(self, bucket: str) -> "FolderClient":
        assert bucket
        return self

    def get_paginator(self, name: str) -> "FolderClient":
        assert name == "list_objects"
        return self

    def paginate(self, **_: object) -> "FolderClient":
        return self

    def search(self, _: str) -> Iterator[str]:
        keys = (path.relative_to(self._root).as_posix() for path in self._root.rglob("*.json.gz"))
        return iter(sorted(key for key in keys if "Digest" in key))

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        path = self._root / Key
        if not path.is_file():
            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        metadata = json.loads(Path(f"{path}.metadata.json").read_bytes())
        return {"Body": io.BytesIO(path.read_bytes()), "Metadata": metadata, "Bucket": Bucket}


class Keys:
    """awscli's provider of public keys over a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get_public_keys(self, *_: object) -> dict[str, Any]:
        return {entry["Fingerprint"]: entry for entry in json.loads(self._path.read_bytes())["publicKeyList"]}


def awscli_complaints(root: Path, keys: Path) -> list[str]:
    """Return what awscli's validator has to say against the digests below a folder."""
    found: list[str] = []

    def note(**facts: Any) -> None:
        found.append(str(facts.get("message") or "gap"))

    traverser = DigestTraverser(
        digest_provider=DigestProvider(FolderClient(root), "218007301253", "billing", "us-east-1"),
        starting_bucket="billing-trail",
        starting_prefix="",
        public_key_provider=Keys(keys),
        on_invalid=note,
        on_gap=note,
        on_missing=note,
    )
    start, end = (normalize_date(parse_date(text)) for text in ("2023-07-10T00:00:00Z", "2023-07-11T00:00:00Z"))
    list(traverser.traverse_digests(start, end))
    return found


class TestRealChain:
    """55 real log files below digests that awscli accepts, and tampered copies of them."""

    @pytest.fixture
    def delivered(self, real_data: Path, database: Database, tmp_path: Path) -> StorageDeliveries:
        folder = real_data / "data/cloudtrail/digest_chain"
        trail = source(
            Kind.CLOUDTRAIL,
            public_keys=folder / "public_keys.json",
            profile=profile(keys=("(?P<repository>[^/]+)/.+",)),
        )
        deliveries = StorageDeliveries(database, tmp_path, [trail])
        for path in sorted((folder / "s3/billing-trail").rglob("*")):
            if path.is_file():
                key = path.relative_to(folder / "s3/billing-trail").as_posix()
                deliveries.deliver(f"storage/cloudtrail/{key}", path.read_bytes())
        return deliveries

    def judge(self, deliveries: StorageDeliveries) -> tuple[str, str]:
        """Ingest, and return status and message of the guard."""
        deliveries.ingest()
        ((status, message),) = deliveries.rows(
            "select status, message from guards.verdict where asset = %s and guard = 'digests_verified'", OBJECT_EVENTS
        )
        return status, message

    def root(self, deliveries: StorageDeliveries) -> Path:
        return deliveries.landing_dir / "storage/cloudtrail"

    def digest_paths(self, deliveries: StorageDeliveries) -> list[Path]:
        return sorted(self.root(deliveries).rglob("*CloudTrail-Digest_*.json.gz"))

    def test_is_accepted_by_both(self, delivered: StorageDeliveries, real_data: Path) -> None:
        keys = real_data / "data/cloudtrail/digest_chain/public_keys.json"
        assert awscli_complaints(self.root(delivered), keys) == []
        status, message = self.judge(delivered)
        assert (status, "every chain and signature holds" in message) == ("passed", True)
        counts = delivered.rows("select count(*), sum(lines_read), sum(accepted_rows) from core.source_file")
        assert counts == [(59, 2_900, 0)]

    @pytest.mark.parametrize("number", range(4))
    def test_with_a_tampered_digest_is_refused_by_both(
        self, delivered: StorageDeliveries, real_data: Path, number: int
    ) -> None:
        path = self.digest_paths(delivered)[number]
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(content.replace(b'"awsAccountId"', b'"AwsAccountId"')))
        assert awscli_complaints(self.root(delivered), real_data / "data/cloudtrail/digest_chain/public_keys.json")
        assert self.judge(delivered)[0] == "held"

    def test_without_a_digest_is_refused_by_both(self, delivered: StorageDeliveries, real_data: Path) -> None:
        self.digest_paths(delivered)[1].unlink()
        assert awscli_complaints(self.root(delivered), real_data / "data/cloudtrail/digest_chain/public_keys.json")
        status, message = self.judge(delivered)
        assert (status, "is missing" in message) == ("held", True)

    def test_without_a_log_file_holds_its_day(self, delivered: StorageDeliveries) -> None:
        logs = [path for path in self.root(delivered).rglob("*.json.gz") if "Digest" not in path.name]
        assert len(logs) == 55
        logs[17].unlink()
        status, message = self.judge(delivered)
        assert (status, logs[17].name in message) == ("held", True)

    def test_with_another_log_file_holds_its_day(self, delivered: StorageDeliveries) -> None:
        logs = sorted(path for path in self.root(delivered).rglob("*.json.gz") if "Digest" not in path.name)
        extra = logs[20].with_name(logs[20].name[:-20] + "AAAAAAAAAAAA.json.gz")
        extra.write_bytes(gzip.compress(b'{"Records": []}'))
        status, message = self.judge(delivered)
        assert (status, "no digest lists it" in message) == ("held", True)

    def test_of_another_account_is_read(self, real_data: Path) -> None:
        path = real_data / "data/cloudtrail/digest/elastic_real_digest_2020.json.gz"
        digest = read_digest(gzip.decompress(path.read_bytes()))
        assert isinstance(digest, Digest)
        assert len(digest.logs) == 3
