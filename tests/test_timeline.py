"""A repository's timeline as people see it: printed, drawn, and as a picture in an asset's page."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import matplotlib.image
import pytest
from rich.console import Console

from assets.plots import INLINE_CHARACTERS
from assets.timeline_plot import timeline_picture
from console import timeline as page_of_timeline
from console.days import DayRange
from console.timeline import print_timeline
from console.timeline_plot import draw_timeline
from resources.database import Database
from resources.lake import Lake
from resources.runtime import Runtime
from resources.settings import Settings
from resources.storage_usage_store import StorageUsageStore
from resources.timeline_reader import (
    RepositoryTimeline,
    RepositoryUnknownError,
    TimelineReader,
    biggest_repository,
    read_drifts,
    read_timeline,
)
from tests.storage_chain import Facts, StorageDeliveries
from tests.storage_days import (
    EXAMPLE,
    GB,
    JUNE_1,
    JUNE_2,
    WITHOUT_PUT,
    at,
    build,
    load_catalog,
    put,
    snapshot,
    store_with,
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"), tmp_path / "scratch")


@pytest.fixture
def store(database: Database, lake: Lake, tmp_path: Path) -> StorageUsageStore:
    load_catalog(database, tmp_path / "catalog")
    return store_with(database, lake, tmp_path)


def delivered(store: StorageUsageStore, tmp_path: Path, facts: Facts) -> None:
    StorageDeliveries(store.database, store.lake, tmp_path).deliver(JUNE_2, facts)
    build(store)


def read(store: StorageUsageStore, repository: str = "ann/cats", **days: date) -> RepositoryTimeline:
    return read_timeline(store.database, store.lake, store.scratch_dir, repository, **days)


def printed(found: RepositoryTimeline) -> str:
    text = io.StringIO()
    print_timeline(Console(file=text, width=200), found)
    return text.getvalue()


class TestReading:
    def test_draws_states_together_over_midnight_and_finds_what_was_said(
        self, store: StorageUsageStore, tmp_path: Path
    ) -> None:
        delivered(store, tmp_path, EXAMPLE)
        found = read(store)
        assert [(one.start, one.end, one.bytes // GB, one.visibility, one.gb_hours) for one in found.states] == [
            (at(1, 5), at(1, 7), 2, "public", 4),
            (at(1, 7), at(1, 12), 2, "public", 10),
            (at(1, 12), at(1, 14), 4, "public", 8),
            (at(1, 14), at(2, 7), 4, "private", 68),
            (at(2, 7), at(3), 4, "private", 68),
        ]
        assert (found.gb_hours("private"), found.gb_hours("public")) == (136, 22)
        assert [(mark.at, mark.kind, mark.bytes) for mark in found.marks] == [
            (at(1, 5), "PutObject", 2 * GB),
            (at(1, 7), "snapshot", 2 * GB),
            (at(1, 12), "PutObject", 2 * GB),
            (at(1, 14), "visibility private", None),
            (at(2, 7), "snapshot", 4 * GB),
        ]
        assert found.drifts == ()

    def test_takes_the_days_that_are_asked_for(self, store: StorageUsageStore, tmp_path: Path) -> None:
        delivered(store, tmp_path, EXAMPLE)
        found = read(store, first=JUNE_2, last=JUNE_2)
        assert (found.states[0].start, found.gb_hours("private")) == (at(2), 96)
        assert [mark.at for mark in found.marks] == [at(2, 7)]
        assert read(store, first=JUNE_2 + timedelta(days=9)).states == ()

    def test_of_a_repository_that_nobody_knows_says_so(self, store: StorageUsageStore, tmp_path: Path) -> None:
        delivered(store, tmp_path, EXAMPLE)
        with pytest.raises(RepositoryUnknownError, match="'ann/dogs'"):
            read(store, "ann/dogs")

    def test_finds_the_biggest_repository_and_the_largest_drifts(
        self, store: StorageUsageStore, tmp_path: Path
    ) -> None:
        others = Facts(
            snapshots=[snapshot("bob/big", at(1), 99 * GB, "public"), snapshot("bob/big", at(2), 9 * GB, "public")]
        )
        delivered(store, tmp_path, WITHOUT_PUT + others)
        assert biggest_repository(store.database, JUNE_2) == "ann/cats"
        assert biggest_repository(store.database, JUNE_2 + timedelta(days=5)) is None
        assert [(one.repository, one.drift_bytes) for one in read_drifts(store.database)] == [
            ("bob/big", -90 * GB), ("ann/cats", 2 * GB),
        ]  # fmt: skip


class TestPrinting:
    def test_shows_states_totals_and_that_snapshots_agree(self, store: StorageUsageStore, tmp_path: Path) -> None:
        delivered(store, tmp_path, EXAMPLE)
        text = printed(read(store))
        assert re.search(
            r"2026-06-01 14:00:00 +2026-06-02 07:00:00 +4,000,000,000 +private +ann +acme +68 +snapshot and events",
            text,
        )
        assert "private 136 GB h (counts), public 22 GB h; 2 snapshots, 3 events" in text
        assert "Every snapshot agrees" in text

    def test_shows_drifts(self, store: StorageUsageStore, tmp_path: Path) -> None:
        delivered(store, tmp_path, WITHOUT_PUT)
        text = printed(read(store))
        assert re.search(r"2026-06-02 07:00:00 +2,000,000,000 +4,000,000,000 +\+2,000,000,000", text)

    def test_as_a_command_prints_and_draws_below_the_home(
        self,
        store: StorageUsageStore,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        delivered(store, tmp_path, EXAMPLE)
        settings = Settings(home=tmp_path / "home", landing_url="", lake_url=str(tmp_path / "lake"), catalog_dir=tmp_path,
                            billing_database_url=store.database.url, dagster_database_url=store.database.url)  # fmt: skip

        def already_running(_: Settings) -> Iterator[Runtime]:
            yield Runtime(settings=settings, database=store.database, dagster_database_url="", child_environment={})

        from contextlib import contextmanager

        monkeypatch.setattr(page_of_timeline, "running", contextmanager(already_running))
        page_of_timeline.show_timeline(settings, "ann/cats", DayRange(first=JUNE_1, last=JUNE_2))
        assert "Timeline of ann/cats" in capsys.readouterr().out
        assert (tmp_path / "home" / "plots" / "ann_cats.png").stat().st_size > 5_000


class TestThePageOfADay:
    def test_has_a_week_of_the_biggest_repository_or_of_one_that_is_named(
        self, store: StorageUsageStore, tmp_path: Path
    ) -> None:
        others = [snapshot("ann/old", at(1), GB), snapshot("ann/cats", at(9), 4 * GB), snapshot("ann/old", at(9), GB)]
        delivered(store, tmp_path, EXAMPLE + Facts(snapshots=others))
        page = TimelineReader(database=store.database, lake=store.lake, scratch_dir=store.scratch_dir)
        biggest = page.week_to(date(2026, 6, 9))
        assert biggest is not None
        assert (biggest.repository, biggest.states[0].start, biggest.states[-1].end) == ("ann/cats", at(3), at(10))
        # the week begins with the third; from the fifth to the eighth the days are held
        named = page.week_to(JUNE_2, "ann/old")
        assert named is not None
        assert [(one.start, one.end, one.bytes) for one in named.states] == [(at(1), at(3), GB)]
        assert page.week_to(date(2026, 5, 1)) is None
        with pytest.raises(RepositoryUnknownError):
            page.week_to(JUNE_2, "ann/none")

    def test_has_the_drifts_of_the_day_alone(self, store: StorageUsageStore, tmp_path: Path) -> None:
        delivered(store, tmp_path, WITHOUT_PUT)
        page = TimelineReader(database=store.database, lake=store.lake, scratch_dir=store.scratch_dir)
        assert page.drifts_of(JUNE_1, limit=10) == ()
        assert [one.drift_bytes for one in page.drifts_of(JUNE_2, limit=10)] == [2 * GB]


class TestPictures:
    def timeline(self, store: StorageUsageStore, tmp_path: Path) -> RepositoryTimeline:
        more = Facts(
            snapshots=[snapshot("ann/cats", at(day, 7), (4 + day % 3) * GB) for day in range(3, 8)],
            object_events=[put("ann/cats", at(day, 12), GB // 2) for day in range(3, 8)],
        )
        delivered(store, tmp_path, EXAMPLE + more)
        return read(store)

    def test_a_file_shows_both_shades_and_the_marks(self, store: StorageUsageStore, tmp_path: Path) -> None:
        path = draw_timeline(self.timeline(store, tmp_path), tmp_path / "plots" / "timeline.png")
        pixels = matplotlib.image.imread(path)
        colours = {tuple(round(float(part) * 255) for part in pixel[:3]) for row in pixels[::3] for pixel in row[::3]}

        def near(wanted: tuple[int, int, int]) -> bool:
            return any(
                max(abs(left - right) for left, right in zip(colour, wanted, strict=True)) < 12 for colour in colours
            )

        # the shades at 55 % on white, and the marks
        assert near((165, 156, 233))
        assert near((193, 220, 193))
        assert near((34, 34, 34))
        assert near((194, 87, 26))

    def test_an_asset_page_shows_it_without_a_click(self, store: StorageUsageStore, tmp_path: Path) -> None:
        markdown = timeline_picture(self.timeline(store, tmp_path))
        assert len(markdown) < INLINE_CHARACTERS
        match = re.fullmatch(r"!\[ann/cats\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", markdown)
        assert match
        picture = ElementTree.fromstring(base64.b64decode(match[1]))
        fills = [
            path.attrib["fill"] for path in picture.iter("{http://www.w3.org/2000/svg}path") if "fill" in path.attrib
        ]
        assert fills == ["#54d", "#9c9"]
        ticks = {
            path.attrib["stroke"]: path.attrib["d"].count("M")
            for path in picture.iter("{http://www.w3.org/2000/svg}path")
            if "stroke" in path.attrib
        }
        # seven snapshots; two puts and a flip of the example, five puts later
        assert ticks == {"#222": 7, "#c51": 8}
        assert "6,500,000,000" in "".join(picture.itertext())

    def test_of_nothing_says_so(self) -> None:
        empty = RepositoryTimeline(repository="r", states=(), marks=(), drifts=())
        assert timeline_picture(empty) == "r: nothing is stored."
        assert empty.gb_hours("private") == Decimal(0)
