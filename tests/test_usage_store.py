"""Usage of event days in PostgreSQL: what is built, what is stale, what is held, and what two runs at once end in."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from billing_pipeline.catalog import Catalog, parse_catalog
from resources import guard_store, usage_store
from resources.catalog_store import CatalogNotLoadedError, CatalogStore
from resources.conflict_store import decide
from resources.database import Database
from resources.lake import Lake
from resources.usage_rules import usage_rules
from resources.usage_store import ASSET, DayBuild, InputsKeepChangingError, UsageStore
from tests.usage_days import Deliveries, Request, numbered

DAY, NEXT_DAY, THIRD_DAY = date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3)

CATALOG = {
    "billable.toml": """
        version = 1
        success_statuses = [[200, 299]]
        endpoints = [{ method = "GET", endpoint = "/odometer" }]
    """,
    "meters.toml": """
        [[meter]]
        id = "requests"
        aggregation = "count"
        unit = "request"
        [[meter]]
        id = "p50"
        aggregation = "percentile"
        field = "response_time_us"
        percentile = "50"
        unit = "us"
    """,
    "prices.toml": """
        [[price]]
        id = "price"
        meter = "requests"
        currency = "USD"
        [[price.versions]]
        version = 1
        effective_from = 2025-01-01T00:00:00Z
        model = "standard"
        unit_price = "0.01"
    """,
    "plans.toml": """
        [[plan]]
        id = "plan"
        prices = ["price"]
    """,
    "accounts.toml": """
        [[account]]
        id = "acme"
        name = "Acme"
        time_zone = "America/New_York"
        currency = "USD"
        clients = [{ id = "client_acme" }, { id = "client_new", valid_from = 2026-03-02T09:30:00Z }]
    """,
    "subscriptions.toml": """
        [[subscription]]
        id = "sub"
        account = "acme"
        plan = "plan"
        starts_at = 2026-01-01T19:37:12Z
        anchor_day = 1
        anchor_time = 14:37:12
    """,
}


def at(hour: int, minute: int = 0, second: int = 0, *, day: date = DAY) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=UTC)


def load_catalog(database: Database, folder: Path, **changed: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in (CATALOG | {f"{stem}.toml": text for stem, text in changed.items()}).items():
        (folder / name).write_text(text)
    CatalogStore(database).load(folder)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"), tmp_path / "scratch")


@pytest.fixture
def deliveries(database: Database, lake: Lake, tmp_path: Path) -> Deliveries:
    return Deliveries(database, lake, tmp_path)


@pytest.fixture
def store(database: Database, lake: Lake, tmp_path: Path) -> UsageStore:
    load_catalog(database, tmp_path / "catalog")
    return UsageStore(database=database, lake=lake, scratch_dir=tmp_path / "scratch", memory_limit="256MB", threads=1)


def build(store: UsageStore, *days: date) -> tuple[DayBuild, ...]:
    return store.build_days(days or store.stale_days(), run_id="run", code_version="1")


def usage(store: UsageStore) -> list[tuple[Any, ...]]:
    """Return what a bill is made of, and what is not billable, without who built it when."""
    with store.database.reading() as connection:
        rows = connection.execute("select * from usage.api_requests order by 1, 2, 3, 4, 6, 7, 8").fetchall()
        rows += connection.execute("select * from usage.api_requests_not_billable order by 1, 2, 3, 4").fetchall()
    return rows


def requests(count: int, *, day: date = DAY, prefix: str = "e", **fields: Any) -> list[Request]:
    return numbered(
        Request(event_id=f"{prefix}{number}", event_at=at(number % 24, day=day), **fields) for number in range(count)
    )


class TestBuildDays:
    def test_writes_rows_counts_and_verdicts_of_each_day(self, store: UsageStore, deliveries: Deliveries) -> None:
        deliveries.deliver(
            DAY, requests(5) + numbered([Request(event_id="x", event_at=at(3), status_code=500, file_id=2)])
        )
        (result,) = build(store, DAY)
        assert (result.state, result.records_read, result.billable) == ("built", 6, 5)
        assert result.not_billable_by_reason == {"not_successful": 1}
        assert result.quantity_by_meter == {"requests": 5}
        assert result.top_accounts == (("acme", 5),)
        assert result.requests_by_hour[:6] == (1, 1, 1, 2, 1, 0)
        assert [verdict.status for verdict in result.verdicts] == ["passed"] * 4
        with store.database.reading() as connection:
            assert guard_store.verdicts(connection, ASSET, ["2026-03-01"]) == tuple(
                sorted(result.verdicts, key=lambda verdict: verdict.guard)
            )
            row = connection.execute(
                "select state, records_read, billable_records, not_billable_records, usage_rows, inputs_digest"
                " from usage.build"
            ).fetchone()
            files = connection.execute("select count(*) from usage.build_file").fetchone()
        assert row == ("built", 6, 5, 1, 10, result.inputs_digest)
        assert files == (2,)

    def test_cuts_an_hour_where_a_billing_period_begins(self, store: UsageStore, deliveries: Deliveries) -> None:
        # the anchor is 14:37:12 in New York, which is 19:37:12 UTC on March 1st
        times = [at(19, 37, 11), at(19, 37, 12), at(19, 59), at(20)]
        deliveries.deliver(DAY, numbered(Request(event_id=str(time), event_at=time) for time in times))
        build(store, DAY)
        rows = [(row[3], row[4], row[8]) for row in usage(store) if row[2] == "requests"]
        cut = at(19, 37, 12)
        assert rows == [(at(19), cut, 1), (cut, at(20), 2), (at(20), at(21), 1)]

    def test_starts_a_client_in_the_middle_of_an_hour(self, store: UsageStore, deliveries: Deliveries) -> None:
        times = [at(9, 29, 59, day=NEXT_DAY), at(9, 30, day=NEXT_DAY)]
        new = [Request(event_id=str(time), event_at=time, client_id="client_new") for time in times]
        deliveries.deliver(NEXT_DAY, numbered(new))
        (result,) = build(store, NEXT_DAY)
        assert (result.billable, result.not_billable_by_reason) == (1, {"unknown_client": 1})

    def test_again_changes_nothing(self, store: UsageStore, deliveries: Deliveries) -> None:
        deliveries.deliver(DAY, requests(30))
        first = build(store, DAY)
        before = usage(store)
        assert build(store, DAY) == first
        assert usage(store) == before

    def test_replaces_the_rows_of_a_day_that_changed_and_of_no_other(
        self, store: UsageStore, deliveries: Deliveries
    ) -> None:
        deliveries.deliver(DAY, requests(3) + numbered(requests(2, day=NEXT_DAY, prefix="n", file_id=2)))
        build(store)
        deliveries.deliver(THIRD_DAY, requests(4, prefix="late", file_id=3))
        assert store.stale_days() == (DAY,)
        build(store)
        counted = {row[0]: 0 for row in usage(store)}
        for row in usage(store):
            counted[row[0]] += row[8] if row[2] == "requests" else 0
        assert counted == {DAY: 7, NEXT_DAY: 2}
        assert store.stale_days() == ()

    def test_of_nothing_that_was_ever_delivered_builds_an_empty_day(self, store: UsageStore) -> None:
        (result,) = build(store, DAY)
        assert (result.state, result.records_read, result.usage_rows) == ("built", 0, 0)

    def test_of_more_days_than_one_transaction_takes_all_of_them(
        self, store: UsageStore, deliveries: Deliveries
    ) -> None:
        days = [DAY + timedelta(days=number) for number in range(70)]
        deliveries.deliver(DAY, numbered(Request(event_id=str(day), event_at=at(5, day=day)) for day in days))
        told: list[tuple[str, int, int]] = []
        results = store.build_days(
            days, run_id="run", code_version="1", on_progress=lambda *progress: told.append(progress)
        )
        assert [(result.day, result.billable) for result in results] == [(day, 1) for day in days]
        assert told == [("event days", 32, 70), ("event days", 64, 70), ("event days", 70, 70)]
        assert len(usage(store)) == 140

    def test_without_a_catalog_says_so(self, database: Database, lake: Lake, tmp_path: Path) -> None:
        with pytest.raises(CatalogNotLoadedError):
            UsageStore(database=database, lake=lake, scratch_dir=tmp_path).build_days(
                [DAY], run_id="run", code_version="1"
            )


def forget_usage(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("delete from usage.api_requests")
        connection.execute("delete from usage.api_requests_not_billable")


class TestGroupsOfDays:
    """A range is written in groups, side by side where their rows are few; `ROWS_HELD` says what is few."""

    DAYS = [DAY + timedelta(days=number) for number in range(7)]

    @pytest.fixture
    def strict(self, store: UsageStore, deliveries: Deliveries) -> UsageStore:
        """Return a store that holds the third and the sixth of the days, on which hours are missing."""
        for number, day in enumerate(self.DAYS):
            hours = 20 if number in (2, 5) else 24
            served = requests(hours, day=day, prefix=f"{number}-", file_id=number + 1)
            refused = requests(2, day=day, prefix=f"{number}-no-", file_id=number + 1, status_code=500)
            deliveries.deliver(day, numbered(served + refused))
        return replace(store, expectations={"api": frozenset(range(24))}, threads=2)

    @pytest.mark.parametrize("rows_held", [0, 60, 1 << 18], ids=["none few", "some few", "all few"])
    def test_end_in_the_rows_and_states_of_one_group(
        self, strict: UsageStore, monkeypatch: pytest.MonkeyPatch, rows_held: int
    ) -> None:
        expected = build(strict, *self.DAYS)
        assert [one.state for one in expected] == ["held" if number in (2, 5) else "built" for number in range(7)]
        rows = usage(strict)
        assert {row[0] for row in rows} == set(self.DAYS) - {self.DAYS[2], self.DAYS[5]}
        forget_usage(strict.database)
        monkeypatch.setattr(usage_store, "DAYS_PER_TRANSACTION", 2)
        monkeypatch.setattr(usage_store, "ROWS_HELD", rows_held)
        told: list[int] = []
        results = strict.build_days(
            self.DAYS, run_id="run", code_version="1", on_progress=lambda _stage, done, _total: told.append(done)
        )
        assert results == expected
        assert usage(strict) == rows
        assert told == [2, 4, 6, 7]

    def test_that_fail_leave_the_others_whole_and_are_built_by_the_next_run(
        self, strict: UsageStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = build(strict, *self.DAYS)
        rows = usage(strict)
        forget_usage(strict.database)
        monkeypatch.setattr(usage_store, "DAYS_PER_TRANSACTION", 2)
        real = usage_store.copy_arrow

        def fails_at_the_fourth(connection: Any, table: str, batches: Any) -> int:
            held = list(batches)
            if any(self.DAYS[3] in batch.column("event_day").to_pylist() for batch in held):
                real(connection, table, held)
                raise RuntimeError("no more")
            return real(connection, table, held)

        monkeypatch.setattr(usage_store, "copy_arrow", fails_at_the_fourth)
        with pytest.raises(RuntimeError, match="no more"):
            build(strict, *self.DAYS)
        written = {row[0] for row in usage(strict) if row in rows}
        assert {self.DAYS[0], self.DAYS[1]} <= written
        assert not written & {self.DAYS[2], self.DAYS[3]}
        monkeypatch.setattr(usage_store, "copy_arrow", real)
        assert build(strict, *self.DAYS) == expected
        assert usage(strict) == rows


class TestLateDeliveries:
    @pytest.mark.parametrize(("cuts", "order"), [((3, 15), (2, 0, 1)), ((10, 10), (1, 2, 0)), ((0, 20), (0, 2, 1))])
    def test_in_any_order_end_in_what_one_build_of_everything_gives(
        self, store: UsageStore, deliveries: Deliveries, cuts: tuple[int, int], order: Sequence[int]
    ) -> None:
        everything = requests(10) + numbered(requests(10, prefix="f", file_id=2, response_time_us=5))
        copies = [replace(everything[4], file_id=3), replace(everything[12], file_id=3)]
        first, last = cuts
        parts = [everything[:first], everything[first:last], everything[last:] + numbered(copies)]
        days = [DAY, NEXT_DAY, THIRD_DAY]
        for day in days:
            deliveries.deliver(day, [])
        for number in order:
            deliveries.deliver(days[number], parts[number])
            build(store, DAY)
        step_by_step = usage(store)
        for day in days:
            deliveries.deliver(day, [])
        deliveries.deliver(DAY, everything)
        build(store, DAY)
        assert usage(store) == step_by_step

    def test_that_repeat_a_request_count_it_once(self, store: UsageStore, deliveries: Deliveries) -> None:
        deliveries.deliver(DAY, requests(5))
        deliveries.deliver(NEXT_DAY, requests(5, file_id=2))
        (result,) = build(store, DAY)
        assert (result.records_read, result.billable, result.duplicates) == (10, 5, 5)


class TestConflicts:
    def conflict(self, deliveries: Deliveries, *, sound: int = 0) -> None:
        deliveries.deliver(
            DAY, requests(sound, prefix="sound") + numbered([Request(event_id="c", event_at=at(1), file_id=2)])
        )
        other = Request(event_id="c", event_at=at(1), response_bytes=11, file_id=3)
        deliveries.deliver(NEXT_DAY, numbered([other]))

    def listed(self, store: UsageStore) -> list[Any]:
        with store.database.reading() as connection:
            return connection.execute(
                "select event_id, content_sha256 from core.request_conflict order by file_id"
            ).fetchall()

    def test_stay_out_of_usage_are_listed_and_warned_of(self, store: UsageStore, deliveries: Deliveries) -> None:
        self.conflict(deliveries, sound=3)
        (result,) = build(store, DAY)
        assert (result.state, result.billable, result.conflicts) == ("built", 3, 2)
        assert [verdict.guard for verdict in result.verdicts if verdict.status == "warned"] == ["no_conflict"]
        assert [event_id for event_id, _ in self.listed(store)] == ["c", "c"]

    def test_count_the_version_that_a_person_decided_for(self, store: UsageStore, deliveries: Deliveries) -> None:
        self.conflict(deliveries, sound=3)
        build(store)
        chosen = self.listed(store)[1][1]
        days = decide(
            store.database, source="api", event_id="c", content_sha256=chosen, actor="ann", reason="asked the customer"
        )
        assert store.stale_days() == days == (DAY,)
        (result,) = build(store)
        assert (result.billable, result.conflicts) == (4, 1)
        assert store.stale_days() == ()

    def test_leave_billed_what_was_billed_before(self, store: UsageStore, deliveries: Deliveries) -> None:
        deliveries.deliver(DAY, numbered([Request(event_id="c", event_at=at(1))]))
        build(store)
        before = usage(store)
        other = Request(event_id="c", event_at=at(1), response_bytes=11, response_time_us=7, file_id=3)
        deliveries.deliver(NEXT_DAY, numbered([other]))
        for _ in range(2):
            (result,) = build(store, DAY)
            assert (result.billable, result.conflicts) == (1, 1)
            assert usage(store) == before
        with store.database.reading() as connection:
            decisions = connection.execute(
                "select actor, reason, content_sha256 from core.request_conflict_decision"
            ).fetchall()
        assert decisions == [("billing_pipeline", "already billed", self.listed(store)[0][1])]
        assert store.stale_days() == ()

    def test_leave_billed_what_was_billed_on_another_day_of_the_same_delivery(
        self, store: UsageStore, deliveries: Deliveries
    ) -> None:
        billed = numbered([Request(event_id="c", event_at=at(1, day=NEXT_DAY))])
        deliveries.deliver(THIRD_DAY, billed)
        build(store)
        before = usage(store)
        other = [
            Request(event_id="c", event_at=at(23), file_id=2),
            Request(event_id="bad", event_at=at(2, day=NEXT_DAY), status_code=500, file_id=2),
        ]
        deliveries.deliver(THIRD_DAY, billed + numbered(other))
        for days in ((DAY,), (NEXT_DAY,), (DAY,), (NEXT_DAY, DAY)):
            build(store, *days)
            assert [row for row in usage(store) if row[1] == "acme"] == [row for row in before if row[1] == "acme"]
        assert store.stale_days() == ()

    @pytest.mark.parametrize("order", [[(DAY,), (NEXT_DAY,)], [(NEXT_DAY,), (DAY,)], [(DAY, NEXT_DAY)]])
    def test_on_two_days_of_one_file_stay_open_in_whatever_order_the_days_are_built(
        self, store: UsageStore, deliveries: Deliveries, order: list[tuple[date, ...]]
    ) -> None:
        deliveries.deliver(
            THIRD_DAY,
            numbered(Request(event_id="c", event_at=at(23, day=day)) for day in (DAY, NEXT_DAY)),
        )
        for days in (*order, (NEXT_DAY,), (DAY,)):
            for result in build(store, *days):
                assert (result.billable, result.conflicts) == (0, 1)
                assert [one.status for one in result.verdicts if one.guard == "no_conflict"] == ["warned"]
        assert usage(store) == []
        assert store.stale_days() == ()

    def test_of_many_requests_hold_the_day_until_it_is_released(
        self, store: UsageStore, deliveries: Deliveries
    ) -> None:
        deliveries.deliver(DAY, requests(5))
        build(store)
        before = usage(store)
        deliveries.deliver(DAY, requests(9, prefix="more"))
        deliveries.deliver(NEXT_DAY, requests(9, prefix="more", response_bytes=11, file_id=2))
        (result,) = build(store)
        assert (result.state, result.conflicts) == ("held", 18)
        assert usage(store) == before
        with store.database.reading() as connection:
            assert guard_store.held_partitions(connection, ASSET, ["2026-03-01"]) == {"2026-03-01": ("no_conflict",)}
        assert store.stale_days() == ()
        guard_store.release(
            store.database, asset=ASSET, partition_key="2026-03-01", guard="no_conflict", actor="ann", reason="known"
        )
        assert store.stale_days() == (DAY,)
        (released,) = build(store)
        assert (released.state, released.billable) == ("built", 0)
        assert [verdict.status for verdict in released.verdicts if verdict.guard == "no_conflict"] == ["released"]
        assert store.stale_days() == ()


class TestHoursDelivered:
    def test_hold_a_day_with_a_gap_and_let_the_others_of_a_range_through(
        self, store: UsageStore, deliveries: Deliveries
    ) -> None:
        strict = replace(store, expectations={"api": frozenset(range(24))})
        deliveries.deliver(DAY, requests(24))
        deliveries.deliver(NEXT_DAY, requests(23, day=NEXT_DAY, prefix="n"))
        whole, gap, nothing = build(strict, DAY, NEXT_DAY, THIRD_DAY)
        assert [whole.state, gap.state, nothing.state] == ["built", "held", "held"]
        (verdict,) = [verdict for verdict in gap.verdicts if verdict.guard == "hours_delivered"]
        assert verdict.actual == "no records in api: 23 (UTC)"
        assert {row[0] for row in usage(store)} == {DAY}

    def test_release_is_not_for_the_next_delivery(self, store: UsageStore, deliveries: Deliveries) -> None:
        strict = replace(store, expectations={"api": frozenset(range(24))})
        deliveries.deliver(DAY, requests(20))
        build(strict, DAY)
        guard_store.release(
            store.database, asset=ASSET, partition_key="2026-03-01", guard="hours_delivered", actor="ann", reason="ok"
        )
        deliveries.deliver(DAY, requests(21))
        (result,) = build(strict, DAY)
        assert result.state == "held"


class TestRecordsConserved:
    def test_holds_a_day_that_has_fewer_records_in_the_lake_than_in_files(
        self, store: UsageStore, deliveries: Deliveries
    ) -> None:
        deliveries.deliver(DAY, requests(5))
        with store.database.transaction() as connection:
            connection.execute("update core.source_file_day set accepted_rows = accepted_rows + 1")
        (result,) = build(store)
        assert result.state == "held"
        assert usage(store) == []


class TestStaleDays:
    def test_are_those_never_built_with_new_files_or_without_files_any_more(
        self, store: UsageStore, deliveries: Deliveries
    ) -> None:
        assert store.stale_days() == ()
        deliveries.deliver(DAY, requests(3) + numbered(requests(3, day=NEXT_DAY, prefix="n", file_id=2)))
        assert store.stale_days() == (DAY, NEXT_DAY)
        build(store, DAY)
        assert store.stale_days() == (NEXT_DAY,)
        build(store)
        deliveries.deliver(DAY, requests(3))
        assert store.stale_days() == (NEXT_DAY,)
        (result,) = build(store)
        assert (result.day, result.records_read) == (NEXT_DAY, 0)
        assert {row[0] for row in usage(store)} == {DAY}
        assert store.stale_days() == ()

    def test_are_those_to_which_a_change_of_the_rules_matters(
        self, store: UsageStore, deliveries: Deliveries, tmp_path: Path
    ) -> None:
        deliveries.deliver(DAY, requests(3) + numbered(requests(3, day=THIRD_DAY, prefix="n", file_id=2)))
        build(store)
        one_more = CATALOG["accounts.toml"].replace("}]", '}, { id = "other", valid_from = 2026-03-02T00:00:00Z }]')
        load_catalog(store.database, tmp_path / "catalog", accounts=one_more)
        assert store.stale_days() == (THIRD_DAY,)

    def test_of_ten_thousand_files_and_four_hundred_days_are_found_at_once(
        self, store: UsageStore, deliveries: Deliveries
    ) -> None:
        with store.database.transaction() as connection:
            connection.execute(
                """
                with files as (
                    insert into core.source_file (source, key, content_sha256, size_bytes, delivery_day,
                        first_seen_at, modified_at, status, profile_version, lines_read, accepted_rows)
                    select 'api', number::text, encode(sha256(number::text::bytea), 'hex'), 1,
                        date '2026-01-01' + number % 400, now(), now(), 'accepted', 1, 1, 1
                    from generate_series(1, 10000) as number
                    returning file_id, delivery_day
                )
                insert into core.source_file_day select file_id, delivery_day, 1 from files
                """
            )
        started = datetime.now(tz=UTC)
        assert len(store.stale_days()) == 400
        # under a second on an idle machine; the bound only tells one statement from 400
        assert datetime.now(tz=UTC) - started < timedelta(seconds=10)


class TestChangesWhileBuilding:
    @pytest.fixture
    def interrupted(self, store: UsageStore, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Return a list of actions; each build that has scanned, and not yet written, takes one and runs it."""
        actions: list[Any] = []
        original = UsageStore._scan

        def scan(self: UsageStore, plan: Any) -> Any:
            result = original(self, plan)
            if actions:
                actions.pop(0)()
            return result

        monkeypatch.setattr(UsageStore, "_scan", scan)
        return actions

    def test_end_in_the_newest_inputs(self, store: UsageStore, deliveries: Deliveries, interrupted: list[Any]) -> None:
        deliveries.deliver(DAY, requests(3) + numbered(requests(2, day=NEXT_DAY, prefix="n", file_id=2)))
        interrupted.append(lambda: deliveries.deliver(THIRD_DAY, requests(4, prefix="late", file_id=3)))
        results = build(store, DAY, NEXT_DAY)
        assert [(result.day, result.billable) for result in results] == [(DAY, 7), (NEXT_DAY, 2)]
        assert store.stale_days() == ()

    def test_by_another_build_keep_what_that_build_has_billed(
        self, store: UsageStore, deliveries: Deliveries, interrupted: list[Any]
    ) -> None:
        first = numbered([Request(event_id="c", event_at=at(1))])
        other = numbered([Request(event_id="c", event_at=at(1), response_bytes=11, file_id=2)])

        def bill_the_first_alone() -> None:
            deliveries.deliver(NEXT_DAY, [])
            build(store, DAY)
            deliveries.deliver(NEXT_DAY, other)

        deliveries.deliver(DAY, first)
        deliveries.deliver(NEXT_DAY, other)
        interrupted.append(bill_the_first_alone)
        (result,) = build(store, DAY)
        assert (result.billable, result.conflicts) == (1, 1)

    def test_without_end_are_given_up_and_named(
        self, store: UsageStore, deliveries: Deliveries, interrupted: list[Any]
    ) -> None:
        deliveries.deliver(DAY, requests(1))
        sizes = iter(range(2, 10))
        interrupted.extend([lambda: deliveries.deliver(DAY, requests(next(sizes)))] * 8)
        with pytest.raises(InputsKeepChangingError, match="2026-03-01"):
            build(store, DAY)
        assert usage(store) == []

    def test_by_two_runs_at_once_end_in_one_result(self, store: UsageStore, deliveries: Deliveries) -> None:
        deliveries.deliver(DAY, requests(40))
        deliveries.deliver(NEXT_DAY, requests(20, day=NEXT_DAY, prefix="n", file_id=2))
        results: list[tuple[DayBuild, ...]] = []
        days = [(DAY, NEXT_DAY), (NEXT_DAY, DAY)]
        runs = [threading.Thread(target=lambda order=order: results.append(build(store, *order))) for order in days]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        assert results[0] == results[1]
        assert sum(row[8] for row in usage(store) if row[2] == "requests") == 60


class TestUsageRules:
    def catalog(self, **changed: str) -> Catalog:
        files = CATALOG | {f"{stem}.toml": text for stem, text in changed.items()}
        return parse_catalog({name: text.encode() for name, text in files.items()})

    def digests(self, **changed: str) -> dict[date, str]:
        return dict(usage_rules(self.catalog(**changed), [DAY, NEXT_DAY, THIRD_DAY]).digests)

    def changed_days(self, **changed: str) -> list[date]:
        before, after = self.digests(), self.digests(**changed)
        return [day for day in before if before[day] != after[day]]

    def test_digest_of_a_day_changes_with_the_meters_of_every_day(self) -> None:
        meters = CATALOG["meters.toml"].replace('"50"', '"51"')
        assert self.changed_days(meters=meters) == [DAY, NEXT_DAY, THIRD_DAY]

    def test_digest_of_a_day_changes_with_a_client_of_that_day_alone(self) -> None:
        later = CATALOG["accounts.toml"].replace("2026-03-02T09:30", "2026-03-02T09:31")
        assert self.changed_days(accounts=later) == [NEXT_DAY]

    def test_digest_of_a_day_changes_with_a_cut_of_that_day_alone(self) -> None:
        later = CATALOG["subscriptions.toml"].replace("anchor_day = 1", "anchor_day = 2")
        assert self.changed_days(subscriptions=later) == [DAY, NEXT_DAY]

    def test_digest_does_not_depend_on_the_other_days_that_are_asked_for(self) -> None:
        alone = usage_rules(self.catalog(), [NEXT_DAY]).digests[NEXT_DAY]
        assert self.digests()[NEXT_DAY] == alone

    def test_windows_of_a_client_fill_the_hour_that_is_cut(self) -> None:
        windows = usage_rules(self.catalog(), [DAY]).client_windows
        assert [(one.client_id, one.start, one.end) for one in windows] == [
            ("client_acme", at(19), at(19, 37, 12)),
            ("client_acme", at(19, 37, 12), at(20)),
        ]
