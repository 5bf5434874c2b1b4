"""Charges of storage lead down to the snapshots and events behind each state."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing_pipeline.amounts import exact_product
from billing_pipeline.periods import Window
from billing_pipeline.timelines import ObjectEvent, RepositoryEvent, Snapshot, timeline
from resources.charge_reader import BookedCharge
from resources.storage_evidence import StorageEvidence, read_evidence
from resources.storage_lineage import read_segments, read_storage_rows
from tests.explained_world import ALL, GB, World, at
from tests.explained_world import world as world
from tests.storage_chain import Facts


def event(name: str, when: datetime, size: int | None, event_id: str, **fields: Any) -> tuple[str, ObjectEvent]:
    fields = {"object_id": event_id, "action": "put", "event_name": "PutObject"} | fields
    return name, ObjectEvent(event_id=event_id, at=when, size_bytes=size, **fields)


def listed(name: str, when: datetime, sizes: Mapping[str, int], **fields: Any) -> tuple[str, Snapshot]:
    objects = {key: (size, None) for key, size in sizes.items()}
    return name, Snapshot(at=when, size_bytes=sum(sizes.values()), objects=objects, **fields)


PRIVATE = {"visibility": "private", "owner": "ann"}
# cats: turns private, its first day is carried back from a snapshot. dogs: an object of the snapshot is overwritten and one
# deleted, an upload comes in parts, an action twice. mice: events alone, its owner comes late. birds: of somebody else.
FACTS = Facts(
    snapshots=[
        listed("ann/cats", at(1, 7), {"c": 2 * GB}, visibility="public", owner="ann"),
        listed("ann/cats", at(2, 7), {"c": 4 * GB}, **PRIVATE),
        listed("ann/dogs", at(1, 7), {"a": GB, "b": 2 * GB, "untouched": GB}, **PRIVATE),
        listed("bob/birds", at(1, 7), {"z": 9 * GB}, visibility="private", owner="bob"),
        # nothing says an owner but the first of them
        listed("ann/fish", at(1, 6), {"f": GB}, **PRIVATE),
        listed("ann/fish", at(1, 22), {"f": 3 * GB}),
    ],
    object_events=[
        event("ann/cats", at(1, 5), GB, "c"),
        event("ann/cats", at(1, 12), 2 * GB, "d"),
        event("ann/dogs", at(1, 20), 3 * GB, "put-a", object_id="a", shared_event_id="s"),
        event("ann/dogs", at(1, 20), 3 * GB, "put-a-again", object_id="a", shared_event_id="s"),
        event("ann/dogs", at(1) - timedelta(hours=1), GB, "part-1", object_id="u", action="part",
              event_name="UploadPart", upload_id="u", part_number=1),
        event("ann/dogs", at(2, 1), GB, "part-2", object_id="u", action="part", event_name="UploadPart", upload_id="u",
              part_number=2),
        event("ann/dogs", at(2, 3), None, "delete-b", object_id="b", action="delete", event_name="DeleteObject"),
        event("ann/dogs", at(2, 4), None, "done", object_id="u", event_name="CompleteMultipartUpload", upload_id="u"),
        event("ann/mice", at(1, 9), GB, "m"),
    ],
    repository_events=[
        ("ann/cats", RepositoryEvent(event_id="v", at=at(1, 14), kind="visibility", value="private")),
        ("ann/mice", RepositoryEvent(event_id="w", at=at(1, 8), kind="visibility", value="private")),
        ("ann/mice", RepositoryEvent(event_id="o", at=at(1, 10, 30), kind="owner", value="ann")),
    ],
)  # fmt: skip


def all_evidence(world: World, charge: BookedCharge) -> dict[str, list[StorageEvidence]]:
    """Return the facts of every state behind a charge of storage, by repository."""
    found: dict[str, list[StorageEvidence]] = {}
    seen = set()
    rows = read_storage_rows(world.database, charge, limit=ALL)
    for row in rows.first:
        segments = read_segments(world.database, row, visibility=rows.visibility, limit=ALL)
        assert segments.byte_seconds == row.quantity == sum(one.byte_seconds for one in segments.first)
        for segment in segments.first:
            state = (segment.repository, segment.state_start)
            if state not in seen:
                seen.add(state)
                evidence = read_evidence(world.database, world.lake, world.scratch, segment, limit=ALL)
                assert evidence.facts == len(evidence.first)
                found.setdefault(segment.repository, []).append(evidence)
    return found


def delivered_rows(
    world: World, repository: str, evidence: Sequence[StorageEvidence]
) -> dict[str, list[dict[str, Any]]]:
    """Return what was delivered where the facts say that they come from, by dataset, each row once."""
    with world.database.reading() as connection:
        keys = dict(connection.execute("select file_id, key from core.source_file").fetchall())
    places = {
        (fact.origin.key, fact.origin.line_number or fact.object_id or fact.at)
        for one in evidence
        for fact in one.first
        if fact.origin is not None
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for (dataset, _), rows in world.storage_deliveries.delivered.items():
        for row in rows:
            place: Callable[[], object] = {
                "core/storage_snapshots": lambda row=row: row["snapshot_at"].replace(tzinfo=UTC),
                "core/storage_objects": lambda row=row: row["object_id"],
            }.get(dataset, lambda row=row: row["line_number"])
            if row["repository"] == repository and (keys[row["file_id"]], place()) in places:
                found.setdefault(dataset, []).append(row)
    return found


def byte_seconds_of(rows: Mapping[str, list[dict[str, Any]]], period: Window, visibility: str | None) -> Decimal:
    """Return what delivered rows of one repository come to in a period, by the reference of timelines."""
    snapshots = [
        Snapshot(
            at=row["snapshot_at"].replace(tzinfo=UTC),
            size_bytes=row["bytes"],
            visibility=row["visibility"],
            owner=row["owner"],
            objects={
                one["object_id"]: (one["bytes"], one["version_id"])
                for one in rows.get("core/storage_objects", [])
                if one["snapshot_id"] == row["snapshot_id"]
            },
        )
        for row in rows.get("core/storage_snapshots", [])
    ]
    left_out = {"source", "repository", "event_at", "file_id", "line_number", "bytes"}
    events = [
        ObjectEvent(
            at=row["event_at"].replace(tzinfo=UTC),
            size_bytes=row["bytes"],
            **{name: value for name, value in row.items() if name not in left_out},
        )
        for row in rows.get("core/object_events", [])
    ]
    changes = [
        RepositoryEvent(
            at=row["event_at"].replace(tzinfo=UTC), event_id=row["event_id"], kind=row["kind"], value=row["value"]
        )
        for row in rows.get("core/visibility_events", [])
    ]
    total = Decimal(0)
    for one in timeline(snapshots, events, changes, end=at(4)).segments:
        held = period.overlap(one.start, one.end)
        if held is not None and one.owner == "ann" and visibility in (None, one.visibility):
            total += one.size_bytes * held.seconds
    return total


class TestStorageCharge:
    def test_leads_to_delivered_rows_that_rated_again_come_to_its_amount(self, world: World) -> None:
        world.keep(FACTS)
        visibilities = {"kept": "private", "kept_in_all": None}
        charges = [charge for price_id in visibilities for charge in world.charges(price_id)]
        assert [one.period.start for one in charges] == [at(1, 3, 37, 12), at(1, 14, 37, 12)] * 2
        for charge in charges:
            visibility = visibilities[charge.price_id]
            evidence = all_evidence(world, charge)
            assert "bob/birds" not in evidence
            total = sum(
                (
                    byte_seconds_of(delivered_rows(world, name, found), charge.period, visibility)
                    for name, found in evidence.items()
                ),
                Decimal(0),
            )
            rows = read_storage_rows(world.database, charge, limit=1)
            assert rows.byte_seconds == total > 0
            level = exact_product(total, times=Decimal(1), over=Decimal(rows.whole.seconds))
            assert rows.mean_bytes == level
            assert world.rated(charge, level) == charge.amount
            assert charge.amount.minor_units > 0

    def test_names_no_more_than_a_state_rests_on(self, world: World) -> None:
        world.keep(FACTS)
        (_, charge) = world.charges("kept")
        kinds = {
            name: [[(fact.kind, fact.at) for fact in one.first] for one in found]
            for name, found in all_evidence(world, charge).items()
        }
        # the day after a snapshot rests on it and on nothing before
        assert kinds["ann/cats"][-1] == [("snapshot", at(2, 7))]
        assert kinds["ann/dogs"][0] == [("snapshot", at(1, 7))]
        assert [kind for kind, _ in kinds["ann/dogs"][-1]] == [
            "object", "snapshot", "listed", "listed", "object", "object", "object", "object", "object",
        ]  # fmt: skip
        assert kinds["ann/fish"][-1] == [("snapshot", at(1, 6)), ("snapshot", at(1, 22))]
        assert kinds["ann/mice"][0] == [("visibility", at(1, 8)), ("object", at(1, 9)), ("owner", at(1, 10, 30))]

    def test_is_printed_with_its_level_and_the_facts_behind_each_state(
        self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        world.keep(FACTS)
        first, second = world.charges("kept_in_all")
        world.explain(first, monkeypatch, rows=24, lines=20)
        shown = capsys.readouterr().out
        seconds = f"{31 * 86400:,}"
        for part in (
            f"byte-seconds / {seconds} seconds of the whole period 2026-05-01 14:37:12 to 2026-06-01 14:37:12 = ",
            " byte on average, priced as GB-month",
            "2026-06-01 03:37:12 to 04:00:00 UTC: ",
            "ann/cats from 03:37:12: 1,000,000,000 byte x 1,368 s = 1,368,000,000,000",
            "by a later snapshot, events undone",
            "2026-06-01 05:00:00  PutObject of object c, 1,000,000,000 byte, undone  trail: 2026-06-02/",
            "2026-06-01 07:00:00  snapshot, 2,000,000,000 byte, public, ann  inventory: 2026-06-02/",
            "by events alone",
            "owner ann  application: 2026-06-02/",
            "(as above)",
        ):
            assert part in shown
        world.explain(second, monkeypatch, rows=48, lines=20)
        shown = capsys.readouterr().out
        for part in (
            "listed there, object a, 1,000,000,000 byte",
            "PutObject of object a, 3,000,000,000 byte, the same action",
            "DeleteObject of object b, no size",
            "visibility private  application: 2026-06-02/",
            "GB-month x 10 = ",
        ):
            assert part in shown
        world.explain(second, monkeypatch, rows=1, lines=1)
        shown = capsys.readouterr().out
        assert "states in all, " in shown
        assert "more rows: --rows" in shown

    def test_says_of_a_repository_that_a_complete_snapshot_leaves_out_that_nothing_names_it(self, world: World) -> None:
        world.keep(FACTS)
        with world.database.transaction() as connection:
            connection.execute(
                """
                insert into usage.storage_drift (event_day, repository, snapshot_at, derived_bytes, snapshot_bytes, drift_bytes,
                    visibility_mismatch, unsized_events, is_missing)
                values ('2026-06-02', 'ann/dogs', '2026-06-02T02:00Z', 6, 0, -6, false, 0, true)
                """
            )
        (_, charge) = world.charges("kept")
        last = all_evidence(world, charge)["ann/dogs"][-1]
        missing = next(fact for fact in last.first if fact.kind == "missing")
        assert (missing.at, missing.bytes, missing.origin) == (at(2, 2), 0, None)
        # who may see it was said before
        assert [fact.at for fact in last.first if fact.kind == "snapshot"] == [at(1, 7)]


class TestSearchFarBack:
    def test_goes_back_over_days_on_which_nothing_was_said(self, world: World) -> None:
        old = datetime(2026, 5, 20, 7, tzinfo=UTC)
        world.keep(Facts(snapshots=[listed("ann/old", old, {"x": GB}, **PRIVATE)], object_events=[
            event("ann/old", old + timedelta(days=10), GB, "y")]))  # fmt: skip
        (_, charge) = world.charges("kept")
        (*_, last) = all_evidence(world, charge)["ann/old"]
        assert [(fact.kind, fact.at) for fact in last.first] == [
            ("snapshot", old),
            ("object", old + timedelta(days=10)),
        ]
