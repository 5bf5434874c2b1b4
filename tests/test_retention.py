"""Retention removes what nothing names, and only that."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from resources import retention
from resources.lake import Lake
from resources.retention import ForeignLakeError, Retained, Retention
from tests.chain import DAYS, Call, Installation, Site, api_key, assert_same, lines, three_days
from tests.conftest import administer
from tests.dagster_fakes import World

NOW = datetime.now(UTC)
KEEP = timedelta(days=30)
LONG_AGO = NOW - timedelta(days=400)


@pytest.fixture
def installation(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """Return an installation with three days in the lake, two of which were read twice."""
    with Site(postgres_url, template_database, tmp_path_factory.mktemp("retention")).installation() as installation:
        for morning in three_days()[:3]:
            installation.deliver(morning)
        installation.bring_up_to_date()
        calls = [Call(request_id=f"late-{number}", at=NOW.replace(year=2026, month=3, day=1)) for number in range(2)]
        installation.deliver(
            [(api_key(day, "late"), lines(calls[number : number + 1])) for number, day in enumerate(DAYS[:2])]
        )
        installation.bring_up_to_date()
        yield installation


def age(installation: Installation, statement: str) -> None:
    """Set instants of PostgreSQL back, which no role of the pipeline can."""
    administer(installation.database.url, statement)


def remove_unused(installation: Installation, *, keep: timedelta = KEEP, as_of: datetime = NOW) -> Retained:
    kept = Retention(
        database=installation.database, lake=installation.lake, scratch_dir=installation.settings.scratch_dir
    )
    return kept.remove_unused(as_of=as_of, keep=keep)


def uris(installation: Installation) -> set[str]:
    return {file.uri for file in installation.lake.files()}


def current_uris(installation: Installation) -> set[str]:
    rows = installation.rows(
        "select uri from core.lake_partition join core.lake_generation using (dataset, partition_key, generation)"
    )
    return {uri for (uri,) in rows}


def leave(path: Path, *, modified_at: datetime = LONG_AGO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"left")
    os.utime(path, (modified_at.timestamp(), modified_at.timestamp()))
    return path


class TestGenerations:
    def test_that_were_replaced_long_ago_are_removed_and_the_current_ones_stay(
        self, installation: Installation
    ) -> None:
        before, history = installation.facts(), installation.rows("select * from core.lake_generation order by uri")
        assert len(uris(installation)) == 5
        age(installation, "update core.lake_partition set updated_at = now() - interval '31 days'")
        done = remove_unused(installation)
        assert (done.removed_generations, done.removed_unknown, done.kept_files) == (1, 0, 4)
        assert uris(installation) > current_uris(installation)
        assert done.kept_bytes == sum(file.size_bytes for file in installation.lake.files())
        assert installation.rows("select * from core.lake_generation order by uri") == history
        installation.build(DAYS)
        assert installation.book() == 0
        assert_same(installation.facts(), before, "after retention")

    def test_that_were_replaced_lately_stay_however_old_they_are(self, installation: Installation) -> None:
        age(installation, "update core.lake_generation set created_at = now() - interval '400 days'")
        for path in (installation.home / "lake").rglob("*.parquet"):
            os.utime(path, (1, 1))
        assert remove_unused(installation).removed_generations == 0
        assert len(uris(installation)) == 5

    def test_that_a_build_was_made_of_stay_until_the_day_is_built_again(self, installation: Installation) -> None:
        age(installation, "update core.lake_partition set updated_at = now() - interval '31 days'")
        # The second day's records are as they were in the generation that its usage was built from.
        assert remove_unused(installation).removed_generations == 1
        installation.build(DAYS)
        assert remove_unused(installation).removed_generations == 1
        assert uris(installation) == current_uris(installation)

    def test_are_kept_as_long_as_is_asked(self, installation: Installation) -> None:
        age(installation, "update core.lake_partition set updated_at = now() - interval '31 days'")
        assert remove_unused(installation, keep=timedelta(days=32)).removed_generations == 0
        assert remove_unused(installation, keep=timedelta(days=30)).removed_generations == 1

    def test_stay_where_no_pointer_says_which_one_counts(self, installation: Installation) -> None:
        age(installation, "truncate core.lake_partition, usage.build cascade")
        assert remove_unused(installation, keep=timedelta(0), as_of=NOW + KEEP).removed_generations == 0
        assert len(uris(installation)) == 5


class TestUnknownFiles:
    def test_of_killed_runs_are_removed_a_day_later(self, installation: Installation) -> None:
        folder = installation.home / "lake/core/request_records/day=2026-03-01"
        old = leave(folder / "gen=orphan.parquet")
        new = leave(folder / "gen=being-published.parquet", modified_at=NOW - timedelta(hours=23))
        known = uris(installation) - {path.relative_to(installation.home / "lake").as_posix() for path in (old, new)}
        done = remove_unused(installation)
        assert (done.removed_unknown, done.removed_bytes) == (1, 4)
        assert (old.exists(), new.exists()) == (False, True)
        assert uris(installation) > known

    def test_that_have_no_name_of_a_generation_are_not_the_lakes(self, installation: Installation) -> None:
        strange = leave(installation.home / "lake/notes/readme.parquet")
        assert remove_unused(installation).removed_unknown == 0
        assert strange.exists()

    def test_that_are_the_most_of_the_lake_are_somebody_elses(
        self, installation: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "UNKNOWN_FILES_WITHOUT_QUESTION", 4)
        folder = installation.home / "lake/core/request_records/day=2026-03-01"
        for number in range(4):
            leave(folder / f"gen=of-another-{number}.parquet")
        assert remove_unused(installation).removed_unknown == 4
        for number in range(6):
            leave(folder / f"gen=of-another-{number}.parquet")
        with pytest.raises(ForeignLakeError, match="6 files that this database does not know") as raised:
            remove_unused(installation)
        assert "BILLING_LAKE_URL" in raised.value.fix
        assert len(uris(installation)) == 5 + 6


class TestLeftovers:
    def test_of_dead_processes_are_removed_and_those_of_living_ones_stay(self, installation: Installation) -> None:
        scratch, lake = installation.settings.scratch_dir, installation.home / "lake"
        names = ("ingest-2026-03-01-aa.parquet", "ingest-2026-03-01-aa.hashes", "landing/x.tmp", "duckdb-1/spill.tmp")
        old = [leave(scratch / name) for name in names] + [leave(lake / "core/request_records/day=2026-03-01/.x.tmp")]
        os.utime(scratch / "duckdb-1", (1, 1))
        new = [
            leave(path.with_name(f"{path.name}-new.tmp"), modified_at=NOW) for path in old if "duckdb" not in str(path)
        ]
        assert remove_unused(installation).leftovers == len(old)
        assert not any(path.exists() for path in old)
        assert all(path.exists() for path in new if path.parent.name != "day=2026-03-01")

    def test_that_nobody_left_are_no_error(self, installation: Installation) -> None:
        empty = Retention(
            database=installation.database,
            lake=Lake(str(installation.home / "nowhere"), installation.home / "none"),
            scratch_dir=installation.home / "none",
        )
        assert empty.remove_unused(as_of=NOW, keep=KEEP) == Retained(
            removed_generations=0, removed_unknown=0, removed_bytes=0, leftovers=0, kept_files=0, kept_bytes=0
        )


class TestJob:
    def test_removes_with_the_age_that_is_configured_and_says_how_much(self) -> None:
        world = World()
        job = world.defs.resolve_job_def("remove_unused")
        config = {"ops": {"remove_unused_files": {"config": {"keep_days": 90}}}}
        with dg.DagsterInstance.ephemeral() as instance:
            assert job.execute_in_process(instance=instance).success
            result = job.execute_in_process(instance=instance, run_config=config)
        assert world.retention.asked == [timedelta(days=30), timedelta(days=90)]
        (output,) = result.filter_events(lambda event: event.is_successful_output)
        found = {name: value.value for name, value in output.step_output_data.metadata.items()}
        assert (found["removed_generations"], found["removed_bytes"], found["kept_files"]) == (3, 500, 7)

    def test_runs_once_a_week(self) -> None:
        schedule = World().defs.resolve_schedule_def("remove_unused_weekly")
        assert schedule.cron_schedule == "15 3 * * 0"
        assert schedule.job_name == "remove_unused"
