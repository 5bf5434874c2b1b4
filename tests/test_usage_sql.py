"""The usage SQL against a short Python reference, over generated records: late, copied, in conflict, in any split."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil
from operator import add
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from billing_pipeline.amounts import to_scale
from billing_pipeline.catalog import BillableRule
from billing_pipeline.meters import Aggregation, LevelFold, Meter, TransactionDetail
from resources.usage_facts import DayFacts, Decision
from resources.usage_rules import BEGINNING, END, ClientAccount, ClientWindow, UsageRules
from resources.usage_scan import LakePart, ScanInputs, UsageScan
from tests.usage_days import Request, conflicting_identities, numbered, without_copies, write_lake_file

DAY, NEXT_DAY = date(2026, 3, 1), date(2026, 3, 2)
DAYS = (DAY, NEXT_DAY)
HOUR = timedelta(hours=1)


def at(text: str, day: date = DAY) -> datetime:
    return datetime.fromisoformat(f"{day}T{text}+00:00")


MOVE, ANCHOR = at("09:30:00"), at("14:37:12")
SUCCESS = ((200, 202), (204, 299))
METERS = (
    Meter(meter_id="requests", version=1, aggregation=Aggregation.COUNT, unit="request"),
    Meter(
        meter_id="commands",
        version=1,
        aggregation=Aggregation.COUNT,
        unit="request",
        endpoints=frozenset({"/lock"}),
        methods=frozenset({"POST"}),
    ),
    Meter(meter_id="timed", version=1, aggregation=Aggregation.COUNT, unit="request", field="response_time_us"),
    Meter(meter_id="bytes", version=1, aggregation=Aggregation.SUM, unit="byte", field="response_bytes"),
    Meter(meter_id="slowest", version=1, aggregation=Aggregation.MAX, unit="us", field="response_time_us"),
    Meter(meter_id="quickest", version=1, aggregation=Aggregation.MIN, unit="us", field="response_time_us"),
    Meter(meter_id="most", version=1, aggregation=Aggregation.MAX, unit="byte", field="response_bytes"),
    Meter(meter_id="least", version=1, aggregation=Aggregation.MIN, unit="byte", field="response_bytes"),
    Meter(meter_id="statuses", version=1, aggregation=Aggregation.UNIQUE, unit="status", field="status_code"),
    Meter(meter_id="clients", version=1, aggregation=Aggregation.UNIQUE, unit="client", field="client_id"),
    Meter(meter_id="last", version=1, aggregation=Aggregation.LATEST, unit="byte", field="response_bytes"),
    Meter(
        meter_id="p90",
        version=1,
        aggregation=Aggregation.PERCENTILE,
        percentile=Decimal("90.5"),
        unit="us",
        field="response_time_us",
    ),
    Meter(
        meter_id="median",
        version=1,
        aggregation=Aggregation.PERCENTILE,
        percentile=Decimal(50),
        unit="byte",
        field="response_bytes",
    ),
    Meter(
        meter_id="busy",
        version=1,
        aggregation=Aggregation.PERCENTILE,
        percentile=Decimal(50),
        unit="request",
        bucket_seconds=900,
    ),
    Meter(meter_id="mean", version=1, aggregation=Aggregation.MEAN, unit="us", field="response_time_us"),
    Meter(
        meter_id="peaks",
        version=1,
        aggregation=Aggregation.MAX,
        unit="us",
        field="response_time_us",
        bucket_seconds=900,
    ),
    Meter(
        meter_id="bytes by half hour",
        version=1,
        aggregation=Aggregation.SUM,
        unit="byte",
        field="response_bytes",
        bucket_seconds=1800,
    ),
    Meter(meter_id="by minute", version=1, aggregation=Aggregation.COUNT, unit="request", bucket_seconds=60),
    Meter(
        meter_id="seats",
        version=1,
        aggregation=Aggregation.LEVEL,
        unit="seat",
        level=LevelFold.MEAN,
        lowered_by=frozenset({"POST"}),
    ),
    Meter(
        meter_id="held",
        version=1,
        aggregation=Aggregation.LEVEL,
        unit="byte",
        field="response_bytes",
        level=LevelFold.LAST,
        lowered_by=frozenset({"GET"}),
    ),
    Meter(
        meter_id="gauge",
        version=1,
        aggregation=Aggregation.LEVEL,
        unit="us",
        field="response_time_us",
        level=LevelFold.HIGHEST,
        is_set=True,
    ),
    Meter(
        meter_id="sales",
        version=1,
        aggregation=Aggregation.SUM,
        unit="cent",
        field="response_bytes",
        transactions=TransactionDetail.COUNTED,
    ),
    Meter(
        meter_id="sales in order",
        version=1,
        aggregation=Aggregation.SUM,
        unit="cent",
        field="response_bytes",
        transactions=TransactionDetail.ORDERED,
    ),
)


def window(client_id: str, cut: datetime) -> tuple[ClientWindow, ClientWindow]:
    hour = cut.replace(minute=0, second=0, microsecond=0)
    return (
        ClientWindow(client_id=client_id, hour_start=hour, start=hour, end=cut),
        ClientWindow(client_id=client_id, hour_start=hour, start=cut, end=hour + HOUR),
    )


RULES = UsageRules(
    billable_rule=BillableRule(
        version=1, success_statuses=SUCCESS, endpoints=frozenset({("GET", "/odometer"), ("*", "/lock")})
    ),
    meters=METERS,
    client_accounts=(
        ClientAccount(client_id="a", account_id="acme", valid_from=BEGINNING, valid_to=END),
        ClientAccount(client_id="b", account_id="old", valid_from=BEGINNING, valid_to=MOVE),
        ClientAccount(client_id="b", account_id="new", valid_from=MOVE, valid_to=END),
    ),
    client_windows=(*window("a", ANCHOR), *window("b", MOVE)),
    digests={},
)


@dataclass(frozen=True)
class Lake:
    """Records per lake file: what ingest has published, each file without copies."""

    files: tuple[tuple[Request, ...], ...]

    @property
    def records(self) -> list[tuple[int, Request]]:
        return [(number, request) for number, requests in enumerate(self.files) for request in requests]

    def parts(self, folder: Path) -> tuple[LakePart, ...]:
        parts = []
        for number, requests in enumerate(self.files):
            path = write_lake_file(folder / f"{number}.parquet", requests)
            has_conflicts = conflicting_identities(requests) > 0
            for day in {request.event_day for request in requests} & set(DAYS):
                rows = sum(request.event_day == day for request in requests)
                parts.append(LakePart(path=path, event_day=day, rows=rows, has_conflicts=has_conflicts))
        return tuple(parts)


def reference_outcomes(
    lake: Lake, decisions: Mapping[tuple[str, str], Request | None], counted: Collection[tuple[int, date]]
) -> dict[tuple[int, int], str]:
    """Return (file, line) -> kept, duplicate or conflict, read from the definition in ADR 0006."""
    whole_files = {number for number, requests in enumerate(lake.files) if conflicting_identities(requests)}
    versions = defaultdict(list)
    for number, request in lake.records:
        if request.event_day in DAYS or number in whole_files:
            versions[request.identity].append((number, request))
    outcomes = {}
    for identity, copies in versions.items():
        contents = {request.content for _, request in copies}
        billed = {request.content for _, request in copies if (request.file_id, request.event_day) in counted}
        decision: tuple[bool, object] = (False, None)
        if identity in decisions:
            chosen = decisions[identity]
            decision = (chosen is None or chosen.content in contents, chosen and chosen.content)
        elif len(billed) == 1:
            decision = (True, next(iter(billed)))
        for day in DAYS:
            of_day = [(number, request) for number, request in copies if request.event_day == day]
            rivals = [
                {other.content for other_file, other in copies if other_file == number or other.event_day == day}
                for number, _ in of_day
            ]
            is_conflict = any(len(contents) > 1 for contents in rivals)
            seen = set()
            for _, request in sorted(of_day, key=lambda copy: (copy[1].file_id, copy[1].line_number)):
                outcome = "duplicate" if request.content in seen else "kept"
                if is_conflict and not (decision[0] and decision[1] == request.content):
                    outcome = "conflict"
                seen.add(request.content)
                outcomes[request.file_id, request.line_number] = outcome
    return outcomes


def reference_reason(request: Request) -> str | None:
    if not any(first <= request.status_code <= last for first, last in SUCCESS):
        return "not_successful"
    if request.is_simulated:
        return "simulated"
    if request.endpoint != "/lock" and (request.method, request.endpoint) != ("GET", "/odometer"):
        return "endpoint_not_billable"
    return None if reference_account(request) else "unknown_client"


def reference_account(request: Request) -> str | None:
    return {"a": "acme", "b": "old" if request.event_at < MOVE else "new"}.get(request.client_id)


def reference_period(request: Request) -> tuple[datetime, datetime]:
    start = request.event_at.replace(minute=0, second=0, microsecond=0)
    cut = {"a": ANCHOR, "b": MOVE}.get(request.client_id)
    if cut is None or not start < cut < start + HOUR:
        return start, start + HOUR
    return (start, cut) if request.event_at < cut else (cut, start + HOUR)


def microseconds(request: Request) -> int:
    return (request.event_at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def rank(values: Iterable[int], percentile: Decimal) -> int:
    ordered = sorted(values)
    return ordered[max(1, ceil(len(ordered) * percentile / 100)) - 1]


def reference_result(meter: Meter, requests: Sequence[Request]) -> tuple[Decimal, object]:
    """Return (quantity, state) of one usage row."""
    values = [getattr(request, meter.field) for request in requests] if meter.field else []
    if meter.bucket_seconds is not None and meter.aggregation is not Aggregation.PERCENTILE:
        plain = replace(meter, bucket_seconds=None)
        by_bucket: dict[int, list[Request]] = defaultdict(list)
        for request in requests:
            by_bucket[int(request.event_at.timestamp()) // meter.bucket_seconds * meter.bucket_seconds].append(request)
        buckets_of = [[start, int(reference_result(plain, found)[0])] for start, found in sorted(by_bucket.items())]
        return reference_result(plain, requests)[0], {"buckets": buckets_of}
    if meter.transactions is TransactionDetail.COUNTED:
        return Decimal(sum(values)), {"counts": [[value, values.count(value)] for value in sorted(set(values))]}
    if meter.transactions is TransactionDetail.ORDERED:
        at_instants = Counter((microseconds(request), getattr(request, meter.field or "")) for request in requests)
        return Decimal(sum(values)), {"transactions": [[*key, count] for key, count in sorted(at_instants.items())]}
    match meter.aggregation:
        case Aggregation.LEVEL:
            changes: dict[int, int] = {}
            for request in requests:
                at, value = microseconds(request), getattr(request, meter.field) if meter.field else 1
                if meter.is_set:
                    changes[at] = max(value, changes.get(at, value))
                else:
                    changes[at] = changes.get(at, 0) + (-value if request.method in meter.lowered_by else value)
            total = changes[max(changes)] if meter.is_set else sum(changes.values())
            return Decimal(total), {"changes": [[at, value] for at, value in sorted(changes.items())]}
        case Aggregation.MEAN:
            mean = Fraction(sum(values), len(values))
            return to_scale(mean, digits=9), {"sum": sum(values), "count": len(values)}
        case Aggregation.COUNT:
            return Decimal(len(requests)), None
        case Aggregation.SUM:
            return Decimal(sum(values)), None
        case Aggregation.MAX:
            return Decimal(max(values)), None
        case Aggregation.MIN:
            return Decimal(min(values)), None
        case Aggregation.UNIQUE:
            return Decimal(len(set(values))), {"values": sorted(set(values))}
        case Aggregation.LATEST:
            newest = max(requests, key=lambda one: (one.event_at, one.event_id, one.response_bytes))
            state = {"at": newest.event_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "event_id": newest.event_id}
            return Decimal(newest.response_bytes or 0), state
        case Aggregation.PERCENTILE if meter.bucket_seconds is None:
            counts = [[value, values.count(value)] for value in sorted(set(values))]
            return Decimal(rank(values, meter.percentile or Decimal(0))), {"counts": counts}
        case Aggregation.PERCENTILE:
            buckets: dict[int, int] = defaultdict(int)
            for request in requests:
                buckets[int(request.event_at.timestamp()) // 900 * 900] += 1
            state = {"buckets": [[start, value] for start, value in sorted(buckets.items())]}
            return Decimal(rank(buckets.values(), meter.percentile or Decimal(0))), state


def reference_usage(requests: Iterable[Request]) -> dict[tuple[object, ...], tuple[object, ...]]:
    """Return usage rows of the records that count: key -> (quantity, unit, request count, state)."""
    groups = defaultdict(list)
    for request in requests:
        if reference_reason(request) is not None:
            continue
        for meter in METERS:
            if meter.endpoints and request.endpoint not in meter.endpoints:
                continue
            if meter.methods and request.method not in meter.methods:
                continue
            if meter.field and getattr(request, meter.field) is None:
                continue
            start, end = reference_period(request)
            key = (request.event_day, reference_account(request), meter, start, end)
            groups[(*key, request.endpoint, request.method, request.client_id)].append(request)
    rows = {}
    for (day, account, meter, *rest), members in groups.items():
        quantity, state = reference_result(meter, members)
        rows[(day, account, meter.meter_id, *rest)] = (quantity, meter.unit, len(members), state)
    return rows


@dataclass(frozen=True)
class Scanned:
    usage: dict[tuple[object, ...], tuple[object, ...]]
    not_billable: dict[tuple[object, ...], int]
    facts: Mapping[date, DayFacts]


def scan(
    folder: Path,
    lake: Lake,
    decisions: tuple[Decision, ...] = (),
    counted: tuple[tuple[int, date], ...] = (),
    days: tuple[date, ...] = DAYS,
) -> Scanned:
    """Run the SQL over the lake and return what it makes, in the reference's terms."""
    inputs = ScanInputs(days=days, parts=lake.parts(folder), rules=RULES, decisions=decisions, counted_files=counted)
    with UsageScan(inputs, scratch_dir=folder, memory_limit="256MB", threads=1) as result:
        rows = [row for batch in result.usage_rows(days) for row in batch.to_pylist()]
        left_out = [row for batch in result.not_billable_rows(days) for row in batch.to_pylist()]
        facts = result.facts()
    usage = {}
    for row in rows:
        period = (row["period_start"].replace(tzinfo=UTC), row["period_end"].replace(tzinfo=UTC))
        dimensions = (row["endpoint"], row["method"], row["client_id"])
        state = None if row["state"] is None else json.loads(row["state"])
        key = (row["event_day"], row["account_id"], row["meter_id"], *period, *dimensions)
        assert key not in usage
        usage[key] = (row["quantity"], row["unit"], row["request_count"], state)
    not_billable = {
        (row["event_day"], row["reason"], row["account_id"], row["client_id"]): row["request_count"] for row in left_out
    }
    return Scanned(usage=usage, not_billable=not_billable, facts=facts)


INSTANTS = [
    ANCHOR,
    ANCHOR - timedelta(microseconds=1),
    MOVE,
    MOVE - timedelta(microseconds=1),
    at("14:00:00"),
    at("14:59:59.999999"),
    at("00:00:00"),
    at("23:59:59.999999"),
    at("09:45:00"),
    at("00:00:00", NEXT_DAY),
    at("12:34:56", NEXT_DAY),
    at("12:00:00", date(2026, 2, 28)),
]
CONTENTS = st.builds(
    Request,
    event_id=st.just(""),
    event_at=st.sampled_from(INSTANTS),
    client_id=st.sampled_from(["a", "a", "b", "stranger"]),
    method=st.sampled_from(["GET", "POST"]),
    endpoint=st.sampled_from(["/odometer", "/lock", "/user"]),
    status_code=st.sampled_from([200, 200, 201, 203, 299, 500]),
    response_time_us=st.one_of(st.none(), st.integers(1, 5), st.just(2**62)),
    response_bytes=st.one_of(st.none(), st.integers(0, 3), st.just(2**62)),
    is_simulated=st.sampled_from([False, False, False, True]),
    source=st.sampled_from(["api", "auth"]),
)


# What differs between records of one usage row: their instants, some of which are one, and their values.
VALUES = st.tuples(
    st.sampled_from([timedelta(), timedelta(), timedelta(microseconds=1), timedelta(minutes=3)]),
    st.integers(1, 5),
    st.integers(0, 3),
)


@st.composite
def bursts(draw: st.DrawFn) -> list[Request]:
    """Draw billable records that fall into one usage row, or two where the hour is cut."""
    one = draw(CONTENTS)
    at_minute = at("14:56:30") if one.client_id == "a" else at("14:38:00")
    one = replace(one, client_id="a", endpoint="/lock", status_code=200, is_simulated=False, event_at=at_minute)
    return [
        replace(one, event_at=one.event_at + later, response_time_us=time, response_bytes=size)
        for later, time, size in draw(st.lists(VALUES, min_size=2, max_size=8))
    ]


@st.composite
def deliveries(draw: st.DrawFn, *, with_conflicts: bool) -> list[Request]:
    """Draw records in the order of delivery; some again with the same content, some with another."""
    drawn = draw(
        st.one_of(st.lists(CONTENTS, min_size=1, max_size=14), st.builds(add, st.lists(CONTENTS, max_size=4), bursts()))
    )
    first = [replace(request, event_id=f"e{number}") for number, request in enumerate(drawn)]
    again = draw(st.lists(st.sampled_from(first), max_size=6))
    changed = draw(st.lists(st.tuples(st.sampled_from(first), CONTENTS), max_size=4)) if with_conflicts else []
    versions = [replace(other, event_id=one.event_id, source=one.source) for one, other in changed]
    return draw(st.permutations([*first, *again, *versions]))


def split(requests: Sequence[Request], numbers: Sequence[int]) -> Lake:
    """Return the requests in lake files by `numbers`, each file's copies removed as ingest does."""
    placed = numbered(replace(request, file_id=number + 1) for request, number in zip(requests, numbers, strict=True))
    files = [[one for one in placed if one.file_id == number + 1] for number in range(3)]
    return Lake(tuple(tuple(without_copies(file)) for file in files if file))


def splits(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 2), min_size=size, max_size=size)


# A failing example is a few records as it stands; shrinking it would run the SQL for minutes.
FEW = settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class TestUsageOfRecords:
    @pytest.mark.sql_reference(
        "api_requests",
        "api_requests_buckets",
        "api_requests_latest",
        "api_requests_level",
        "api_requests_percentile",
        "api_requests_transactions",
        "api_requests_unique",
        "billable_records",
        "counted_records",
        "delivered_hours",
        "lake_records",
        "meter_records",
        "repeated_identities",
        "request_identities",
        "request_outcomes",
        "request_records",
    )
    @FEW
    @given(data=st.data())
    def test_equals_the_reference(self, tmp_path: Path, data: st.DataObject) -> None:
        requests = data.draw(deliveries(with_conflicts=True))
        lake = split(requests, data.draw(splits(len(requests))))
        of_days = [request for _, request in lake.records if request.event_day in DAYS]
        counted = tuple(
            data.draw(st.sets(st.sampled_from([(number, day) for number in (1, 2, 3) for day in DAYS]), max_size=3))
        )
        outcomes = reference_outcomes(lake, {}, counted)
        kept = [one for one in of_days if outcomes[one.file_id, one.line_number] == "kept"]
        result = scan(tmp_path, lake, counted=counted)

        assert result.usage == reference_usage(kept)
        for day in DAYS:
            facts = result.facts[day]
            records = [one for one in of_days if one.event_day == day]
            of_outcome = [outcomes[one.file_id, one.line_number] for one in records]
            reasons = [reference_reason(one) for one in kept if one.event_day == day]
            assert facts.records_read == len(records)
            by_hour = Counter((one.source, one.event_at.hour) for one in records)
            assert {
                (source, hour): found
                for source, hours in facts.records_by_hour.items()
                for hour, found in hours.items()
            } == by_hour
            assert facts.requests_by_hour == tuple(
                sum(found for (_, other), found in by_hour.items() if other == hour) for hour in range(24)
            )
            assert (facts.duplicates, facts.conflicts) == (of_outcome.count("duplicate"), of_outcome.count("conflict"))
            assert facts.billable == reasons.count(None)
            assert facts.not_billable_by_reason == {
                reason: reasons.count(reason) for reason in set(reasons) if reason is not None
            }
            assert {meter: n for meter, n in facts.records_by_count_meter.items() if n} == facts.usage_by_count_meter
            assert facts.usage_rows == sum(key[0] == day for key in result.usage)
            assert sum(n for key, n in result.not_billable.items() if key[0] == day) == sum(
                facts.not_billable_by_reason.values()
            )

    @pytest.mark.sql_reference("request_identities")
    @settings(FEW, max_examples=15)
    @given(data=st.data())
    def test_counts_what_was_decided(self, tmp_path: Path, data: st.DataObject) -> None:
        first, other = (data.draw(st.lists(CONTENTS, min_size=2, max_size=2)) for _ in range(2))
        requests = [
            replace(content, event_id=f"e{number}", source="api")
            for number, contents in enumerate(zip(first, other, strict=True))
            for content in contents
        ]
        requests += data.draw(st.lists(st.sampled_from(requests), max_size=4))
        lake = split(requests, data.draw(splits(len(requests))))
        counted = tuple(data.draw(st.sets(st.sampled_from([(number, day) for number in (1, 2, 3) for day in DAYS]))))
        versions = [one for facts in scan(tmp_path, lake).facts.values() for one in facts.conflict_versions]
        by_place = {(one.file_id, one.line_number): one for _, one in lake.records}
        decisions: dict[tuple[str, str], Request | None] = {}
        decided = []
        for event_id in sorted({one.event_id for one in versions}):
            own = [one for one in versions if one.event_id == event_id]
            # the content of another identity is none of this one's
            others = [one for one in versions if one.event_id != event_id]
            chosen = data.draw(st.sampled_from([*own, *own, *others, None, "gone", "open"]))
            if chosen == "open":
                continue
            if chosen is None or isinstance(chosen, str):
                # a content that is not delivered any more decides nothing
                gone = replace(requests[0], response_bytes=77)
                decisions["api", event_id] = None if chosen is None else gone
                sha256 = None if chosen is None else "0" * 64
            else:
                decisions["api", event_id] = by_place[chosen.file_id, chosen.line_number]
                sha256 = chosen.content_sha256
            decided.append(Decision(source="api", event_id=event_id, content_sha256=sha256))

        outcomes = reference_outcomes(lake, decisions, counted)
        kept = [
            one for _, one in lake.records if one.event_day in DAYS and outcomes[one.file_id, one.line_number] == "kept"
        ]
        result = scan(tmp_path, lake, tuple(decided), counted)
        assert result.usage == reference_usage(kept)
        for day in DAYS:
            own_outcomes = [outcomes[one.file_id, one.line_number] for _, one in lake.records if one.event_day == day]
            facts = result.facts[day]
            assert (facts.duplicates, facts.conflicts) == (
                own_outcomes.count("duplicate"),
                own_outcomes.count("conflict"),
            )

    @settings(FEW, max_examples=15)
    @given(data=st.data())
    def test_does_not_depend_on_files_nor_on_order(self, tmp_path: Path, data: st.DataObject) -> None:
        requests = data.draw(deliveries(with_conflicts=False))
        one_file = scan(tmp_path, split(requests, [0] * len(requests)))
        shuffled = data.draw(st.permutations(requests))
        three_files = scan(tmp_path, split(shuffled, data.draw(splits(len(requests)))))
        assert three_files.usage == one_file.usage
        assert three_files.not_billable == one_file.not_billable

    @settings(FEW, max_examples=10)
    @given(data=st.data())
    def test_of_two_days_at_once_equals_that_of_each_day(self, tmp_path: Path, data: st.DataObject) -> None:
        requests = data.draw(deliveries(with_conflicts=True))
        lake = split(requests, data.draw(splits(len(requests))))
        both = scan(tmp_path, lake)
        usage: dict[tuple[object, ...], tuple[object, ...]] = {}
        for day in DAYS:
            usage |= scan(tmp_path, lake, days=(day,)).usage
        assert usage == both.usage

    def test_of_the_ten_requests_in_the_semantics_is_five(self, tmp_path: Path) -> None:
        ten = [
            *(Request(event_id=f"ok{n}", event_at=at("10:00:00"), client_id="a") for n in range(5)),
            *(
                Request(event_id=e, event_at=at("10:00:00"), client_id="a", endpoint=e)
                for e in ("/list", "/user", "/off")
            ),
            Request(event_id="failed", event_at=at("10:00:00"), client_id="a", status_code=500),
            Request(event_id="test", event_at=at("10:00:00"), client_id="a", is_simulated=True),
        ]
        facts = scan(tmp_path, Lake((tuple(numbered(ten)),))).facts[DAY]
        assert facts.billable == 5
        assert facts.not_billable_by_reason == {"endpoint_not_billable": 3, "not_successful": 1, "simulated": 1}
        assert facts.top_accounts == (("acme", 5),)

    def test_without_any_record_is_empty(self, tmp_path: Path) -> None:
        result = scan(tmp_path, Lake(()))
        assert (result.usage, result.not_billable) == ({}, {})
        assert [facts.records_read for facts in result.facts.values()] == [0, 0]


class TestConflicts:
    FIRST = Request(event_id="e", event_at=at("10:00:00"), client_id="a", file_id=1)
    SECOND = replace(FIRST, status_code=500, file_id=2)

    def content_sha256(self, folder: Path, lake: Lake, file_id: int) -> str:
        versions = scan(folder, lake).facts[DAY].conflict_versions
        return next(version.content_sha256 for version in versions if version.file_id == file_id)

    def test_keep_every_version_out_of_usage_and_list_them(self, tmp_path: Path) -> None:
        result = scan(tmp_path, Lake(((self.FIRST,), (self.SECOND,))))
        facts = result.facts[DAY]
        assert result.usage == {}
        assert (facts.conflicts, facts.open_identities) == (2, ("api/e",))
        assert {version.file_id for version in facts.conflict_versions} == {1, 2}

    @pytest.mark.parametrize(("chosen", "requests"), [(1, 1), (2, 0)])
    def test_count_the_version_that_was_decided_for_once(self, tmp_path: Path, chosen: int, requests: int) -> None:
        copy_of_first = replace(self.FIRST, file_id=3)
        lake = Lake(((self.FIRST,), (self.SECOND,), (copy_of_first,)))
        sha256 = self.content_sha256(tmp_path, lake, chosen)
        decision = Decision(source="api", event_id="e", content_sha256=sha256)
        facts = scan(tmp_path, lake, decisions=(decision,)).facts[DAY]
        assert facts.billable == requests
        assert facts.open_identities == ()
        assert (
            facts.records_read
            == 3
            == facts.billable
            + facts.not_billable_by_reason.get("not_successful", 0)
            + facts.duplicates
            + facts.conflicts
        )

    def test_count_nothing_where_it_was_decided_that_no_version_counts(self, tmp_path: Path) -> None:
        decision = Decision(source="api", event_id="e", content_sha256=None)
        facts = scan(tmp_path, Lake(((self.FIRST,), (self.SECOND,))), decisions=(decision,)).facts[DAY]
        assert (facts.billable, facts.conflicts, facts.open_identities) == (0, 2, ())

    def test_are_open_again_when_the_content_that_was_decided_for_is_gone(self, tmp_path: Path) -> None:
        decision = Decision(source="api", event_id="e", content_sha256="0" * 64)
        facts = scan(tmp_path, Lake(((self.FIRST,), (self.SECOND,))), decisions=(decision,)).facts[DAY]
        assert (facts.conflicts, facts.open_identities) == (2, ("api/e",))

    def test_leave_the_version_billed_that_the_last_build_counted(self, tmp_path: Path) -> None:
        lake = Lake(((self.FIRST,), (self.SECOND,)))
        facts = scan(tmp_path, lake, counted=((1, DAY),)).facts[DAY]
        sha256 = self.content_sha256(tmp_path, lake, 1)
        assert facts.billed_already == (Decision(source="api", event_id="e", content_sha256=sha256),)
        assert (facts.billable, facts.conflicts, facts.open_identities) == (1, 1, ())

    def test_over_midnight_inside_one_file_keep_both_days_from_billing_twice(self, tmp_path: Path) -> None:
        moved = replace(self.FIRST, event_at=at("10:00:00", NEXT_DAY), line_number=2)
        facts = scan(tmp_path, Lake(((self.FIRST, moved),))).facts
        assert [facts[day].billable for day in DAYS] == [0, 0]
        assert [facts[day].conflicts for day in DAYS] == [1, 1]

    def test_of_equal_ids_in_two_sources_are_none(self, tmp_path: Path) -> None:
        other = replace(self.SECOND, source="auth", status_code=200)
        assert scan(tmp_path, Lake(((self.FIRST,), (other,)))).facts[DAY].billable == 2
