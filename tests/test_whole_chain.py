"""Laws over the whole chain, from files to ledger: order, repetition and splitting change nothing; what is late is corrected.

Stories are random and told by their seed; `BILLING_CHAIN_STORIES` makes more of them.
"""

import gzip
import hashlib
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from backports import zstd

from assets.code_version import code_version
from billing_pipeline.checks import Verdict, VerdictStatus
from resources import charge_guards, charge_store, guard_store
from resources.charge_usage import rated_batches
from resources.database import Database
from resources.lake import LakeFileMissingError
from resources.request_day_reader import AcceptedFileGoneError
from tests.chain import (
    DAYS,
    PRICES,
    RUN,
    Call,
    Facts,
    Installation,
    Site,
    api_key,
    assert_same,
    auth_key,
    avro,
    calls_of,
    ingest_all,
    lines,
    three_days,
    write_catalog,
)
from tests.conftest import administer

STORIES = int(os.environ.get("BILLING_CHAIN_STORIES") or 6)
# What does not depend on which file a line came in.
FREE_OF_FILES = ("usage", "not billable", "charges", "booked", "ledger", "unbalanced", "held")


OVERWRITTEN = three_days()[-1][-1]


@pytest.fixture(scope="module")
def site(postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(postgres_url, template_database, tmp_path_factory.mktemp("chain"))


@pytest.fixture
def installation(site: Site) -> Iterator[Installation]:
    with site.installation() as installation:
        yield installation


@pytest.fixture(scope="module")
def told_at_once(site: Site) -> Facts:
    """Return what comes of all calls in one file of each source, read once, built once, booked once."""
    with site.installation() as installation:
        installation.deliver(
            [
                (api_key(DAYS[2], "all.jsonl"), lines(all_calls("api"))),
                (auth_key(DAYS[2], "all.avro"), avro(all_calls("auth"))),
            ]
        )
        installation.bring_up_to_date()
        return installation.facts()


def all_calls(source: str) -> list[Call]:
    an_hour = {"api": 2, "auth": 1}[source]
    return [call for day in DAYS for call in calls_of(day, source=source, an_hour=an_hour)]


def free_of_files(facts: Facts) -> Facts:
    """Return what does not depend on files: rows, money, and every accepted request once."""
    requests = sorted({row[2:] for row in facts["lake"]}, key=repr)
    counted = [(row[1], row[2], row[6], row[7]) for row in facts["builds"]]
    return {**{name: facts[name] for name in FREE_OF_FILES}, "requests": requests, "counted": counted}


class Story:
    """A random way to deliver the same requests and to materialize meanwhile."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def deliveries(self) -> list[tuple[str, bytes]]:
        """Return files with every call at least once, split, repeated and mixed in any way."""
        files = []
        for source in ("api", "auth"):
            calls = all_calls(source)
            calls += self.chance.sample(calls, len(calls) // 10)
            self.chance.shuffle(calls)
            cuts = sorted(self.chance.sample(range(1, len(calls)), self.chance.randrange(1, 7)))
            for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(calls)], strict=True)):
                files.append(self._file(source, f"part-{number}", calls[start:end]))
        self.chance.shuffle(files)
        # A file that comes once more under another name.
        key, content = files[0]
        return [*files, (f"{key.rpartition('/')[0]}/again", content)]

    def _file(self, source: str, name: str, calls: Sequence[Call]) -> tuple[str, bytes]:
        day = DAYS[0] + timedelta(days=self.chance.randrange(6))
        if source == "auth":
            return auth_key(day, name), avro(calls, self.chance.choice(("null", "deflate", "zstandard")))
        pack = self.chance.choice((bytes, gzip.compress, zstd.compress))
        return api_key(day, name), pack(lines(calls))

    def meanwhile(self, installation: Installation) -> None:
        """Do some of what a scheduler or a person might do, on any days in any order."""
        for _ in range(self.chance.randrange(1, 4)):
            days = self.chance.sample(DAYS, self.chance.randrange(1, 4))
            match self.chance.choice(("look", "ingest", "build", "book", "load")):
                case "look":
                    installation.requests.discover(seen_at=datetime.now(UTC))
                case "ingest":
                    pending = list(installation.requests.delivery_days(pending_only=False))
                    self.chance.shuffle(pending)
                    installation.requests.ingest_days(pending[:2], run_id=RUN, code_version=code_version())
                case "build":
                    installation.build(days)
                case "book":
                    installation.book(days)
                case "load":
                    installation.catalog.load(installation.catalog_dir)


class TestAnyStory:
    @pytest.mark.parametrize("seed", range(STORIES))
    def test_of_the_same_requests_ends_in_the_same_usage_and_the_same_money(
        self, installation: Installation, told_at_once: Facts, seed: int
    ) -> None:
        story = Story(seed)
        installation.deliver([])
        installation.catalog.load(installation.catalog_dir)
        for file in story.deliveries():
            installation.deliver([file])
            if story.chance.random() < 0.4:
                story.meanwhile(installation)
        installation.bring_up_to_date()
        assert_same(free_of_files(installation.facts()), free_of_files(told_at_once), f"of story {seed}")

    def test_told_by_dagster_ends_as_the_one_told_by_the_stores(self, site: Site) -> None:
        with site.installation() as by_stores, site.installation() as by_dagster:
            first, second, third, last = three_days()
            for morning in ((*first, *second, *third), last):
                by_stores.deliver(morning)
                by_stores.bring_up_to_date()
                by_dagster.deliver(morning)
                by_dagster.bring_up_to_date_by_dagster()
            assert_same(by_dagster.facts(), by_stores.facts(), "by Dagster")


class TestReplay:
    def test_of_everything_in_any_order_writes_no_file_no_row_and_no_revision(self, installation: Installation) -> None:
        for morning in three_days():
            installation.deliver(morning)
            installation.bring_up_to_date()
        # A file that is held afterwards is in its delivery day's verdict when that day is looked at again.
        installation.requests.ingest_days(DAYS, run_id=RUN, code_version=code_version())
        before, counts, files = installation.facts(), history(installation), lake_files(installation)
        for day in reversed(DAYS):
            assert installation.book([day]) == 0
            installation.build([day])
            installation.requests.ingest_days([day], run_id=RUN, code_version=code_version())
        installation.bring_up_to_date()
        assert_same(installation.facts(), before, "after a replay")
        assert (history(installation), lake_files(installation)) == (counts, files)

    def test_from_the_landing_files_alone_gives_the_same_facts_and_books_nothing(
        self, installation: Installation
    ) -> None:
        for morning in three_days():
            # Of a file that was overwritten, what was read exists in the lake only.
            installation.deliver(file for file in morning if file != OVERWRITTEN)
            installation.bring_up_to_date()
        before, revisions = installation.facts(), history(installation)["billing.charge_revision"]
        shutil.rmtree(installation.home / "lake")
        administer(
            installation.database.url,
            "truncate core.lake_partition, usage.api_requests, usage.api_requests_not_billable, usage.build, usage.build_file",
        )
        days = installation.requests.delivery_days(pending_only=False)
        installation.requests.ingest_days(days, run_id=RUN, code_version=code_version())
        installation.bring_up_to_date()
        assert_same(installation.facts(), before, "after building everything again")
        assert history(installation)["billing.charge_revision"] == revisions


class TestLostLakeFile:
    def test_is_made_again_from_the_landing_files_when_its_day_is_ingested(self, installation: Installation) -> None:
        installation.deliver([*three_days()[0], *three_days()[1]])
        installation.bring_up_to_date()
        before = installation.facts()
        shutil.rmtree(installation.home / "lake")
        with pytest.raises(LakeFileMissingError) as raised:
            installation.build(DAYS)
        assert "ingest its delivery day again" in raised.value.fix
        ingest_all(installation)
        installation.build(DAYS[:2])
        assert_same(installation.facts(), before, "after the lake was lost")
        assert installation.book() == 0

    def test_whose_landing_file_is_gone_too_is_an_error_and_leaves_the_bill_alone(
        self, installation: Installation
    ) -> None:
        installation.deliver([*three_days()[0], *three_days()[1]])
        installation.bring_up_to_date()
        before = installation.facts()
        saved = installation.home / "lake"
        shutil.move(saved, installation.home / "elsewhere")
        landed = installation.home / "landing" / three_days()[0][0][0]
        content = landed.read_bytes()
        for instead in (None, b"other"):
            landed.unlink()
            if instead is not None:
                landed.write_bytes(instead)
            with pytest.raises(AcceptedFileGoneError, match=hashlib.sha256(content).hexdigest()):
                ingest_all(installation)
            landed.write_bytes(content)
        shutil.move(installation.home / "elsewhere", saved)
        ingest_all(installation)
        installation.bring_up_to_date()
        after = installation.facts()
        for name in ("usage", "charges", "booked", "ledger", "builds", "lake"):
            assert after[name] == before[name], name


class TestRestoredDatabase:
    def test_takes_in_and_books_once_what_came_after_the_backup(self, site: Site, installation: Installation) -> None:
        first, second, third, _ = three_days()
        installation.deliver([*first, *second])
        installation.bring_up_to_date()
        name = installation.database.url.rpartition("/")[2]
        # Sessions that are kept would hold the database that is copied.
        ended = f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{name}'"
        administer(site.postgres_url, ended)
        administer(site.postgres_url, f'create database "{name}_backup" template "{name}"')
        installation.deliver(third)
        installation.bring_up_to_date()
        backup = replace(installation, database=Database(f"{installation.database.url}_backup"))
        backup.bring_up_to_date()
        assert_same(backup.facts(), installation.facts(), "after a restore")
        assert backup.book() == 0
        administer(site.postgres_url, f'drop database "{name}_backup" with (force)')


class TestParts:
    def test_of_the_books_add_up_to_the_whole(self, installation: Installation, told_at_once: Facts) -> None:
        installation.deliver([(api_key(DAYS[0], "all"), lines(all_calls("api")))])
        installation.deliver([(auth_key(DAYS[0], "all"), avro(all_calls("auth")))])
        installation.ingest()
        installation.catalog.load(installation.catalog_dir)
        for day in (DAYS[1], DAYS[2], DAYS[0]):
            installation.build([day])
            installation.book([day])
        by_day = installation.rows(
            "select event_day, currency, sum(delta_minor) from billing.charge_revision group by 1, 2 order by 1, 2"
        )
        total = installation.rows(
            "select currency, sum(delta_minor) from billing.charge_revision group by 1 order by 1"
        )
        assert {day for day, _, _ in by_day} == set(DAYS)
        assert [(currency, sum(row[2] for row in by_day if row[1] == currency)) for currency, _ in total] == total
        assert_same(free_of_files(installation.facts()), free_of_files(told_at_once), "day by day")


class TestLateFile:
    def test_makes_only_its_own_days_due_and_only_the_difference_is_booked(self, installation: Installation) -> None:
        late = [call for call in calls_of(DAYS[1]) if call.at.hour == 14 and call.at.minute >= 20]
        calls = [call for day in DAYS for call in calls_of(day) if call not in late]
        auth = [call for day in DAYS for call in calls_of(day, source="auth", an_hour=1)]
        installation.deliver([(api_key(DAYS[2], "a"), lines(calls)), (auth_key(DAYS[2], "b"), avro(auth))])
        installation.bring_up_to_date()
        before = installation.facts()
        installation.deliver([(api_key(DAYS[2] + timedelta(days=9), "late"), lines(late))])
        installation.ingest()
        assert installation.usage.stale_days() == (DAYS[1],)
        assert installation.charges.unbooked_days() == ()
        installation.build()
        assert installation.charges.unbooked_days() == (DAYS[1],)
        changed = installation.book(installation.charges.unbooked_days())
        after = installation.facts()
        assert usage_of(after, DAYS[0]) == usage_of(before, DAYS[0])
        assert usage_of(after, DAYS[2]) == usage_of(before, DAYS[2])
        assert requests_in(after, DAYS[1]) - requests_in(before, DAYS[1]) == sum(is_counted(call) for call in late)
        second = installation.rows(
            "select charge_id, delta_minor, amount_minor from billing.charge_revision where revision = 2"
        )
        first: dict[Any, int] = dict(before["booked"])
        assert len(second) == changed > 0
        assert all(first[charge_id] + delta == amount for charge_id, delta, amount in second)

    def test_of_a_day_that_nobody_has_seen_makes_that_day_due(self, installation: Installation) -> None:
        installation.deliver([(api_key(DAYS[2], "a"), lines(calls_of(DAYS[2]))), (auth_key(DAYS[2], "b"), avro([]))])
        installation.bring_up_to_date()
        installation.deliver([(api_key(DAYS[2], "old"), lines(calls_of(date(2026, 1, 31))))])
        installation.ingest()
        assert installation.usage.stale_days() == (date(2026, 1, 31),)


class TestConflict:
    def test_that_comes_after_billing_leaves_the_billed_version_billed(self, installation: Installation) -> None:
        first, second, third, last = three_days()
        installation.deliver([*first, *second, *third])
        installation.bring_up_to_date()
        before = installation.facts()
        (late,) = (content for key, content in last if key.endswith("late.jsonl"))
        contradiction = late.splitlines(keepends=True)[-1]
        installation.deliver([(api_key(DAYS[2], "contradiction"), contradiction)])
        installation.bring_up_to_date()
        after = installation.facts()
        for name in ("usage", "not billable", "charges", "booked", "ledger", "held"):
            assert after[name] == before[name], name
        ((source, event_id, content_sha256, actor, reason),) = after["decisions"]
        assert (source, actor, reason) == ("api", "billing_pipeline", "already billed")
        assert {row[1] for row in after["conflicts"]} == {event_id}
        assert content_sha256 in {row[5] for row in after["conflicts"]}

    def test_before_billing_keeps_both_versions_out(self, installation: Installation) -> None:
        calls = calls_of(DAYS[0])
        twice = next(call for call in calls if is_counted(call))
        other = Call(request_id=twice.request_id, at=twice.at, client_id=twice.client_id, response_bytes=1)
        auth = (auth_key(DAYS[0], "b"), avro(calls_of(DAYS[0], source="auth", an_hour=1)))
        installation.deliver([(api_key(DAYS[0], "a"), lines(calls)), (api_key(DAYS[1], "c"), lines([other])), auth])
        installation.bring_up_to_date()
        facts = installation.facts()
        counted = sum(is_counted(call) for call in [*calls, *calls_of(DAYS[0], source="auth", an_hour=1)])
        assert requests_in(facts, DAYS[0]) == counted - 1
        assert facts["held"] == [("usage/api_requests", DAYS[0].isoformat(), "no_conflict", "warned")]


class TestMissingHours:
    def test_hold_their_day_and_no_other_until_they_come(self, installation: Installation) -> None:
        gone = [call for call in calls_of(DAYS[1]) if call.at.hour in (10, 11)]
        calls = [call for day in DAYS for call in calls_of(day) if call not in gone]
        auth = [call for day in DAYS for call in calls_of(day, source="auth", an_hour=1)]
        installation.deliver([(api_key(DAYS[2], "a"), lines(calls)), (auth_key(DAYS[2], "b"), avro(auth))])
        installation.bring_up_to_date()
        facts = installation.facts()
        assert [row[2] for row in facts["builds"]] == ["built", "held", "built"]
        assert [row[1:] for row in facts["held"]] == [(DAYS[1].isoformat(), "hours_delivered", "held")]
        assert {row[0] for row in facts["usage"]} == {DAYS[0], DAYS[2]}
        assert facts["charges"]
        assert not facts["unbalanced"]
        installation.deliver([(api_key(DAYS[2], "gone"), lines(gone))])
        installation.bring_up_to_date()
        assert [row[2] for row in installation.facts()["builds"]] == ["built"] * 3
        assert {row[0] for row in installation.facts()["usage"]} == set(DAYS)

    def test_or_any_other_hold_keep_the_last_good_usage_billed(self, installation: Installation) -> None:
        for morning in three_days()[:2]:
            installation.deliver(morning)
        installation.bring_up_to_date()
        before = installation.facts()
        flood = [
            Call(request_id=f"n-{n}", at=calls_of(DAYS[0])[n].at, status_code=code)
            for n in range(5)
            for code in (200, 500)
        ]
        installation.deliver([(api_key(DAYS[2], "flood"), lines(flood))])
        installation.bring_up_to_date()
        after = installation.facts()
        assert ("usage/api_requests", DAYS[0].isoformat(), "no_conflict", "held") in after["held"]
        for name in ("usage", "charges", "booked", "ledger"):
            assert after[name] == before[name], name


class TestUnbookedDays:
    def test_are_those_that_a_run_built_and_did_not_live_to_book(self, installation: Installation) -> None:
        installation.deliver([file for morning in three_days() for file in morning[:3]])
        installation.ingest()
        installation.catalog.load(installation.catalog_dir)
        installation.build()
        assert installation.usage.stale_days() == ()
        assert installation.charges.unbooked_days() == DAYS
        installation.bring_up_to_date_by_dagster()
        assert installation.facts()["booked"]
        assert installation.charges.unbooked_days() == ()

    def test_are_all_under_a_new_price_whose_difference_is_booked(self, installation: Installation) -> None:
        installation.deliver([file for morning in three_days() for file in morning[:3]])
        installation.bring_up_to_date()
        before: dict[Any, int] = dict(installation.facts()["booked"])
        price = PRICES + (
            '[[price.versions]]\nversion = 2\neffective_from = 2026-03-02T06:00:00Z\nmodel = "standard"\nunit_price = "0.5"\n'
        )
        installation.catalog.load(write_catalog(installation.home / "dearer", prices=price))
        assert installation.usage.stale_days() == ()
        assert installation.charges.unbooked_days() == DAYS
        assert installation.book(installation.charges.unbooked_days()) > 0
        assert sum(dict(installation.facts()["booked"]).values()) > sum(before.values())
        assert installation.charges.unbooked_days() == ()

    def test_are_none_that_a_guard_holds_until_a_person_releases_it(
        self, installation: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installation.deliver([file for morning in three_days()[:2] for file in morning])
        installation.ingest()
        installation.catalog.load(installation.catalog_dir)
        installation.build()
        judge = charge_guards.judge

        def holding(*arguments: Any, **named: Any) -> tuple[Verdict, ...]:
            found = judge(*arguments, **named)
            return tuple(
                replace(verdict, status=VerdictStatus.HELD) if verdict.guard == "charges_equal_usage" else verdict
                for verdict in found
            )

        monkeypatch.setattr(charge_guards, "judge", holding)
        assert installation.book(DAYS[:2]) == 0
        assert installation.facts()["booked"] == []
        assert installation.charges.unbooked_days() == ()
        for day in DAYS[:2]:
            guard_store.release(
                installation.database,
                asset="billing/charges",
                partition_key=day.isoformat(),
                guard="charges_equal_usage",
                actor="jo",
                reason="looked at",
            )
        assert installation.charges.unbooked_days() == DAYS[:2]
        assert installation.book(DAYS[:2]) > 0
        assert installation.charges.unbooked_days() == ()

    def test_include_one_whose_usage_was_built_again_while_it_was_booked(
        self, installation: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installation.deliver([file for morning in three_days()[:3] for file in morning])
        installation.bring_up_to_date()
        installation.deliver([(api_key(DAYS[2], "more"), lines([Call(request_id="m", at=calls_of(DAYS[0])[0].at)]))])
        installation.ingest()

        def built_before_rated(*arguments: Any, **named: Any) -> Any:
            installation.build()
            return rated_batches(*arguments, **named)

        monkeypatch.setattr(charge_store, "rated_batches", built_before_rated)
        installation.book([DAYS[0]])
        assert installation.charges.unbooked_days() == (DAYS[0],)


def history(installation: Installation) -> dict[str, int]:
    """Return how many rows each append-only table has."""
    tables = (
        "core.lake_generation",
        "core.request_conflict_decision",
        "billing.charge_revision",
        "billing.ledger_posting",
    )
    return {table: installation.rows(f"select count(*) from {table}")[0][0] for table in tables}


def lake_files(installation: Installation) -> list[str]:
    return sorted(path.name for path in (installation.home / "lake").rglob("*") if path.is_file())


def usage_of(facts: Facts, day: date) -> list[tuple[Any, ...]]:
    return [row for row in facts["usage"] if row[0] == day]


def requests_in(facts: Facts, day: date) -> int:
    """Return the requests that the day's usage counts."""
    return int(sum(row[8] for row in usage_of(facts, day) if row[2] == "requests"))


def is_counted(call: Call) -> bool:
    return call.status_code == 200 and call.is_real and call.client_id != "c_nobody" and "user" not in call.endpoint
