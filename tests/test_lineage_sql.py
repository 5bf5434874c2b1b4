"""The SQL that leads from usage down to delivered rows, against a few lines of Python over random rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources import duck
from resources.duck_tables import bind_rows
from tests.traffic_chain import LAKE_SCHEMA
from tests.usage_days import Request, write_lake_file

MIDNIGHT = datetime.fromisoformat("2026-03-01T00:00:00")
MICROSECOND, MINUTE = timedelta(microseconds=1), timedelta(minutes=1)
FAST = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with duck.connect(tmp_path_factory.mktemp("scratch")) as connection:
        yield connection


# A row of usage, and records that are it or miss it by one of its dimensions.
START, END = (datetime.fromisoformat(f"2026-03-01T{hour}:00:00+00:00") for hour in ("10", "11"))
RECORDS = st.builds(
    Request,
    event_id=st.sampled_from(["a", "b", "c"]),
    source=st.sampled_from(["api", "auth"]),
    event_at=st.sampled_from([START, START, START - MICROSECOND, END - MICROSECOND, END]),
    client_id=st.sampled_from(["us", "us", "us", "them"]),
    method=st.sampled_from(["GET", "GET", "GET", "POST"]),
    endpoint=st.sampled_from(["/a", "/a", "/a", "/b"]),
    status_code=st.sampled_from([200, 204, 204, 500]),
    is_simulated=st.sampled_from([False, False, False, True]),
    file_id=st.integers(1, 3),
    line_number=st.integers(1, 12),
)


class TestRecordsOfAUsageRow:
    @pytest.mark.sql_reference("usage_row_records")
    @settings(FAST, max_examples=100)
    @given(
        records=st.lists(RECORDS, min_size=1, max_size=10, unique_by=lambda one: (one.file_id, one.line_number)),
        uncounted=st.lists(st.integers(0, 9), max_size=3),
        limit=st.sampled_from([1, 2, 20]),
    )
    def test_are_the_first_delivery_of_each_that_it_counts(
        self,
        engine: duckdb.DuckDBPyConnection,
        tmp_path: Path,
        records: list[Request],
        uncounted: list[int],
        limit: int,
    ) -> None:
        left_out = {(records[n].file_id, records[n].line_number) for n in uncounted if n < len(records)}
        places: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for one in records:
            place = one.file_id, one.line_number
            is_of_row = (one.client_id, one.method, one.endpoint) == ("us", "GET", "/a") and START <= one.event_at < END
            if is_of_row and one.status_code in (200, 204) and not one.is_simulated and place not in left_out:
                places.setdefault(one.identity, []).append(place)
        firsts = sorted(min(found) for found in places.values())

        # a delivery is split over files in any way
        halves = [half for half in (records[::2], records[1::2]) if half]
        found = engine.execute(
            duck.sql("usage_row_records"),
            {
                "files": [str(write_lake_file(tmp_path / f"{n}.parquet", half)) for n, half in enumerate(halves)],
                "period_start": START.replace(tzinfo=None),
                "period_end": END.replace(tzinfo=None),
                "client_id": "us",
                "method": "GET",
                "endpoint": "/a",
                "statuses": [200, 204],
                "uncounted_files": [file_id for file_id, _ in left_out],
                "uncounted_lines": [line for _, line in left_out],
                "limit": limit,
            },
        ).fetchall()
        assert found == [(*place, len(firsts)) for place in firsts[:limit]]


@dataclass(frozen=True, slots=True)
class Sample:
    """A row of core/traffic_samples."""

    stream: tuple[str, str, str, str]
    at: datetime
    total: int

    @property
    def minute(self) -> datetime:
        return self.at.replace(second=0, microsecond=0)

    @property
    def row(self) -> dict[str, Any]:
        names = ("env", "node", "account_uuid", "inbound_tag")
        return dict(zip(names, self.stream, strict=True)) | self.told | {"xray_version": "1"}

    @property
    def told(self) -> dict[str, Any]:
        """Return what lineage tells of it."""
        return {
            "collected_at": self.at,
            "uplink_bytes": self.total,
            "downlink_bytes": self.total * 2,
            "uptime_seconds": self.total or None,
            "source": f"s{self.total}",
            "file_id": self.total % 3 or None,
            "line_number": self.total % 2 or None,
        }


# Streams that differ in one of their names each.
STREAMS = [("prod", "jp", "u", "x"), ("test", "jp", "u", "x"), ("prod", "de", "u", "x"), ("prod", "jp", "v", "x"),
           ("prod", "jp", "u", "")]  # fmt: skip
INSTANTS = [
    MIDNIGHT + n * MINUTE + inside
    for n in range(3)
    for inside in (timedelta(), timedelta(seconds=30), MINUTE - MICROSECOND)
]
SAMPLES = st.lists(
    st.builds(Sample, st.sampled_from([STREAMS[0], *STREAMS]), st.sampled_from(INSTANTS), st.integers(0, 9)),
    min_size=1,
    max_size=14,
    unique_by=lambda one: (one.stream, one.at),
)
TEXT = pa.string()
KEYS = {"env": TEXT, "node": TEXT, "account_uuid": TEXT, "inbound_tag": TEXT}


def write(folder: Path, samples: Sequence[Sample]) -> list[str]:
    """Write the samples in two lake files, in no order."""
    paths = []
    for number, half in enumerate((samples[::2], samples[1::2])):
        if half:
            paths.append(str(folder / f"{number}.parquet"))
            pyarrow.parquet.write_table(pa.Table.from_pylist([one.row for one in half], schema=LAKE_SCHEMA), paths[-1])
    return paths


class TestSamplesOfMinutes:
    @pytest.mark.sql_reference("traffic_minute_samples")
    @settings(FAST, max_examples=80)
    @given(
        samples=SAMPLES,
        minutes=st.lists(
            st.tuples(st.sampled_from([STREAMS[0], *STREAMS]), st.sampled_from(INSTANTS[::3])), max_size=5
        ),
    )
    def test_come_with_the_one_before_each(
        self,
        engine: duckdb.DuckDBPyConnection,
        tmp_path: Path,
        samples: list[Sample],
        minutes: list[tuple[tuple[str, ...], datetime]],
    ) -> None:
        expected = []
        for one in sorted(samples, key=lambda one: (one.stream, one.at)):
            before = [other for other in samples if other.stream == one.stream and other.at < one.at]
            earlier = max(before, key=lambda other: other.at).told if before else None
            if (one.stream, one.minute) in minutes:
                expected.append((one.stream, one.minute, one.told, earlier))

        bind_rows(
            engine, "lineage_minutes", {**KEYS, "bucket_start": pa.timestamp("us")}, [(*one, at) for one, at in minutes]
        )
        found = engine.execute(duck.sql("traffic_minute_samples"), {"files": write(tmp_path, samples)}).fetchall()
        assert found == expected

    @pytest.mark.sql_reference("traffic_samples_at")
    @settings(FAST, max_examples=60)
    @given(
        samples=SAMPLES,
        instants=st.lists(st.tuples(st.sampled_from([STREAMS[0], *STREAMS]), st.sampled_from(INSTANTS)), max_size=5),
    )
    def test_are_found_by_stream_and_instant(
        self,
        engine: duckdb.DuckDBPyConnection,
        tmp_path: Path,
        samples: list[Sample],
        instants: list[tuple[tuple[str, ...], datetime]],
    ) -> None:
        # half of what is asked for is there
        asked = [*instants, *((one.stream, one.at) for one in samples[::2])]
        bind_rows(
            engine, "lineage_instants", {**KEYS, "collected_at": pa.timestamp("us")}, [(*one, at) for one, at in asked]
        )
        found = engine.execute(duck.sql("traffic_samples_at"), {"files": write(tmp_path, samples)}).fetchall()
        expected = [(one.stream, one.told) for one in samples if (one.stream, one.at) in asked]
        assert sorted(found, key=repr) == sorted(expected, key=repr)


@dataclass(frozen=True, slots=True)
class Fact:
    """A row of repository_facts."""

    fact_id: int
    fact_at: datetime
    kind: str
    name: str
    is_part: bool
    bucket: str
    upload_id: str | None
    action_id: str | None
    object_id: str | None
    source: str | None

    @property
    def row(self) -> tuple[object, ...]:
        number = self.fact_id
        return (number, self.fact_at, self.kind, self.name, self.is_part, self.bucket, number * 10, "private", "ann",
                self.object_id, self.action_id, self.upload_id, self.source, number % 2, number)  # fmt: skip

    @property
    def told(self) -> tuple[object, ...]:
        number = self.fact_id
        return (self.fact_at, self.kind, self.name, number * 10, "private", "ann", self.object_id, self.action_id, self.source,
                number % 2, number)  # fmt: skip

    @property
    def place(self) -> tuple[object, ...]:
        """Return where it stands among others: by time, events before snapshots, and what says nothing last."""
        kinds = {"snapshot": 1, "missing": 2, "listed": 2}
        words = [(word is None, word or "") for word in (self.action_id, self.object_id, self.source)]
        return self.fact_at, kinds.get(self.kind, 0), *words, self.fact_id % 2, self.fact_id


DAY = timedelta(days=1)
UPLOAD_DAYS = 7
FACT_COLUMNS = {
    "fact_id": pa.int64(), "fact_at": pa.timestamp("us"), "kind": TEXT, "name": TEXT, "is_part": pa.bool_(), "bucket": TEXT,
    "bytes": pa.int64(), "visibility": TEXT, "owner": TEXT, "object_id": TEXT, "action_id": TEXT, "upload_id": TEXT,
    "source": TEXT, "file_id": pa.int64(), "line_number": pa.int64(),
}  # fmt: skip
KINDS = st.sampled_from(
    [
        ("snapshot", "snapshot", False),
        ("missing", "missing", False),
        ("listed", "listed", False),
        ("visibility", "visibility", False),
        ("object", "PutObject", False),
        ("object", "CompleteMultipartUpload", False),
        ("object", "CompleteMultipartUpload", False),
        ("object", "UploadPart", True),
        ("object", "UploadPart", True),
        ("object", "UploadPart", True),
    ]
)
# Seven days, to the microsecond, are what a part waits for the rest of its upload.
FACT_INSTANTS = st.sampled_from(
    [MIDNIGHT + more for more in (0 * DAY, MICROSECOND, UPLOAD_DAYS * DAY, UPLOAD_DAYS * DAY + MICROSECOND)]
)
WORDS = st.sampled_from([None, "a", "b"])
UPLOADS = st.sampled_from([None, "u", "u", "u", "u", "v"])
BUCKETS = st.sampled_from(["", "", "", "b1"])
FACTS = st.lists(
    st.builds(
        lambda at, kind, *words: Fact(0, at, *kind, *words), FACT_INSTANTS, KINDS, BUCKETS, UPLOADS, WORDS, WORDS, WORDS
    ),
    min_size=4,
    max_size=12,
).map(lambda facts: [replace(one, fact_id=number) for number, one in enumerate(facts, 1)])
# From the first of these on, all that is said of a bucket lies after it.
BEGINNINGS = st.sampled_from([datetime(1, 1, 1), datetime(1, 1, 1), MIDNIGHT, MIDNIGHT + MICROSECOND])  # noqa: DTZ001 - the lake's UTC
SPANS = st.lists(st.tuples(BUCKETS, BEGINNINGS, FACT_INSTANTS), min_size=1, max_size=2, unique_by=lambda span: span[0])


def evidence(facts: Sequence[Fact], spans: Sequence[tuple[str, datetime, datetime]], chosen: set[int]) -> list[Fact]:
    """Return the facts behind a state, in order."""
    changes = [
        one
        for one in facts
        if one.kind == "object"
        and not one.is_part
        and any(bucket == one.bucket and after < one.fact_at <= through for bucket, after, through in spans)
    ]
    completed = [one for one in changes if one.name == "CompleteMultipartUpload" and one.upload_id is not None]
    parts = [
        one
        for one in facts
        if one.is_part
        and any(
            (one.bucket, one.upload_id) == (whole.bucket, whole.upload_id)
            and timedelta() <= whole.fact_at - one.fact_at <= UPLOAD_DAYS * DAY
            for whole in completed
        )
    ]
    said = [one for one in facts if one.fact_id in chosen or one.kind == "listed"]
    return sorted([*changes, *parts, *said], key=lambda one: one.place)


class TestEvidenceOfStorage:
    @pytest.mark.sql_reference("storage_evidence")
    @settings(FAST, max_examples=200)
    @given(facts=FACTS, spans=SPANS, numbers=st.sets(st.integers(1, 12), max_size=6), limit=st.sampled_from([1, 3, 30]))
    def test_is_what_the_state_rests_on_in_order_of_time(
        self,
        engine: duckdb.DuckDBPyConnection,
        facts: list[Fact],
        spans: list[tuple[str, datetime, datetime]],
        numbers: set[int],
        limit: int,
    ) -> None:
        # events of objects are found by their span, what snapshots list by itself: neither is chosen
        chosen = {one.fact_id for one in facts if one.fact_id in numbers and one.kind not in ("object", "listed")}
        bind_rows(engine, "repository_facts", FACT_COLUMNS, [one.row for one in facts])
        instant = pa.timestamp("us")
        bind_rows(engine, "spans", {"bucket": TEXT, "after_at": instant, "through_at": instant}, spans)
        found = engine.execute(
            duck.sql("storage_evidence"), {"chosen": sorted(chosen), "upload_days": UPLOAD_DAYS, "limit": limit}
        ).fetchall()
        expected = evidence(facts, spans, chosen)
        assert found == [(*one.told, len(expected)) for one in expected[:limit]]
