"""The command line: help, exit codes, one clear error, and what a person types read as they mean it."""

import os
import shlex
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.catalog import parse_catalog
from billing_pipeline.catalog.price_tables import MODEL_FIELDS
from billing_pipeline.errors import BillingError
from console import cli, completion
from console.arithmetic import grouped, line_formula, line_place, plain
from console.days import DayRange, DayUnreadableError, read_day, read_period, read_range
from console.near import did_you_mean, near_matches
from console.proposed_catalog import propose_catalog
from console.screen import progress
from resources.caller_reader import Callers
from resources.settings import PROJECT_ROOT

COMMANDS = dict(typer.main.get_group(cli.app).commands)
HEAVY = ("dagster", "duckdb", "pandas", "pyarrow", "psycopg", "boto3", "matplotlib")


class TestReadDay:
    @given(st.dates())
    def test_reads_what_it_writes(self, day: date) -> None:
        assert read_day(day.isoformat()) == day

    @pytest.mark.parametrize("text", ["2026-02-30", "20260301", "2026-W09-7", "01.03.2026", "yesterday", ""])
    def test_refuses_what_is_no_day(self, text: str) -> None:
        with pytest.raises(DayUnreadableError, match="is no day") as raised:
            read_day(text)
        assert "YYYY-MM-DD" in raised.value.fix


class TestReadRange:
    def test_includes_both_ends(self) -> None:
        days = read_range(None, "2026-02-27", "2026-03-02")
        assert days is not None
        assert [str(day) for day in days.days()] == ["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02"]

    def test_reads_one_day_as_a_range_of_one(self) -> None:
        assert read_range("2026-03-01", None, None) == DayRange(first=date(2026, 3, 1), last=date(2026, 3, 1))

    def test_is_none_when_nothing_was_given(self) -> None:
        assert read_range(None, None, None) is None

    @pytest.mark.parametrize(
        ("day", "first", "last", "what"),
        [
            ("2026-03-01", "2026-03-01", None, "together"),
            (None, "2026-03-01", None, "one end"),
            (None, None, "2026-03-01", "one end"),
            (None, "2026-03-02", "2026-03-01", "before it begins"),
            (None, "1926-03-02", "2026-03-01", "longer than"),
        ],
    )
    def test_refuses_what_contradicts_itself(
        self, day: str | None, first: str | None, last: str | None, what: str
    ) -> None:
        with pytest.raises(DayUnreadableError, match=what):
            read_range(day, first, last)


class TestReadPeriod:
    def test_reads_a_month_with_its_last_day(self) -> None:
        period = read_period("2028-02")
        assert (period.first, period.last, period.is_month) == (date(2028, 2, 1), date(2028, 2, 29), True)

    def test_reads_a_day_inside_a_billing_period(self) -> None:
        period = read_period("2026-03-14")
        assert (period.first, period.last, period.is_month) == (date(2026, 3, 14), date(2026, 3, 14), False)

    @pytest.mark.parametrize("text", ["2026-13", "2026", "March", "2026-3", "2026-W01"])
    def test_refuses_what_is_no_period(self, text: str) -> None:
        with pytest.raises(DayUnreadableError, match="is no period"):
            read_period(text)


class TestNearMatches:
    def test_finds_the_name_with_a_typing_error(self) -> None:
        assert near_matches("nordwnd", ["acme", "nordwind", "parkwise"]) == ("nordwind",)

    def test_finds_the_longer_name_that_was_cut_short(self) -> None:
        assert "routely_group" in near_matches("group", ["acme", "routely_group"])

    def test_lists_what_there_is_when_nothing_resembles(self) -> None:
        assert did_you_mean("zzz", ["acme", "hikari"]) == "There are: acme, hikari."
        assert did_you_mean("zzz", []) == "There is none yet."


class TestLineFormula:
    LINE = {
        "version": 1,
        "tier": 2,
        "quantity": "12345.5",
        "unit": "request",
        "unit_price": "0.0095",
        "flat_fee": "2.7",
        "amount": "119.98225",
    }

    def test_spells_quantity_price_fee_and_amount(self) -> None:
        assert line_formula(self.LINE) == "12,345.5 request x 0.0095 + 2.7 flat fee = 119.98225"
        assert line_place(self.LINE) == "version 1, tier 2"

    def test_leaves_out_a_fee_and_a_tier_that_are_not_there(self) -> None:
        line = {**self.LINE, "tier": None, "flat_fee": "0"}
        assert line_formula(line) == "12,345.5 request x 0.0095 = 119.98225"
        assert line_place(line) == "version 1"

    def test_keeps_a_fraction_that_has_no_end(self) -> None:
        assert grouped("10/3") == "10/3"

    def test_shows_a_number_without_the_zeros_of_its_column(self) -> None:
        assert plain(Decimal("-1234.500000000")) == "-1,234.5"
        assert plain(Decimal("1000")) == "1,000"


class TestRun:
    def test_shows_every_command_in_its_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["--help"]) == 0
        shown = capsys.readouterr().out
        assert len(COMMANDS) > 40
        for command in COMMANDS:
            assert f" {command} " in shown

    @pytest.mark.parametrize("name", COMMANDS)
    def test_says_of_each_command_argument_and_option_what_it_is(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = COMMANDS[name]
        assert (command.help or "").strip().endswith(".")
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"
        assert cli.run([*name.split(), "--help"]) == 0
        assert "Usage:" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "arguments",
        [["no-such-command"], ["rate"], ["bill", "acme"], ["demo", "--landing", "x"], ["dev", "--port", "0"]],
    )
    def test_ends_with_2_for_a_wrong_command_line(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.run(arguments) == 2
        assert "Traceback" not in capsys.readouterr().err

    def test_ends_with_1_and_one_clear_error_for_a_failure(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["materialize", "--day", "2026-02-30"]) == 1
        shown = capsys.readouterr().err
        assert "Error: '2026-02-30' is no day" in shown
        assert "For the bill: Nothing was read or changed." in shown
        assert "To fix: Write a day of the calendar" in shown
        assert "Traceback" not in shown

    def test_shows_the_traceback_only_when_asked(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["--debug", "materialize", "--day", "nonsense"]) == 1
        assert "Traceback" in capsys.readouterr().err

    def test_does_not_repeat_the_text_of_a_defect(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise KeyError("jane.doe@example.com")

        monkeypatch.setattr("console.rate_page.rate_by_price", broken)
        assert cli.run(["rate", "--price", "any", "1"]) == 1
        shown = capsys.readouterr().err
        assert "KeyError" in shown
        assert "jane.doe" not in shown

    def test_starts_fast_and_without_what_only_the_work_needs(self) -> None:
        code = (
            "import sys; from console.cli import run; run(['--help']); "
            f"sys.exit(','.join(name for name in {HEAVY!r} if name in sys.modules) or 0)"
        )
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        # A second on an idle machine's core; the tests may share theirs.
        assert time.monotonic() - began < 5


class TestCompletion:
    def test_completes_names_from_the_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BILLING_CATALOG_DIR", str(tmp_path))
        (tmp_path / "accounts.toml").write_text('[[account]]\nid = "acme"\n[[account]]\nid = "hikari"\n')
        (tmp_path / "prices.toml").write_text('[[price]]\nid = "starter"\n')
        (tmp_path / "sources.toml").write_text('[[source]]\nname = "api"\n')
        assert completion.accounts("a") == ["acme"]
        assert completion.accounts("") == ["acme", "hikari"]
        assert completion.prices("st") == ["starter"]
        assert completion.sources("") == ["api"]

    def test_completes_nothing_from_files_that_are_broken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BILLING_CATALOG_DIR", str(tmp_path))
        (tmp_path / "accounts.toml").write_text("account = [")
        assert completion.accounts("") == []

    def test_completes_profiles_assets_models_and_reasons(self) -> None:
        assert "billable_request_json" in completion.profiles("billable")
        assert completion.assets("usage") == ["usage/api_requests", "usage/storage", "usage/traffic"]
        assert completion.models("g") == ["graduated", "graduated_percentage"]
        assert "bad_json" in completion.reasons("bad")

    def test_offers_the_completion_of_the_shell(self, capsys: pytest.CaptureFixture[str]) -> None:
        environment = {"_BILLING_COMPLETE": "complete_bash", "COMP_WORDS": "billing stat", "COMP_CWORD": "1"}
        ended = subprocess.run(
            [sys.executable, "-c", "from console.cli import main; main()"],
            cwd=PROJECT_ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.stdout.strip() == "status"


class TestProgress:
    def test_writes_plain_lines_where_there_is_no_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        with progress() as advance:
            advance("reading files", 0, 2)
            advance("reading files", 1, 2)
            advance("reading files", 2, 2)
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == "reading files …"
        assert lines[1].startswith("reading files: 2 done")
        assert len(lines) == 2


class TestBillingErrors:
    def test_have_a_cause_a_consequence_and_a_fix(self) -> None:
        with pytest.raises(BillingError) as raised:
            read_day("nonsense")
        assert raised.value.what
        assert raised.value.bill
        assert raised.value.fix


class TestProposeCatalog:
    def test_makes_a_catalog_that_bills_every_client_seen(self) -> None:
        callers = Callers(
            clients=("busy", "10.0.0.7", 'odd "name" \\ \x7f é 🚗', "account_000003"),
            endpoints=(("GET", "/v1/things/{id}"), ("POST", "/v1/things")),
            first_day=date(2013, 11, 17),
            last_day=date(2013, 11, 18),
        )
        catalog = parse_catalog({name: text.encode() for name, text in propose_catalog(callers).items()})
        owners = {
            client.client_id: account.account_id for account in catalog.accounts.values() for client in account.clients
        }
        assert set(owners) == set(callers.clients)
        assert owners["busy"] == "busy"
        assert len(set(owners.values())) == 4
        assert catalog.billable_rule.endpoints == frozenset(callers.endpoints)
        assert {one.starts_at for one in catalog.subscriptions.values()} == {datetime(2013, 11, 1, tzinfo=UTC)}
        assert len(catalog.subscriptions) == 4


PERCENTAGE = (
    "percentage --figure percent=2.99 --figure minimum_per_transaction=1.75 --figure maximum_per_transaction=12 "
)
MATRIX = """matrix --unit-price 2 --figure dimensions='["method"]' --figure cells='[{ method = "GET", unit_price = "0.5" }]' """


class TestRate:
    @pytest.mark.parametrize(
        ("arguments", "shown"),
        [
            (["--model", "graduated", "--tier", "1000:0.10:2.70", "--tier", "inf:0.05", "1001"], "charged 102.75 USD"),
            (["--model", "volume", "--tier", "10:50", "--tier", "20:40", "--tier", "inf:30", "10.001"], "400.04 USD"),
            (["--model", "package", "--unit-price", "1", "--package-size", "100", "101"], "charged 2.00 USD"),
            (["--model", "standard", "--unit-price", "0.019", "--currency", "JPY", "100"], "charged 2 JPY"),
            (["--price", "requests", "150"], "50 request x 0.2 = 10"),
            (["--price", "requests", "--at", "2026-01-10", "150"], "50 request x 0.1 = 5"),
        ],
    )
    def test_shows_the_arithmetic(
        self, catalog_dir: Path, arguments: list[str], shown: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.run(["rate", *arguments]) == 0
        assert shown in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("command", "shown"),
        [
            (PERCENTAGE + "10 80 10000", "exact 16.142 USD, charged 16.14 USD"),
            ("percentage --figure percent=1 --figure free_events=1 10 80", "80 unit x 0.01 = 0.8"),
            ("graduated_percentage --tier 1000:1.5 --tier inf:1 1500", "charged 20.00 USD"),
            ("dynamic --figure multiplier=1.2 10", "10 unit x 1.2 = 12"),
            (MATRIX + "--of method=GET 4", "method GET: 4 unit x 0.5 = 2"),
            (MATRIX + "4", "all others: 4 unit x 2 = 8"),
            ("flat_fee --figure amount=10 --figure per=seat 5", "5 seat x 10 = 50"),
            ("flat_fee --figure per=seat --tier 3:10 --tier inf:8:1 5", "charged 47.00 USD"),
            ("flat_fee --figure per=seat --figure tiering=volume --tier 3:10 --tier inf:8:1 5", "charged 41.00 USD"),
            ("flat_fee --figure amount=29.00 1", "charged 29.00 USD"),
            ("minimum_spend --figure amount=10 8", "1 period x 10 - 8 charged = 2"),
            ("metered_balance --unit-price 0.5 --figure included_quota_bytes=100 150", "50 unit x 0.5 = 25"),
            ("package --package-size 100 --unit-price 5 --figure 'window={seconds = 60}' 50 150 200 99", "30.00 USD"),
            ("graduated --tier 5:10:100 --tier inf:5:50 --figure prorated=true 10", "charged 225.00 USD"),
            ("standard --unit-price 10 20 --figure 'discount={ percent = \"50\" }' --figure 'commitment={ units = 30 }'",
             "charged 150.00 USD"),
        ],
    )  # fmt: skip
    def test_shows_the_arithmetic_of_every_model(
        self, command: str, shown: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.run(["rate", "--model", *shlex.split(command)]) == 0
        assert shown in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "what"),
        [
            (["--price", "request", "5"], "Did you mean requests"),
            (["--price", "fee", "5"], "is a flat fee"),
            (["--price", "requests", "--at", "2024-01-01", "5"], "has no version on 2024-01-01"),
            (["--price", "requests", "five"], "is 'five'"),
            (["--price", "requests", "1e99"], "is '1e99'"),
            (["--model", "pckage", "3"], "Did you mean package"),
            (["--model", "standard", "3"], "--unit-price is missing"),
            (["--model", "package", "--unit-price", "1", "--package-size", "0", "3"], "A package of 0 units"),
            (["--model", "volume", "3"], "needs tiers"),
            (["--model", "percentage", "3"], "a percentage price needs percent"),
            (["--model", "percentage", "--figure", "percent=1.5%", "3"], "percent: '1.5%' is not an amount"),
            (["--model", "percentage", "--figure", "percent", "3"], "'percent' is no figure"),
            (["--model", "dynamic", "--figure", "multiplier=[", "3"], "multiplier cannot be read"),
            (["--model", "dynamic", "--unit-price", "1", "3"], "has no unit_price"),
            (["--model", "standard", "--unit-price", "1", "3", "4"], "2 quantities are given"),
            (["--model", "volume", "--tier", "10", "3"], "'10' is no tier"),
            (["--model", "volume", "--tier", "10:1", "--tier", "5:2", "3"], "do not ascend"),
            (["--model", "volume", "--tier", "10:1", "11"], "beyond the last tier"),
            (["--model", "standard", "--unit-price", "1", "--currency", "XXX", "3"], "XXX"),
            (["--model", "standard", "--unit-price", "0.0000000000001", "3"], "or 12 after the point.\n"),
        ],
    )
    def test_refuses_what_has_no_price(
        self, catalog_dir: Path, arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.run(["rate", *arguments]) == 1
        assert what in capsys.readouterr().err

    def test_offers_every_model_at_the_prompt(self) -> None:
        assert set(completion.MODELS) == set(MODEL_FIELDS)

    def test_names_a_catalog_folder_that_does_not_exist(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("BILLING_CATALOG_DIR", str(tmp_path / "nowhere"))
        assert cli.run(["rate", "--price", "requests", "5"]) == 1
        assert "nowhere" in capsys.readouterr().err

    @pytest.fixture
    def catalog_dir(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        files = {
            "billable.toml": 'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{method = "GET", endpoint = "/a"}]',
            "meters.toml": '[[meter]]\nid = "requests"\naggregation = "count"\nunit = "request"',
            "plans.toml": '[[plan]]\nid = "plan"\nprices = ["requests", "fee"]',
            "accounts.toml": "",
            "subscriptions.toml": "",
            "prices.toml": """
                [[price]]
                id = "requests"
                meter = "requests"
                currency = "USD"
                [[price.versions]]
                version = 1
                effective_from = 2025-01-01T00:00:00Z
                model = "standard"
                unit_price = "0.1"
                included_units = "100"
                [[price.versions]]
                version = 2
                effective_from = 2026-02-01T00:00:00Z
                model = "standard"
                unit_price = "0.2"
                included_units = "100"
                [[price]]
                id = "fee"
                currency = "USD"
                [[price.versions]]
                version = 1
                effective_from = 2025-01-01T00:00:00Z
                model = "flat_fee"
                amount = "9.00"
            """,
        }
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        monkeypatch.setenv("BILLING_CATALOG_DIR", str(tmp_path))
        return tmp_path
