"""CloudTrail records become events by an allow list: what counts, what does not, what has no size. Own samples and real ones."""

import gzip
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.sources.cloudtrail import LogRead, ObjectEvent, read_log, size_of, version_of
from billing_pipeline.sources.storage_profile import StorageProfile, object_id
from billing_pipeline.sources.storage_reasons import FileRefusal
from resources.inflate import inflated, sniff
from tests.storage_files import AS_OF, BUCKET, PERSONAL, log_bytes, parameters, profile, record

VERSIONED = profile(bytes_sold="all_versions")
EVERY_KEY = profile(keys=("(?P<repository>[^/]*).*",))
REAL_AS_OF = datetime(2026, 6, 1, tzinfo=UTC)


def read(*records: object, rules: StorageProfile | None = None, buckets: tuple[str, ...] = ()) -> LogRead:
    """Return what a log file of these records holds."""
    log = read_log(log_bytes(*records), profile=rules or profile(), buckets=buckets, as_of=AS_OF)
    assert isinstance(log, LogRead)
    assert log.read == len(log.events) + len(log.rejections) + log.ignored.total()
    return log


def event(*, rules: StorageProfile | None = None, **changes: Any) -> ObjectEvent:
    """Return the event of one record."""
    ((_, found),) = read(record(**changes), rules=rules).events
    return found


def rejection(**changes: Any) -> tuple[str, str | None]:
    """Return reason and field for which one record is refused."""
    (found,) = read(record(**changes)).rejections
    return found.reason, found.field


def ignored(*, buckets: tuple[str, ...] = (), **changes: Any) -> str:
    """Return why one record is out of scope."""
    (found,) = read(record(**changes), buckets=buckets).ignored
    return str(found)


class TestPut:
    def test_is_projected_onto_the_allow_list(self) -> None:
        assert event(responseElements={"x-amz-version-id": "v1"}) == ObjectEvent(
            event_id="00000000-0000-0000-0000-000000000001",
            shared_event_id=None,
            event_at=datetime(2026, 6, 1, 5, 0, tzinfo=UTC),
            bucket=BUCKET,
            repository="acme/atlas",
            owner="acme",
            object_id=object_id(BUCKET, "acme/atlas/table"),
            event_name="PutObject",
            action="put",
            bytes=100,
            upload_id=None,
            part_number=None,
            version_id="v1",
            original_event_id=None,
        )

    def test_keeps_nothing_personal(self) -> None:
        text = repr(event())
        assert [word for word in (*PERSONAL, "table", "REQUEST") if word in text] == []

    @pytest.mark.parametrize("size", [25701, 25701.0, "25701"])
    def test_takes_the_forms_of_a_size_that_logs_have(self, size: object) -> None:
        found = event(size=size)
        assert (found.action, found.bytes) == ("put", 25701)

    @pytest.mark.parametrize(
        "size", [25701.5, -1, None, True, 2**63, 1e30, float("nan"), float("inf"), "12.0", "", "\uff19", [5], ...]
    )
    def test_of_another_form_is_unsized(self, size: object) -> None:
        found = event(size=size)
        assert (found.action, found.bytes) == ("unsized", None)

    def test_is_exact_beyond_what_a_float_can_hold(self) -> None:
        assert event(size=9_007_199_254_740_993).bytes == 9_007_199_254_740_993

    @pytest.mark.parametrize("extra", [None, "text", {}])
    def test_without_additional_data_is_unsized(self, extra: object) -> None:
        assert event(additionalEventData=extra).action == "unsized"

    def test_of_the_null_version_has_no_version(self) -> None:
        assert event(responseElements={"x-amz-version-id": "null"}).version_id is None

    def test_reads_an_answer_that_is_text(self) -> None:
        assert event(responseElements=json.dumps({"x-amz-version-id": "v9"})).version_id == "v9"
        assert event(responseElements="{broken").version_id is None


class TestOtherChanges:
    @pytest.mark.parametrize("name", ["CopyObject", "CompleteMultipartUpload", "PostObject", "RenameObject"])
    def test_without_a_size_are_held_for_the_next_snapshot(self, name: str) -> None:
        found = event(eventName=name, size=224)
        assert (found.action, found.bytes, found.event_name) == ("unsized", None, name)

    def test_of_parts_know_upload_and_number(self) -> None:
        found = event(eventName="UploadPart", requestParameters=parameters(uploadId="u-1", partNumber="7"))
        assert (found.action, found.upload_id, found.part_number, found.bytes) == ("part", "u-1", 7, 100)
        found = event(eventName="UploadPartCopy", requestParameters=parameters(uploadId="u-1", partNumber=2))
        assert (found.action, found.part_number, found.bytes) == ("part", 2, None)
        assert (
            event(eventName="CompleteMultipartUpload", requestParameters=parameters(uploadId="u-1")).upload_id == "u-1"
        )

    def test_that_delete_tell_markers_from_versions(self) -> None:
        def deletion(marker: str | None, version: str | None, rules: StorageProfile) -> tuple[str, str | None]:
            found = event(
                rules=rules,
                eventName="DeleteObject",
                requestParameters=parameters(**({} if version is None else {"versionId": version})),
                responseElements=None if marker is None else {"x-amz-delete-marker": marker},
            )
            assert found.bytes is None
            return found.action, found.version_id

        current = profile()
        assert deletion(None, None, current) == ("delete", None)
        assert deletion("true", None, current) == ("delete", None)
        assert deletion(None, "v1", current) == ("delete_version", "v1")
        assert deletion(None, "null", current) == ("delete_version", None)
        assert deletion("true", "m1", current) == ("unsized", "m1")
        assert deletion("true", "m1", VERSIONED) == ("delete_marker", "m1")
        assert deletion("true", None, VERSIONED) == ("delete_marker", None)
        assert deletion(None, None, VERSIONED) == ("delete", None)
        assert deletion(None, "v1", VERSIONED) == ("delete", "v1")

    def test_that_delete_in_a_batch_name_no_key(self) -> None:
        assert ignored(eventName="DeleteObjects", key=...) == "batch_delete"

    def test_of_an_addendum_correct_their_original(self) -> None:
        addendum = {"reason": "UPDATED_DATA", "updatedFields": "additionalEventData", "originalEventID": "e-1"}
        assert event(addendum=addendum).original_event_id == "e-1"
        assert event(addendum={"reason": "DELIVERY_DELAY"}).original_event_id is None
        assert rejection(addendum={"reason": "UPDATED_DATA"}) == ("missing_field", "addendum.originalEventID")

    def test_that_are_shared_know_it(self) -> None:
        assert event(sharedEventID="s-1").shared_event_id == "s-1"

    def test_44_days_late_are_taken(self) -> None:
        assert event(eventTime="2026-04-18T05:00:00Z").event_at == datetime(2026, 4, 18, 5, 0, tzinfo=UTC)


class TestOutOfScope:
    @pytest.mark.parametrize(
        ("why", "changes"),
        [
            ("no_change", {"eventName": "GetObject"}),
            ("no_change", {"eventName": "PreflightRequest", "readOnly": True}),
            ("no_change", {"eventName": "PutObjectAcl"}),
            ("no_change", {"eventName": "CreateMultipartUpload"}),
            ("no_change", {"eventName": None}),
            ("other_service", {"eventSource": "s3-outposts.amazonaws.com"}),
            ("other_service", {"eventSource": None}),
            ("failed", {"errorCode": "AccessDenied"}),
            ("log_delivery", {"key": "AWSLogs/1/CloudTrail/x.json.gz"}),
            ("log_delivery", {"userIdentity": {"type": "AWSService", "invokedBy": "cloudtrail.amazonaws.com"}}),
            ("other_key", {"key": "no-folder"}),
            ("other_bucket", {"buckets": ("another",)}),
        ],
    )
    def test_is_counted_and_not_kept(self, why: str, changes: dict[str, Any]) -> None:
        assert ignored(**changes) == why

    @pytest.mark.parametrize("read_only", [True, False, "true", "false", None, ...])
    def test_is_not_decided_by_read_only(self, read_only: object) -> None:
        assert event(readOnly=read_only).action == "put"


class TestRejections:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"key": ""}, ("bad_key", "requestParameters.key")),
            ({"key": "k\0"}, ("bad_key", "requestParameters.key")),
            ({"key": "k" * 1025}, ("bad_key", "requestParameters.key")),
            ({"key": "\ud83d"}, ("bad_key", "requestParameters.key")),
            ({"key": 5}, ("bad_key", "requestParameters.key")),
            ({"key": ...}, ("missing_field", "requestParameters.key")),
            ({"requestParameters": None}, ("missing_field", "requestParameters")),
            ({"requestParameters": {"key": "a/b/c"}}, ("missing_field", "requestParameters.bucketName")),
            ({"eventTime": "2026-06-01T05:00:00"}, ("no_timezone", "eventTime")),
            ({"eventTime": "1624996471"}, ("ambiguous_unit", "eventTime")),
            ({"eventTime": "2031-01-01T00:00:00Z"}, ("future", "eventTime")),
            ({"eventTime": ...}, ("wrong_type", "eventTime")),
            ({"eventID": ...}, ("missing_field", "eventID")),
            ({"eventID": "a b\n"}, ("bad_value", "eventID")),
            ({"eventVersion": "2.0"}, ("event_version", "eventVersion")),
            ({"eventVersion": 1.08}, ("event_version", "eventVersion")),
            ({"eventVersion": ...}, ("missing_field", "eventVersion")),
            ({"eventCategory": "Management"}, ("not_a_data_event", "eventCategory")),
            ({"eventCategory": ...}, ("missing_field", "eventCategory")),
            ({"managementEvent": True}, ("not_a_data_event", "managementEvent")),
        ],
    )
    def test_name_reason_and_field(self, changes: dict[str, Any], expected: tuple[str, str]) -> None:
        assert rejection(**changes) == expected

    def test_of_what_is_no_object_keep_their_position(self) -> None:
        log = read(record(1), "text", record(2))
        assert [(one.position, one.reason) for one in log.rejections] == [(2, "not_an_object")]
        assert [position for position, _ in log.events] == [1, 3]

    def test_take_a_leap_second_that_was_announced(self) -> None:
        assert event(eventTime="2016-12-31T23:59:60Z").event_at == datetime(2017, 1, 1, tzinfo=UTC)

    @pytest.mark.parametrize("version", ["1.0", "1.05", "1.06"])
    def test_spare_a_record_older_than_categories(self, version: str) -> None:
        assert event(eventVersion=version, eventCategory=..., managementEvent=...).action == "put"


class TestKeys:
    @pytest.mark.parametrize(
        "name", ["a b+c.txt", "a%20b%2Bc.txt", "café/日本.txt", "cafe\u0301", "../x", "/lead", "a//b", "🚗"]
    )
    def test_are_taken_as_they_are(self, name: str) -> None:
        key = f"acme/atlas/{name}"
        assert event(key=key).object_id == object_id(BUCKET, key)

    def test_that_differ_in_their_bytes_are_different_objects(self) -> None:
        names = ["é", "e\u0301", "a+b", "a b", "a%20b", "A", "a"]
        assert len({event(key=f"acme/atlas/{name}").object_id for name in names}) == len(names)


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b'{"foo": 1}', "wrapper"),
            (b'{"Records": null}', "wrapper"),
            (b'{"Records": {"0": {}}}', "wrapper"),
            (b"[]", "wrapper"),
            (b'{"Records": []}\n{"Records": []}', "wrapper"),
            (b'{"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "s3": {}}]}', "wrapper"),
            (b'{"Records": [{"messageId": "1", "body": "{}", "eventSource": "aws:sqs"}]}', "wrapper"),
            (b'{"digestS3Object": "x", "logFiles": []}', "digest_as_log"),
            (b'{"Records": [', "bad_json"),
            (b"", "bad_json"),
            (b'{"Records": ["\xff"]}', "encoding"),
            (b"[" * 100_000, "too_deep"),
            (b'{"Records": [' + b"9" * 5_000 + b"]}", "bad_json"),
        ],
    )
    def test_of_another_shape_are_refused_whole(self, content: bytes, reason: str) -> None:
        refusal = read_log(content, profile=profile(), buckets=(), as_of=AS_OF)
        assert isinstance(refusal, FileRefusal)
        assert refusal.reason == reason

    def test_without_records_hold_nothing(self) -> None:
        assert read().read == 0

    def test_may_begin_with_a_byte_order_mark(self) -> None:
        log = read_log(b"\xef\xbb\xbf" + log_bytes(record()), profile=profile(), buckets=(), as_of=AS_OF)
        assert isinstance(log, LogRead)
        assert len(log.events) == 1


class TestVersions:
    def test_are_compared_as_numbers(self) -> None:
        versions = [version_of(text) for text in ("1.2", "1.08", "1.9", "1.10", "1.11", "2.0")]
        assert versions == sorted(versions, key=lambda one: one or (0, 0))

    @pytest.mark.parametrize("text", ["1", "1.", ".1", "1.x", "1.²", "-1.0", "", 1.08, None])
    def test_are_refused_in_other_forms(self, text: object) -> None:
        assert version_of(text) is None


class TestSizes:
    @given(st.integers(0, 2**63 - 1))
    def test_are_the_same_in_every_form(self, size: int) -> None:
        assert size_of(size) == size_of(str(size)) == size_of(Decimal(f"{size}.0")) == size

    @given(
        st.one_of(st.integers(max_value=-1), st.integers(2**63), st.booleans(), st.none(), st.text(alphabet="0.e-x"))
    )
    def test_are_never_guessed(self, value: object) -> None:
        if not (isinstance(value, str) and value.isdigit()):
            assert size_of(value) is None


NASTY = {
    "222222222222_CloudTrail_us-west-2_20210629T1955Z_AAAAAAAAAAAAAAAA.json.gz": {"put": 1},
    "222222222222_CloudTrail_us-west-2_20210629T2000Z_BBBBBBBBBBBBBBBB.json.gz": {"put": 1},
    "records_null.json.gz": "wrapper",
    "no_records_key.json.gz": "wrapper",
    "records_is_object.json.gz": "wrapper",
    "not_gz_but_named.json.gz": {"put": 1},
    "error_access_denied_put.json.gz": {"failed": 2},
    "byte_types.json.gz": {"put": 4, "unsized": 8},
    "delete_objects_batch.json.gz": {"batch_delete": 1},
    "delete_object_variants.json.gz": {"delete": 2, "delete_version": 1, "unsized": 1},
    "cross_account_pair.json.gz": {"put": 2},
    "management_named_like_data.json.gz": {"not_a_data_event": 1},
    "service_noise.json.gz": {"log_delivery": 1},
    "readonly_types.json.gz": {"put": 4},
    "keys.json.gz": {"put": 9, "bad_key": 2, "other_key": 2},
    "times.json.gz": {"put": 3, "no_timezone": 1, "ambiguous_unit": 1, "future": 1},
    "digest_given_as_log.json.gz": "digest_as_log",
}
REAL = {
    "aws_docs_s3_examples.json.gz": {"no_change": 3, "other_service": 1},
    "cloudgrep_putobject_1_07.json.gz": {"log_delivery": 1},
    "elastic_putobject_odd.json.gz": {"not_a_data_event": 1},
    "otrf_honeybucket_2020_2022_reshaped.json.gz": {"no_change": 297, "missing_field": 4},
    "otrf_s3_exfil_2020_logstash_original.jsonl.gz": "wrapper",
    "otrf_s3_exfil_2020_real.json.gz": {"no_change": 9},
    "umccr_examples_s3_only_docderived.json.gz": {"no_change": 3, "put": 1, "unsized": 2},
    "digest/elastic_real_digest_2020.json.gz": "digest_as_log",
}


def outcome(path: Path) -> str | dict[str, int]:
    """Return actions, reasons and what was ignored, counted; or why the file is refused."""
    content = b"".join(inflated(path, sniff(path).compression))
    log = read_log(content, profile=EVERY_KEY, buckets=(), as_of=REAL_AS_OF)
    if isinstance(log, FileRefusal):
        return log.reason
    counts: Counter[str] = Counter(str(event.action) for _, event in log.events)
    counts.update(str(one.reason) for one in log.rejections)
    counts.update({str(why): count for why, count in log.ignored.items()})
    assert counts.total() == log.read
    return dict(counts)


class TestRealRecords:
    @pytest.mark.parametrize("name", NASTY)
    def test_of_the_edge_cases_have_their_verdict(self, real_data: Path, name: str) -> None:
        assert outcome(real_data / "data/nasty/cloudtrail" / name) == NASTY[name]

    def test_every_edge_case_has_a_verdict(self, real_data: Path) -> None:
        assert {path.name for path in (real_data / "data/nasty/cloudtrail").iterdir()} == set(NASTY)

    @pytest.mark.parametrize("name", REAL)
    def test_of_other_people_are_understood(self, real_data: Path, name: str) -> None:
        assert outcome(real_data / "data/cloudtrail" / name) == REAL[name]

    def test_of_every_event_version_are_understood(self, real_data: Path) -> None:
        found: Counter[str] = Counter()
        for path in sorted((real_data / "data/cloudtrail/by_event_version").glob("*.json.gz")):
            counts = outcome(path)
            assert isinstance(counts, dict)
            found.update(counts)
        assert found == {"other_service": 15, "no_change": 3, "put": 1, "unsized": 2}

    def test_of_management_events_are_out_of_scope(self, real_data: Path) -> None:
        found: Counter[str] = Counter()
        for path in sorted((real_data / "data/cloudtrail_mgmt").rglob("*.json.gz")):
            counts = outcome(path)
            assert isinstance(counts, dict)
            found.update(counts)
        assert found.total() == 2_900
        assert set(found) <= {"other_service", "no_change"}

    def test_of_rule_tests_are_understood(self, real_data: Path) -> None:
        path = real_data / "data/cloudtrail/panther_rule_tests_s3_data.json.gz"
        counts = outcome(path)
        assert isinstance(counts, dict)
        assert sum(counts.values()) == 23
        assert set(counts) == {"missing_field", "no_change"}

    def test_are_never_later_than_their_delivery(self, real_data: Path) -> None:
        path = real_data / "data/cloudtrail/by_event_version/1_11.json.gz"
        before = datetime(2024, 6, 1, tzinfo=UTC) - timedelta(days=1)
        log = read_log(gzip.decompress(path.read_bytes()), profile=EVERY_KEY, buckets=(), as_of=before)
        assert isinstance(log, LogRead)
        assert [one.reason for one in log.rejections] == ["future"]
