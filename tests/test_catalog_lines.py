"""Where something stands in a catalog file, and that every error of rating says so, with its fix."""

import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.billing_schedule import scheduled_charges
from billing_pipeline.catalog import FILES, Catalog, CatalogError, Finding, Kind, Place, parse_catalog
from billing_pipeline.catalog.files import LIST_OF
from billing_pipeline.catalog.lines import line_of
from billing_pipeline.period_charges import period_charges
from billing_pipeline.periods import Window
from billing_pipeline.rating import Cells, Transactions, UnratableError, VersionUsage, Windows
from billing_pipeline.usage_slots import Slots, period_usage
from resources.catalog_places import errors_placed
from resources.settings import PROJECT_ROOT
from tests.test_catalog import BASE

TRICKY = """# [[price]] and id = "two" in a comment
[[price]]
id = "one" # the first
note = '''
[[price]]
id = "two"
'''
[[price]]
"id" = "two"
versions = [
    { version = 7, tiers = [
        { up_to = "10", flat_fee = "1,5]" },

        { above = "12" },   # a gap
    ] },
    { version = 8, unit_price = "[\\"}" }
]
[[price]]
id = "three"
  [[price.versions]]
  version = 1
  [[price.versions]]
  version = 2
  model = "standard"
  [price.versions.window]
  seconds = 7
"""


class TestLines:
    @pytest.mark.parametrize(
        ("entry", "field", "version", "line"),
        [
            ("one", "id", None, 3),
            ("one", "versions.1.model", None, 3),
            ("two", "versions.1.tiers.1.up_to", None, 12),
            ("two", "versions.1.tiers.2.above", None, 14),
            ("two", "versions.1.tiers.3", None, 11),
            ("two", "versions.2.unit_price", None, 16),
            ("two", "tiers", 7, 11),
            ("two", "unit_price", 8, 16),
            ("three", "versions.2.model", None, 24),
            ("three", "versions.2.window.seconds", None, 26),
            ("three", "model", 2, 24),
            ("three", "tiers", 1, 20),
            ("three", "", None, 19),
            ("four", "model", None, None),
        ],
    )
    def test_are_found_whatever_the_file_looks_like(
        self, entry: str, field: str, version: int | None, line: int | None
    ) -> None:
        place = Place(kind=Kind.PRICE, entry_id=entry, field=field, version=version)
        assert line_of(place, TRICKY.encode()) == line

    @given(st.text(max_size=80))
    def test_never_fail_on_a_text_that_is_no_catalog(self, text: str) -> None:
        place = Place(kind=Kind.PRICE, entry_id="one", field="versions.1.tiers")
        line = line_of(place, f"{text}\n[[price]]\nid = 'one'\n".encode(errors="replace"))
        assert line is None or line >= 1

    @pytest.mark.parametrize("kind", sorted(set(FILES) - {Kind.BILLABLE_RULE, Kind.PLAN}))
    def test_of_the_shipped_catalog_are_those_of_its_ids(self, kind: Kind) -> None:
        content = (PROJECT_ROOT / "catalog" / FILES[kind]).read_bytes()
        lines = content.decode().splitlines()
        for entry in tomllib.loads(content.decode()).get(LIST_OF[kind], []):
            line = line_of(Place(kind=kind, entry_id=entry["id"]), content)
            assert line is not None
            assert lines[line - 1].strip().startswith("id")
            assert entry["id"] in lines[line - 1]


MODELS = {
    "bounded": 'model = "graduated"\ntiers = [{ up_to = "10", unit_price = "1" }]',
    "standard": 'model = "standard"\nunit_price = "1"',
    "matrix": 'model = "matrix"\ndimensions = ["method"]\ncells = [{ method = "GET", unit_price = "1" }]',
    "windows": 'model = "standard"\nunit_price = "1"\nwindow = { seconds = 3600 }',
    "percentage": 'model = "percentage"\npercent = "1"\nfree_events = 1',
}
MARCH = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))


class Folder:
    """A catalog folder with one price, and its charge of March."""

    def __init__(self, path: Path, figures: str, meter: str = "") -> None:
        self.path = path
        prices = BASE["prices.toml"].replace('model = "standard"\nunit_price = "0.10"', figures)
        meters = BASE["meters.toml"] if not meter else f'[[meter]]\nid = "requests"\nunit = "us"\n{meter}\n'
        for name, text in {**BASE, "prices.toml": prices, "meters.toml": meters}.items():
            (path / name).write_text(text)

    @property
    def catalog(self) -> Catalog:
        """Return what the files say."""
        return parse_catalog({path.name: path.read_bytes() for path in self.path.glob("*.toml")})

    def rate(
        self, quantity: str, detail: Transactions | Windows | Cells | None = None, events: int | None = None
    ) -> None:
        """Rate a quantity of March."""
        catalog = self.catalog
        (scheduled,) = scheduled_charges(catalog, catalog.subscriptions["s1"], MARCH)
        slot = Slots(catalog).slot(scheduled)
        usage = VersionUsage(version=slot.versions[0][0], quantity=Decimal(quantity), detail=detail, events=events)
        list(period_charges(catalog, [period_usage(slot, {"": (usage,)})]))

    def line(self, text: str) -> int:
        """Return the line of prices.toml that has `text`."""
        lines = (self.path / "prices.toml").read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if text in line)


class TestErrorsOfRating:
    @pytest.mark.parametrize(
        ("model", "quantity", "detail", "written", "fix"),
        [
            ("bounded", "10.5", None, "tiers =", "whose last tier is open"),
            ("standard", "-1", None, "model =", "find the usage rows below 0"),
            ("matrix", "1", Cells(quantities=((("PUT",), Decimal(1)),)), "cells =", "a cell for it"),
            ("matrix", "1", None, "dimensions =", "grouped by these dimensions"),
            (
                "windows",
                "-1",
                Windows(quantities=((MARCH.start, Decimal(-1)),)),
                "model =",
                "find the usage rows below 0",
            ),
            ("windows", "1", None, "window =", "told by windows"),
            ("percentage", "5", None, "model =", 'transactions = "ordered"'),
            ("percentage", "5", Transactions(counts=((Decimal(-5), 1), (Decimal(10), 1))), "model =", "count refunds"),
        ],
    )
    def test_names_account_period_file_line_and_fix(
        self, tmp_path: Path, model: str, quantity: str, detail: Transactions | None, written: str, fix: str
    ) -> None:
        meter = (
            'aggregation = "sum"\nfield = "response_time_us"\ntransactions = "ordered"' if model == "percentage" else ""
        )
        folder = Folder(tmp_path, MODELS[model], meter)
        with pytest.raises(UnratableError) as caught, errors_placed(tmp_path):
            folder.rate(quantity, detail)
        said = str(caught.value)
        assert f"(line {folder.line(written)})" in said
        for part in ("'each'", "account 'acme'", "subscription 's1'", "2026-03-01T00:00:00+00:00", "prices.toml", fix):
            assert part in said

    def test_names_a_part_of_a_period_without_a_version(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path, MODELS["standard"])
        catalog = folder.catalog
        window = Window(datetime(2025, 3, 1, tzinfo=UTC), MARCH.end)
        (scheduled,) = list(scheduled_charges(catalog, catalog.subscriptions["s1"], MARCH))
        early = type(scheduled.period)(window, window)
        with (
            pytest.raises(
                UnratableError, match=r"no version at 2025-03-01.*account 'acme'.*\[prices.toml: each \(line 3\)"
            ),
            errors_placed(tmp_path),
        ):
            Slots(catalog).slot(type(scheduled)(scheduled.subscription, scheduled.price, early, "plain", ()))

    def test_names_the_file_where_there_is_no_folder(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path, MODELS["bounded"])
        with pytest.raises(UnratableError, match=r"\[prices.toml: each: version 1: tiers\]"), errors_placed(None):
            folder.rate("11")
        with (
            pytest.raises(UnratableError, match=r"\[prices.toml: each: version 1: tiers\]"),
            errors_placed(tmp_path / "gone"),
        ):
            folder.rate("11")

    def test_names_lines_of_a_kept_catalog_that_is_wrong(self, tmp_path: Path) -> None:
        Folder(tmp_path, MODELS["bounded"])
        finding = Finding(
            file="prices.toml", entry="each", field="versions.1.tiers.1.up_to", message="is wrong: correct it"
        )
        with pytest.raises(CatalogError, match=r"is wrong: correct it \(line 10\)"), errors_placed(tmp_path):
            raise CatalogError([finding])


class TestFindings:
    """What is wrong with a catalog is named with file, line and what to do."""

    @pytest.mark.parametrize(
        ("changes", "place", "fix"),
        [
            ({"prices.toml": ('"USD"', '"US1"')}, "prices.toml: each: currency", "such as USD (line 5)"),
            (
                {"prices.toml": ('model = "standard"\nunit_price = "0.10"',
                                 'model = "volume"\ntiers = [\n{ up_to = "5" },\n{ above = "6", up_to = "9" },\n{ above = "8" }]')},
                "versions.1.tiers.2.above",
                "write that, or leave it out (line 12)",
            ),
            (
                {"prices.toml": ('model = "standard"\nunit_price = "0.10"',
                                 'model = "volume"\ntiers = [\n{ up_to = "5" },\n{ above = "4" }]')},
                "versions.1.tiers.2.above",
                "overlaps the tier before, which ends at 5: write that, or leave it out (line 12)",
            ),
            (
                {"plans.toml": ('["each"]', '["each", "each2"]'),
                 "prices.toml": ('"0.10"\n', '"0.10"\n' + BASE["prices.toml"].replace('"each"', '"each2"'))},
                "plans.toml: plain: prices",
                "would bill meter 'requests' twice: leave one of them in the plan (line 3)",
            ),
            (
                {"prices.toml": ('"USD"', '"EUR"')},
                "subscriptions.toml: s1: plan: price 'each' is in EUR, the account in USD",
                "put it on a plan in its currency, or correct the one that is wrong (line",
            ),
            ({"prices.toml": ('meter = "requests"\n', "")}, "versions.1.model", 'such as meter = "requests" (line 8)'),
            (
                {"prices.toml": ('unit_price = "0.10"', 'unit_price = "-0.10"')},
                "versions.1.unit_price",
                "is not an amount of 0 or more in plain digits (line 10)",
            ),
        ],
    )  # fmt: skip
    def test_name_file_line_and_fix(self, changes: dict[str, tuple[str, str]], place: str, fix: str) -> None:
        files = dict(BASE)
        for name, (old, new) in changes.items():
            assert old in files[name]
            files[name] = files[name].replace(old, new)
        with pytest.raises(CatalogError) as caught:
            parse_catalog({name: text.encode() for name, text in files.items()})
        shown = [finding.with_line for finding in caught.value.findings]
        assert any(place in one and fix in one for one in shown), shown
