"""The storage SQL against the short reference, over random histories of repositories, cut into days."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing_pipeline.meters import Aggregation, Meter, MeterSource
from billing_pipeline.storage_policy import StoragePolicy
from billing_pipeline.timelines import (
    COMPLETION,
    ObjectEvent,
    RepositoryEvent,
    Segment,
    Snapshot,
    timeline,
)
from resources.storage_inputs import Base
from resources.storage_scan import DaySources, StorageScan
from resources.usage_rules import ClientAccount, ClientWindow, UsageRules
from tests.storage_chain import Facts, write_rows

# Of twenty repositories each.
EXAMPLES = int(os.environ.get("BILLING_STORAGE_EXAMPLES", "4"))
# More digits than the 28 of the default context.
EXACT = Context(prec=60)
FIRST_DAY = date(2026, 6, 1)
DAYS = [FIRST_DAY + timedelta(days=number) for number in range(3)]
MIDNIGHT = datetime(2026, 6, 1, tzinfo=UTC)
END = MIDNIGHT + timedelta(days=3)
NO_RULES = UsageRules(
    billable_rule=None,  # type: ignore[arg-type] - requests alone ask for it
    meters=(),
    client_accounts=(),
    client_windows=(),
    digests={},
)
# Few instants, objects and ids, so that histories collide: events at a snapshot's very instant, flips inside a second.
INSTANTS = st.builds(
    lambda half_days, hours, us: MIDNIGHT + half_days * timedelta(hours=12) + timedelta(hours=hours, microseconds=us),
    st.integers(0, 5),
    st.sampled_from([0, 1, 7]),
    st.sampled_from([0, 1, 500_000]),
)
SIZES = st.sampled_from([0, 1, 2_000_000_000, 10**15])
OWNERS = st.sampled_from([None, "ann", "bob"])
VERSIONS = st.sampled_from([None, "v1", "v2"])
OBJECTS = st.sampled_from(["a", "b", "c"])
SNAPSHOTS = st.builds(
    Snapshot,
    at=INSTANTS,
    size_bytes=SIZES,
    visibility=st.sampled_from([None, "public", "private"]),
    owner=OWNERS,
    objects=st.one_of(st.none(), st.dictionaries(OBJECTS, st.tuples(SIZES, VERSIONS), max_size=2)),
)


@st.composite
def object_events(draw: st.DrawFn) -> ObjectEvent:
    kind = draw(
        st.sampled_from(
            ["put", "put", "delete", "delete_version", "unsized", "delete_marker", "part", "copied part", "completed"]
        )
    )
    fields: dict[str, Any] = {
        "event_id": draw(st.uuids()).hex,
        "at": draw(INSTANTS),
        "object_id": draw(OBJECTS),
        "owner": draw(OWNERS),
        "version_id": draw(VERSIONS),
    }
    match kind:
        case "put":
            return ObjectEvent(action="put", event_name="PutObject", size_bytes=draw(SIZES), **fields)
        case "part" | "copied part":
            is_copy = kind == "copied part"
            return ObjectEvent(
                action="part",
                event_name="UploadPartCopy" if is_copy else "UploadPart",
                size_bytes=None if is_copy else draw(SIZES),
                upload_id="upload",
                part_number=draw(st.integers(1, 3)),
                **fields,
            )
        case "completed":
            return ObjectEvent(action="unsized", event_name=COMPLETION, upload_id="upload", **fields)
        case action:
            return ObjectEvent(action=action, event_name="Other", **fields)


REPOSITORY_EVENTS = st.builds(
    lambda event_id, at, change: RepositoryEvent(event_id=event_id.hex, at=at, kind=change[0], value=change[1]),
    st.uuids(),
    INSTANTS,
    st.sampled_from([("visibility", "public"), ("visibility", "private"), ("owner", "ann"), ("owner", "bob")]),
)
HISTORIES = st.builds(
    lambda snapshots, events, changes: (snapshots, events, changes),
    st.lists(SNAPSHOTS, max_size=3, unique_by=lambda one: one.at),
    st.lists(object_events(), max_size=8),
    st.lists(REPOSITORY_EVENTS, max_size=3),
)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """Return a history of which events come twice, to two accounts, and with corrections."""
    snapshots, events, changes = draw(HISTORIES)
    told = list(events)
    for event in events:
        match draw(st.sampled_from(["once", "twice", "shared", "corrected", "corrected twice", "in conflict"])):
            case "twice":
                told.append(event)
            case "in conflict":
                told.append(replace(event, owner="eve", size_bytes=3))
            case "shared":
                told.remove(event)
                told += [
                    replace(event, event_id=f"{event.event_id} {account}", shared_event_id=f"s {event.event_id}")
                    for account in "ab"
                ]
            case "corrected" | "corrected twice" as which:
                size = draw(SIZES)
                right = replace(
                    event, event_id=f"c {event.event_id}", original_event_id=event.event_id, size_bytes=size
                )
                told += [right, right] if which == "corrected twice" else [right]
    return snapshots, told, [*changes, *changes]


MANY = st.lists(deliveries(), min_size=20, max_size=20).map(
    lambda found: {f"r{number:02}": one for number, one in enumerate(found)}
)
Histories = dict[str, tuple[Any, Any, Any]]


@st.composite
def spread(draw: st.DrawFn) -> Histories:
    """Return histories of repositories that are spread over buckets; all that is said of an event names the same one."""
    places = st.sampled_from(["", "a", "b"])

    def placed(events: Sequence[ObjectEvent]) -> list[ObjectEvent]:
        buckets: dict[str, str] = {}
        return [replace(one, bucket=buckets.setdefault(one.event_id, draw(places))) for one in events]

    def measured(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        found = [replace(one, bucket=draw(places)) for one in snapshots]
        # another bucket is measured at the same instant, and may say something else
        for one in found[:1]:
            other = draw(st.sampled_from([place for place in ("", "a", "b") if place != one.bucket]))
            found.append(replace(draw(SNAPSHOTS), at=one.at, bucket=other))
        return found

    return {
        name: (measured(snapshots), placed(events), changes)
        for name, (snapshots, events, changes) in draw(MANY).items()
    }


def facts_of(histories: Mapping[str, tuple[Any, Any, Any]]) -> Facts:
    return Facts(
        snapshots=[(name, one) for name, (snapshots, _, _) in histories.items() for one in snapshots],
        object_events=[(name, one) for name, (_, events, _) in histories.items() for one in events],
        repository_events=[(name, one) for name, (_, _, changes) in histories.items() for one in changes],
    )


def source_of(snapshot: Snapshot) -> str:
    return f"{'table' if snapshot.objects is None else 'inventory'}{snapshot.bucket}"


class Chain:
    """Runs days through scans, as the store does, without PostgreSQL. `scans`: days of one connection."""

    def __init__(self, folder: Path, facts: Facts, *, days_per_scan: int = 3, rules: UsageRules = NO_RULES) -> None:
        self.folder, self.facts, self.rules, self.days_per_scan = folder, facts, rules, days_per_scan
        self.bases: dict[date, dict[tuple[str, str], tuple[date, Base]]] = {}
        self.states: list[tuple[Any, ...]] = []
        self.results: dict[date, Any] = {}
        self.paths = {
            # a delivery holds other days too: the scan takes the day's
            dataset: [write_rows(folder / f"{dataset.replace('/', '-')}.parquet", dataset, rows)] if rows else []
            for dataset, rows in facts.rows(source_of).items()
        }
        self.drifts: list[tuple[Any, ...]] = []
        self.usage: list[tuple[Any, ...]] = []
        self.run()
        if any(self.bases.values()):
            # what later days have found about how repositories began is known the second time
            self.run()

    def run(self) -> None:
        opening: Path | None = None
        self.states, self.drifts, self.usage = [], [], []
        for start in range(0, len(DAYS), self.days_per_scan):
            (assumed,) = {one.assumed_visibility for _, one in self.facts.snapshots} or {None}
            policy = self.policy(assumed)
            with StorageScan(self.rules, policy, opening=opening, scratch_dir=self.folder) as scan:
                for day in DAYS[start : start + self.days_per_scan]:
                    self.results[day] = scan.scan(self.sources(day))
                    opening = self.folder / f"tail-{day}.parquet"
                    scan.write_tail(opening)
                days = DAYS[start : start + self.days_per_scan]
                self.usage += [tuple(row.values()) for batch in scan.rows("usage", days) for row in batch.to_pylist()]
                self.states += [tuple(row.values()) for batch in scan.rows("states", days) for row in batch.to_pylist()]
                self.drifts += [tuple(row.values()) for batch in scan.rows("drifts", days) for row in batch.to_pylist()]
                for batch in scan.rows("bases", days):
                    for row in batch.to_pylist():
                        found = Base(**{name: row[name] for name in row if name not in ("event_day", "began_on")})
                        places = self.bases.setdefault(row["event_day"], {})
                        places[row["repository"], row["bucket"]] = row["began_on"], found

    def policy(self, assumed: str | None) -> StoragePolicy:
        """Return what an installation of these facts has decided: a source for each bucket with a list of objects or without."""
        buckets = {one.bucket for _, one in self.facts.snapshots} | {one.bucket for _, one in self.facts.object_events}
        named = {name: bucket for bucket in buckets for name in (f"inventory{bucket}", f"table{bucket}")}
        return StoragePolicy(
            assumed_visibility=dict.fromkeys(named, assumed) if assumed else {},
            indexed=frozenset(name for name in named if name.startswith("inventory")),
            is_divided=len(buckets) > 1,
            buckets=named,
        )

    def sources(self, day: date) -> DaySources:
        later: dict[tuple[str, str], dict[str, Any]] = {}
        for found_on in sorted(self.bases):
            for place, (began_on, base) in self.bases[found_on].items():
                if began_on <= day < found_on:
                    for name in ("base_bytes", "base_visibility", "base_owner"):
                        kept = later.setdefault(place, {})
                        kept[name] = kept.get(name) if kept.get(name) is not None else getattr(base, name)
        return DaySources(
            day=day,
            end=datetime.combine(day, time(), UTC) + timedelta(days=1),
            snapshots=self.paths["core/storage_snapshots"],
            listings=self.paths["core/storage_objects"],
            object_events=self.paths["core/object_events"],
            repository_events=self.paths["core/visibility_events"],
            later_bases=[Base(repository=name, bucket=bucket, **base) for (name, bucket), base in later.items()],
        )

    def segments(self, repository: str) -> list[tuple[Any, ...]]:
        """Return (start, end, bytes, visibility, owner, basis, byte-seconds) of a repository."""
        return [
            (start.replace(tzinfo=UTC), end.replace(tzinfo=UTC), size, visibility, owner, basis, byte_seconds)
            for _, name, start, end, size, visibility, owner, _, byte_seconds, basis in sorted(
                self.states, key=lambda row: row[:3]
            )
            if name == repository
        ]


def by_day(segments: Sequence[Segment]) -> list[tuple[Any, ...]]:
    """Return the reference's segments cut at midnight, as the table has them."""
    cut = []
    for one in segments:
        for day in DAYS:
            start = max(one.start, datetime.combine(day, time(), UTC))
            end = min(one.end, datetime.combine(day, time(), UTC) + timedelta(days=1))
            if start < end:
                part = Segment(start=start, end=end, size_bytes=one.size_bytes, visibility=one.visibility,
                               owner=one.owner, basis=one.basis)  # fmt: skip
                cut.append((start, end, one.size_bytes, one.visibility, one.owner, str(one.basis), part.byte_seconds))
    return cut


def assert_as_reference(chain: Chain, histories: Mapping[str, tuple[Any, Any, Any]]) -> None:
    integrals: Counter[tuple[date, str | None]] = Counter()
    repositories: dict[date, list[str]] = {day: [] for day in DAYS}
    for name, (snapshots, events, changes) in histories.items():
        expected = timeline(snapshots, events, changes, end=END)
        segments = by_day(expected.segments)
        assert chain.segments(name) == segments
        for start, end, size, visibility, *_ in segments:
            integrals[start.date(), visibility] += size * ((end - start) // timedelta(microseconds=1))
            repositories[start.date()].append(name)
        drifts = [
            (name, drift.bucket, drift.at.replace(tzinfo=None), drift.derived_bytes, drift.snapshot_bytes, drift.drift_bytes,
             drift.derived_visibility, drift.snapshot_visibility, drift.visibility_mismatch, drift.unsized_events)
            for drift in expected.drifts
            if drift.drift_bytes or drift.visibility_mismatch
        ]  # fmt: skip
        found = sorted(chain.drifts, key=lambda row: (row[1], row[3], row[2]))
        assert [row[1:-1] for row in found if row[1] == name] == drifts
    for day, facts in chain.results.items():
        assert facts.of_segments == facts.of_changes == facts.private + facts.public + facts.of_unknown_visibility
        assert [facts.private, facts.public, facts.of_unknown_visibility] == [
            integrals[day, visibility] for visibility in ("private", "public", None)
        ]
        assert (facts.repositories, facts.segments) == (len(set(repositories[day])), len(repositories[day]))


def put(when: datetime, size: int, key: str = "a", **fields: Any) -> ObjectEvent:
    return ObjectEvent(
        event_id=f"put {key} {when}",
        at=when,
        object_id=key,
        action="put",
        event_name="PutObject",
        size_bytes=size,
        **fields,
    )


def hour(hours: int, **fields: int) -> datetime:
    return MIDNIGHT + timedelta(hours=hours, **fields)


def turned(when: datetime, value: str, kind: str = "visibility", number: int = 0) -> RepositoryEvent:
    return RepositoryEvent(event_id=f"{number} {value} {when}", at=when, kind=kind, value=value)


def gone(when: datetime, key: str = "a") -> ObjectEvent:
    return ObjectEvent(event_id=f"gone {when}", at=when, object_id=key, action="delete", event_name="DeleteObject")


def over_buckets() -> tuple[Any, Any, Any]:
    """Return a repository in two buckets, one of which is measured later, emptied, and written to in between."""
    listed = [Snapshot(at=hour(1), size_bytes=10, bucket="a", owner="ann", visibility="private", objects={"a": (4, None)}),
              Snapshot(at=hour(25), size_bytes=7, bucket="b", owner="ann", objects={"b": (7, None)}),
              Snapshot(at=hour(30), size_bytes=11, bucket="a", owner="ann", objects={"a": (5, None)}),
              Snapshot(at=hour(49), size_bytes=0, bucket="b", owner="ann", objects={})]  # fmt: skip
    events = [put(hour(2), 5, "a", bucket="a"), put(hour(24), 2, "b", bucket="b"), put(hour(50), 3, "b", bucket="b")]
    return listed, events, [turned(hour(40), "public")]


PART = ObjectEvent(event_id="part 1", at=hour(20), object_id="big", action="part", event_name="UploadPart", size_bytes=5,
                   upload_id="u", part_number=1)  # fmt: skip
CASES: dict[str, tuple[Any, Any, Any]] = {
    "snapshot only": ([Snapshot(at=hour(7), size_bytes=5, visibility="private")], [], []),
    "events only": ([], [put(hour(5), 9, owner="ann"), put(hour(30), 2, "b")], [turned(hour(6), "private")]),
    "first snapshot days later": ([Snapshot(at=hour(60), size_bytes=50)], [put(hour(5), 9)], []),
    "more undone than there was": ([Snapshot(at=hour(60), size_bytes=5)], [put(hour(5), 9), put(hour(6), 9, "b")], []),
    "deleted and made again": ([Snapshot(at=hour(1), size_bytes=9, objects={"a": (9, None)})],
                               [gone(hour(2)), put(hour(30), 7), gone(hour(31)), put(hour(50), 8)], []),
    "flips inside a second": ([Snapshot(at=hour(1), size_bytes=9, visibility="public")], [],
                              [turned(hour(2, microseconds=us), value) for us, value in
                               ((1, "private"), (2, "public"), (999_999, "private"))]),
    "at one instant": ([Snapshot(at=hour(1), size_bytes=9, visibility="public")], [],
                       [turned(hour(2), "private", number=1), turned(hour(2), "public", number=2)]),
    "events at the snapshot": ([Snapshot(at=hour(1), size_bytes=9), Snapshot(at=hour(2), size_bytes=11)],
                               [put(hour(2), 2, "b")], [turned(hour(2), "private")]),
    "at midnight": ([Snapshot(at=hour(0), size_bytes=9), Snapshot(at=hour(24), size_bytes=10)],
                    [put(hour(24), 1, "b"), put(hour(48), 1, "c")], [turned(hour(48), "public")]),
    "moves": ([Snapshot(at=hour(0), size_bytes=9, owner="ann")], [],
              [turned(hour(24), "bob", "owner"), turned(hour(36), "ann", "owner")]),
    "upload over midnight": ([], [PART, ObjectEvent(event_id="done", at=hour(28), object_id="big", action="unsized",
                                                    event_name=COMPLETION, upload_id="u")], []),
    "over buckets": over_buckets(),
    "huge": ([Snapshot(at=hour(0), size_bytes=9 * 10**18, visibility="private")], [], []),
}  # fmt: skip


# An event's id is its own, whatever the repository.
CASES = {
    name: (snapshots, [replace(event, event_id=f"{name}: {event.event_id}") for event in events], changes)
    for name, (snapshots, events, changes) in CASES.items()
}


class TestAgainstTheReference:
    def test_named_histories_give_the_same_states_and_drifts(self, tmp_path: Path) -> None:
        chain = Chain(tmp_path, facts_of(CASES))
        assert_as_reference(chain, CASES)
        # so that the comparison is not one of nothing with nothing
        assert [state[2] for state in chain.segments("deleted and made again")] == [9, 9, 0, 0, 7, 0, 0, 8]
        assert [state[2] for state in chain.segments("first snapshot days later")] == [41, 50, 50, 50, 50]
        assert [state[3] for state in chain.segments("flips inside a second")][:5] == [
            "public", "public", "private", "public", "private",
        ]  # fmt: skip
        assert [state[2] for state in chain.segments("upload over midnight")] == [5, 5]
        assert [state[2] for state in chain.segments("over buckets")] == [10, 10, 11, 18, 18, 18, 18, 18, 11, 14]

    def test_days_one_by_one_give_what_one_run_gives(self, tmp_path: Path) -> None:
        together, apart = (
            Chain(tmp_path / name, facts_of(CASES), days_per_scan=days) for name, days in (("a", 3), ("b", 1))
        )
        assert sorted(map(repr, together.states)) == sorted(map(repr, apart.states))
        assert together.results == apart.results

    @pytest.mark.sql_reference(
        "storage_places",
        "storage_events",
        "storage_snapshots",
        "storage_actions",
        "storage_uploads",
        "storage_deltas",
        "storage_levels",
        "storage_words",
        "storage_segments",
        "storage_drifts",
        "storage_tails",
        "storage_tail_rows",
        "storage_facts",
    )
    @settings(max_examples=EXAMPLES)
    @given(histories=MANY, assumed=st.sampled_from([None, "private"]))
    def test_random_histories_give_the_same_states_and_drifts(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        histories: dict[str, tuple[Any, Any, Any]],
        assumed: str | None,
    ) -> None:
        histories = {
            name: ([replace(one, assumed_visibility=assumed) for one in snapshots], events, changes)
            for name, (snapshots, events, changes) in histories.items()
        }
        chain = Chain(tmp_path_factory.mktemp("scan"), facts_of(histories))
        assert_as_reference(chain, histories)

    @pytest.mark.sql_reference("storage_sums", "storage_snapshot_words", "storage_places", "storage_levels")
    @settings(max_examples=EXAMPLES)
    @given(histories=spread(), assumed=st.sampled_from([None, "private"]))
    def test_random_histories_over_buckets_give_the_same_states_and_drifts(
        self, tmp_path_factory: pytest.TempPathFactory, histories: Histories, assumed: str | None
    ) -> None:
        histories = {
            name: ([replace(one, assumed_visibility=assumed) for one in snapshots], events, changes)
            for name, (snapshots, events, changes) in histories.items()
        }
        chain = Chain(tmp_path_factory.mktemp("scan"), facts_of(histories))
        assert_as_reference(chain, histories)

    @pytest.mark.sql_reference("storage_hours", "storage_owners")
    @settings(max_examples=EXAMPLES)
    @given(
        histories=MANY,
        bounds=st.lists(st.integers(1, 71 * 60), min_size=2, max_size=2, unique=True).map(sorted),
        cut_minute=st.integers(0, 71 * 60).filter(lambda minute: minute % 60),
    )
    def test_hours_of_accounts_hold_the_bytes_of_their_states(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        histories: dict[str, tuple[Any, Any, Any]],
        bounds: list[int],
        cut_minute: int,
    ) -> None:
        left, right, cut = (MIDNIGHT + timedelta(minutes=minutes) for minutes in (*bounds, cut_minute))
        links = [("ann", "acme", MIDNIGHT, left), ("ann", "bolt", right, END), ("bob", "bolt", MIDNIGHT, END)]
        rules = rules_with(links, cut)
        chain = Chain(tmp_path_factory.mktemp("scan"), facts_of(histories), rules=rules)
        expected: Counter[tuple[str, datetime, datetime]] = Counter()
        held: dict[tuple[str, datetime, datetime], list[tuple[datetime, datetime]]] = {}
        for snapshots, events, changes in histories.values():
            for one in timeline(snapshots, events, changes, end=END).segments:
                for owner, account, valid_from, valid_to in links:
                    # both accounts have had ann as their client, so that her cut is theirs
                    for begin, end in windows_of(cut):
                        start, stop = max(one.start, valid_from, begin), min(one.end, valid_to, end)
                        if one.owner == owner and one.visibility == "private" and one.size_bytes and start < stop:
                            expected[account, begin, end] += one.size_bytes * (
                                (stop - start) // timedelta(microseconds=1)
                            )
                            held.setdefault((account, begin, end), []).append((start, stop))
        found = {
            (account, start.replace(tzinfo=UTC), end.replace(tzinfo=UTC)): (
                int(quantity.scaleb(6, EXACT)),
                repositories,
            )
            for _, account, _, start, end, quantity, _, repositories in chain.usage
        }
        assert found == {
            key: (size, max(sum(start <= at < stop for start, stop in held[key]) for at, _ in held[key]))
            for key, size in expected.items()
        }
        for facts in chain.results.values():
            assert (facts.of_accounts, facts.private_of_accounts) == (facts.of_hours, facts.private_of_hours)


def windows_of(cut: datetime) -> list[tuple[datetime, datetime]]:
    """Return the hours of the three days, that of `cut` in two."""
    bounds = sorted({cut, *(MIDNIGHT + timedelta(hours=number) for number in range(73))})
    return list(pairwise(bounds))


def rules_with(links: Sequence[tuple[str, str, datetime, datetime]], cut: datetime) -> UsageRules:
    meter = Meter(
        meter_id="private", version=1, aggregation=Aggregation.TIME_WEIGHTED, unit="byte", field="private_bytes",
        source=MeterSource.STORAGE,
    )  # fmt: skip
    accounts = tuple(
        ClientAccount(client_id=owner, account_id=account, valid_from=valid_from, valid_to=valid_to)
        for owner, account, valid_from, valid_to in links
    )
    hour = cut.replace(minute=0)
    windows = [(hour, cut), (cut, hour + timedelta(hours=1))]
    return replace(
        NO_RULES,
        meters=(meter,),
        client_accounts=accounts,
        client_windows=tuple(
            ClientWindow(client_id="ann", hour_start=hour, start=start, end=end) for start, end in windows
        ),
    )
