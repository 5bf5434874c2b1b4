"""The whole demo by its command, twice, and what a person then reads: the bill, its way down to lines, the state."""

import gzip
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from uuid import UUID

import cramjam
import fastavro
import psycopg
import pyarrow.parquet
import pytest

from billing_pipeline.amounts import Money, to_money
from billing_pipeline.catalog import Catalog
from billing_pipeline.meters import MeterSource
from billing_pipeline.periods import Window
from console import cli
from console.bill_page import open_points
from console.demo import api_clients
from resources import demo_canary, demo_landing, demo_storage, demo_traffic
from resources.balance_reader import BalanceReader
from resources.catalog_store import read_catalog
from resources.charge_reader import Bill, BookedCharge, ChargeReader
from resources.demo_landing import write_first_delivery
from resources.exporter_simulation import Bytes, Stream
from resources.lineage_reader import UsageRow, read_positions, read_usage_rows
from resources.runtime import Runtime, running
from resources.settings import PROJECT_ROOT, Settings
from resources.status_reader import Build, GuardVerdict, Status, read_status
from resources.stores import open_stores
from tests.demo_at_stripe import InvoiceThere, left_at_stripe
from tests.demo_recount import END, MOMENT, MinuteOfTraffic, minutes_of_node, prepaid_amount, private_byte_seconds

GB = 10**9
# March of an account in Los Angeles; daylight saving time begins in it.
ACME_MARCH = (datetime(2026, 3, 1, 8, tzinfo=UTC), datetime(2026, 4, 1, 7, tzinfo=UTC))
TRAFFIC_EMAILS = tuple(f"user{number}@example.com" for number in range(6))
PLANTED = (*demo_landing.PLANTED_PERSONAL_DATA, *demo_storage.PLANTED_PERSONAL_DATA, *TRAFFIC_EMAILS)
COMMAND = (sys.executable, "-c", "from console.cli import main; main()")


def environment_of(home: Path) -> dict[str, str]:
    """Return this process's environment with nothing of an installation in it but its home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BILLING_", "DAGSTER_"))}
    return {**kept, "BILLING_HOME": str(home), "PYTHONWARNINGS": "ignore"}


def billing(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command `billing` as a person does."""
    return subprocess.run(
        [*COMMAND, *arguments], cwd=PROJECT_ROOT, env=environment_of(home), capture_output=True, text=True, check=False
    )


def good_records(path: Path) -> Iterator[Mapping[str, object]]:
    """Yield the records of a JSON lines file that nothing is wrong with, read by plain means."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    elif path.suffix == ".zst":
        content = bytes(cramjam.zstd.decompress(content))
    for line in content.splitlines():
        try:
            record = json.loads(line)
            datetime.strptime(record["timestamp"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
            is_good = isinstance(record["is_real_vehicle"], bool) and record["response_time_ms"] >= 0
            if is_good and 100 <= record["status_code"] <= 599:
                yield record
        except (ValueError, TypeError, KeyError):
            continue


def is_billable(record: Mapping[str, object], clients: frozenset[str]) -> bool:
    """Tell by a second spelling of catalog/billable.toml whether the request is billed."""
    path = r"/v2\.0/vehicles/[^/]+" + (
        "/security" if record["method"] == "POST" else "(/(info|vin|odometer|location|battery))?"
    )
    status = record["status_code"]
    return (
        isinstance(status, int)
        and 200 <= status <= 299
        and record["is_real_vehicle"] is True
        and record["client_id"] in clients
        and record["method"] in ("GET", "POST")
        and re.fullmatch(path, str(record["endpoint"])) is not None
    )


def billable_requests(demo: "Demo", folder: Path) -> list[Mapping[str, object]]:
    """Return every billable request that the demo delivers, once, from files that are written to `folder` for it."""
    clients = api_clients(read_catalog(demo.runtime.settings.catalog_dir))
    write_first_delivery(folder, clients)
    demo_canary.write_first_delivery(folder)
    demo_canary.write_second_delivery(folder)
    late = demo.home / "landing" / "requests/api/2026-03-04/api-20260302T12-late.jsonl.gz"
    # What was delivered first is what counts of a contradiction.
    first: dict[str, Mapping[str, object]] = {}
    for path in [*sorted(folder.rglob("*.jsonl*")), late]:
        for record in good_records(path):
            first.setdefault(str(record["request_id"]), record)
    for path in folder.rglob("*.avro"):
        with path.open("rb") as file:
            for record in fastavro.reader(file):
                assert isinstance(record, dict)
                first[record["request_id"]] = {**record, "timestamp": record["timestamp"].isoformat()}
    known = frozenset((*clients, demo_canary.CLIENT))
    return [record for record in first.values() if is_billable(record, known)]


@dataclass(frozen=True)
class Demo:
    """A home with the demo in it, and what the first and the second run of the demo printed; `printed`: errors too."""

    home: Path
    first: str
    second: str
    printed: str
    runtime: Runtime


def catalog_of(demo: Demo) -> Catalog:
    """Return the catalog that the demo bills by."""
    return read_catalog(demo.runtime.settings.catalog_dir)


def charges_of(demo: Demo, account_id: str, price_id: str) -> list[BookedCharge]:
    """Return what the account's bill of March charges by one price."""
    bill = ChargeReader(demo.runtime.database).bill(account_id, "2026-03")
    return [charge for charge in bill.charges if charge.price_id == price_id]


@cache
def traffic_minutes() -> tuple[MinuteOfTraffic, ...]:
    """Return every minute of the demo's nodes, recounted."""
    simulation = demo_traffic.demo_simulation()
    return tuple(
        minute
        for node, since, first_is_new in (
            (demo_traffic.TOKYO, demo_traffic.START, False),
            (demo_traffic.FRANKFURT, demo_traffic.START, False),
            (demo_traffic.OREGON, demo_traffic.NEW_NODE_START, True),
        )
        for minute in minutes_of_node(simulation, node, since=since, first_is_new=first_is_new)
    )


def of_node(moved: Mapping[Stream, Bytes], node: str) -> dict[Stream, Bytes]:
    """Return what moved on one node."""
    return {stream: bytes_moved for stream, bytes_moved in moved.items() if stream[1] == node}


def round_half_up(value: Fraction) -> int:
    return int(value + Fraction(1, 2))


def uncompressed(path: Path) -> bytes:
    """Return a delivered file as the text that it holds, as far as plain means can tell."""
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


@pytest.fixture(scope="module")
def demo(open_folder: Path) -> Iterator[Demo]:
    home = open_folder / "demo-home"
    # The server is held up over the commands, as `billing dev` would.
    with running(Settings.from_environment({"BILLING_HOME": str(home)})) as runtime:
        runs = [billing(home, "demo") for _ in range(2)]
        assert [run.returncode for run in runs] == [0, 0], runs[0].stderr + runs[1].stderr
        printed = "".join(run.stdout + run.stderr for run in runs)
        yield Demo(home=home, first=runs[0].stdout, second=runs[1].stdout, printed=printed, runtime=runtime)


class TestDemo:
    def test_ends_with_a_bill_a_plot_the_refusals_the_times_and_the_way_to_the_ui(self, demo: Demo) -> None:
        for shown in (
            "Bill of Acme Charging (acme) for 2026-03",
            "Total",
            "Where the time went",
            "bad_json",
            "requests/api/2026-03-01/api-20260301T12.jsonl.gz",
            "same_key_other_content",
            "same_content_other_key",
            "API requests",
            "Traffic bytes",
            "Stored bytes",
            "Balance of lumen",
            "billing timeline atlas",
            "make dev",
        ):
            assert shown in demo.first
        assert (demo.home / "demo" / "usage_by_hour.png").read_bytes().startswith(b"\x89PNG")

    def test_corrects_the_bill_by_what_came_late(self, demo: Demo) -> None:
        booked = [line for line in demo.first.splitlines() if "new revisions booked" in line]
        assert len(booked) == 2
        assert all(not line.startswith("0 ") for line in booked)

    def test_books_nothing_the_second_time(self, demo: Demo) -> None:
        booked = [line for line in demo.second.splitlines() if "new revisions booked" in line]
        assert booked == ["0 new revisions booked", "0 new revisions booked"]

    def test_leaves_books_that_balance_and_lines_that_add_up(self, demo: Demo) -> None:
        status = read_status(demo.runtime.database)
        assert {one.currency for one in status.books} == {"USD", "EUR", "JPY"}
        assert all(one.balance and one.charged_minor > 0 for one in status.books)
        for tally in status.tallies:
            assert tally.lines_read == tally.accepted + tally.rejected + tally.duplicate + tally.out_of_scope
        days = [date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3)]
        assert [(build.asset, build.day) for build in status.builds] == [
            (f"usage/{kind}", day) for kind in ("api_requests", "storage", "traffic") for day in days
        ]
        assert all(build.state == "built" for build in status.builds)

    def test_bills_what_a_plain_count_of_the_files_says(self, demo: Demo, tmp_path: Path) -> None:
        counted = Counter(str(record["timestamp"])[:10] for record in billable_requests(demo, tmp_path))
        builds = read_status(demo.runtime.database).builds
        of_requests = [build for build in builds if build.asset == "usage/api_requests"]
        assert {build.day.isoformat(): build.billable for build in of_requests} == counted

    def test_bills_the_traffic_that_the_nodes_had(self, demo: Demo) -> None:
        minutes = traffic_minutes()
        acme = {client.client_id for client in catalog_of(demo).account("acme").clients}
        counted = sum(one.byte_count for one in minutes if one.account_uuid in acme and one.minute >= ACME_MARCH[0])
        (charge,) = charges_of(demo, "acme", "cloud_traffic")
        assert charge.quantity == Decimal(counted) / GB
        assert charge.amount == to_money((Decimal(counted) / GB - 10) * Decimal("0.05"), "USD")
        nordwind = {client.client_id for client in catalog_of(demo).account("nordwind").clients}
        by_node: Counter[str] = Counter()
        for one in minutes:
            if one.account_uuid in nordwind and one.minute >= datetime(2026, 2, 28, 23, tzinfo=UTC):
                by_node[one.node] += one.byte_count
        charged = {charge.group["node"]: charge.quantity for charge in charges_of(demo, "nordwind", "growth_traffic")}
        assert charged == {node: Decimal(counted) / GB for node, counted in by_node.items() if counted}

    def test_loses_no_byte_but_what_a_restart_took(self) -> None:
        simulation = demo_traffic.demo_simulation()
        for node in (demo_traffic.TOKYO, demo_traffic.FRANKFURT):
            instants = [one.collected_at for one in simulation.snapshots(node, demo_traffic.START, END - MOMENT)]
            true = sum(map(sum, (of_node(simulation.truth(instants[0], instants[-1]), node)).values()))
            losses = [one for one in simulation.losses(instants[0], instants[-1]) if one.node == node]
            lost = sum(sum(moved) for one in losses for moved in one.lost.values())
            assert len(losses) == (node == demo_traffic.TOKYO)
            assert sum(one.byte_count for one in traffic_minutes() if one.node == node) == true - lost

    def test_takes_from_a_balance_what_the_minutes_say(self, demo: Demo) -> None:
        lumen = {client.client_id for client in catalog_of(demo).account("lumen").clients}
        taken = prepaid_amount([one for one in traffic_minutes() if one.account_uuid in lumen])
        found = BalanceReader(demo.runtime.database).balance("lumen", now=demo_traffic.SECOND_LOOK)
        assert Fraction(found.current_balance) == 25 - taken
        assert found.remaining_included_quota == 0
        assert f"Balance of lumen: {found.booked_balance}" in demo.first

    def test_bills_the_storage_that_the_files_say(self, demo: Demo) -> None:
        held = private_byte_seconds(demo.home / "landing", owner="acme-data", start=ACME_MARCH[0], end=END)
        with demo.runtime.database.reading() as connection:
            rows = connection.execute(
                "select sum(quantity) from usage.storage where account_id = 'acme' and period_start >= %s",
                [ACME_MARCH[0]],
            ).fetchone()
        assert rows is not None
        assert Fraction(rows[0]) == held
        gb_months = held / (GB * int((ACME_MARCH[1] - ACME_MARCH[0]).total_seconds()))
        (charge,) = charges_of(demo, "acme", "cloud_storage")
        assert abs(Fraction(charge.quantity) - gb_months) < Fraction(1, 10**9)
        assert charge.amount == Money(round_half_up((gb_months - 100) * Fraction(1, 10) * 100), "USD")
        assert (held, charge.amount) == (Fraction(420_097_200 * GB), Money(571, "USD"))

    def test_holds_what_is_not_whole_until_the_rest_arrives(self, demo: Demo) -> None:
        first, _, second = demo.first.partition("Second delivery")
        assert "held core/object_events 2026-03-02 digests_verified" in first
        assert "held core/traffic_samples 2026-03-03 windows_complete" in first
        assert "held" not in second.partition("Deliveries")[0]
        timeline = billing(demo.home, "timeline", "atlas").stdout
        assert "private 232 GB h (counts), public 22 GB h" in timeline
        assert "Every snapshot agrees with the events before it." in timeline

    def test_leaves_nothing_to_ask_exporters_that_are_gone(self, demo: Demo) -> None:
        stores = open_stores(demo.runtime.settings, demo.runtime.database)
        assert stores.traffic.due_days(datetime.now(UTC)) == ()
        assert {one.status for one in read_status(demo.runtime.database).verdicts} == {"warned"}
        done = billing(demo.home, "materialize")
        assert (done.returncode, "No event day is due" in done.stdout) == (0, True), done.stderr
        assert "0 new revisions booked" in done.stdout

    def test_lets_no_personal_data_through_the_parsers(self, demo: Demo) -> None:
        planted = [one.encode() for one in PLANTED]
        delivered = b"".join(uncompressed(path) for path in (demo.home / "landing").rglob("*") if path.is_file())
        # E-mail addresses of traffic users never touch a file: they come over the wire.
        assert [one for one in planted if one not in delivered] == [one.encode() for one in TRAFFIC_EMAILS]
        patterns = [f"%{one}%" for one in PLANTED]
        for url in (demo.runtime.database.url, demo.runtime.dagster_database_url.replace("+psycopg2", "")):
            with psycopg.connect(url) as connection:
                tables = connection.execute(
                    "select format('%I.%I', schemaname, tablename) from pg_tables"
                    " where schemaname not in ('pg_catalog', 'information_schema')"
                ).fetchall()
                assert len(tables) > 15
                for (table,) in tables:
                    found = connection.execute(
                        f"select count(*) from {table} as one where one::text like any(%s)".encode(), [patterns]
                    ).fetchone()
                    assert found == (0,), table
        files = [str(path) for path in (demo.home / "lake").rglob("*.parquet")]
        assert {Path(file).relative_to(demo.home / "lake").parts[:2] for file in files} >= {
            ("core", "request_records"),
            ("core", "traffic_samples"),
            ("core", "object_events"),
            ("core", "visibility_events"),
        }
        for file in files:
            text = repr(pyarrow.parquet.read_table(file).to_pylist())
            assert not [one for one in PLANTED if one in text], file
        others = ("landing", "postgres")
        for path in demo.home.rglob("*"):
            if path.is_file() and path.relative_to(demo.home).parts[0] not in others:
                assert not [one for one in planted if one in path.read_bytes()], path
        assert not [one for one in PLANTED if one in demo.printed]

    def test_refuses_a_home_with_other_data(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("BILLING_HOME", str(tmp_path))
        (tmp_path / "landing").mkdir()
        (tmp_path / "landing" / "real.jsonl").write_text("{}\n")
        assert cli.run(["demo"]) == 1
        assert "not the demo's" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "landing").iterdir()] == ["real.jsonl"]


class TestDemoAtStripe:
    """The month at the demo's Stripe. The canary's bill is arithmetic: 290 requests in time and 10 late ones, 0.10 USD each."""

    def test_charges_what_the_files_say_and_nothing_else(self, demo: Demo, tmp_path: Path) -> None:
        counted = billable_requests(demo, tmp_path)
        of_canary = [one for one in counted if one["client_id"] == demo_canary.CLIENT]
        of_hikari = [one for one in counted if str(one["client_id"]).startswith("client_hikari")]
        # 800 JPY for each client; 120 JPY for each 100 requests begun, 200 of them free.
        clients, packages = 800 * len({one["client_id"] for one in of_hikari}), -(-(len(of_hikari) - 200) // 100)
        found = left_at_stripe(demo.home)
        assert [(one.account_id, one.status, sorted(one.lines)) for one in found.invoices] == [
            ("canary", "paid", [("Adjustment", -100), ("canary_requests (290 request)", 2900)]),
            (
                "hikari",
                "paid",
                [
                    ("fleet_clients (2 client)", clients),
                    (f"fleet_requests ({len(of_hikari)} request)", 120 * packages),
                ],
            ),
            ("canary", "paid", [(found.invoices[2].lines[0][0], 100)]),
        ]
        assert "Correction of canary_requests" in found.invoices[2].lines[0][0]
        assert all(one.paid == one.total == sum(amount for _, amount in one.lines) for one in found.invoices)
        assert found.pending == {}
        assert charged_at_stripe(found.invoices, "canary") == 10 * len(of_canary) - 100

    def test_owes_in_the_ledger_what_stripe_was_paid(self, demo: Demo) -> None:
        found = left_at_stripe(demo.home)
        with demo.runtime.database.reading() as connection:
            ledger = connection.execute(
                """
                select split_part(ledger_account, ':', 2), sum(amount_minor)::bigint
                from billing.ledger_posting
                where ledger_account in ('receivable:canary', 'receivable:hikari')
                group by 1
                """
            ).fetchall()
        assert dict(ledger) == {name: charged_at_stripe(found.invoices, name) for name in ("canary", "hikari")}

    def test_is_shown_step_by_step_with_both_sides_and_its_calls(self, demo: Demo) -> None:
        shown = demo.first.partition("A month at Stripe")[2].partition("Bill of ")[0]
        for text in (
            "pending are canary 29.00 USD",
            "support gives canary 1.00 USD back",
            "the draft of canary is right, and let go",
            "pending are canary 1.00 USD",
            "the draft of hikari is refused, and kept: its period is not whole",
            "the draft of canary is refused, and kept: its period is not whole",
            "INV-000001 of canary, 28.00 USD",
            "INV-000003 of canary, 1.00 USD",
            "Canary, 2026-03-04 to 2026-04-04: known to be 1.00 USD",
        ):
            assert text in shown
        amounts = re.findall(r"(-?[\d,.]+ (?:USD|JPY)) +(-?[\d,.]+ (?:USD|JPY)) +(-?[\d,.]+) (?:USD|JPY)$", shown, re.M)
        assert len(amounts) >= 7
        assert all(float(difference) == 0 for _, _, difference in amounts)
        calls = re.search(r"together; a call for each request would be ([\d,]+) +(\d+) +(\d+)$", shown, re.M)
        assert calls is not None
        assert int(calls[1].replace(",", "")) > 5_000
        assert (int(calls[2]) < 150, int(calls[3]) < 15) == (True, True)

    def test_has_its_pages_in_dagster_too(self, demo: Demo) -> None:
        with psycopg.connect(demo.runtime.dagster_database_url.replace("+psycopg2", "")) as connection:
            checks = connection.execute(
                """
                select asset_key, check_name, execution_status from asset_check_executions
                where asset_key in ('["invoicing", "stripe_sync"]', '["invoicing", "reconciliation"]')
                    and execution_status <> 'PLANNED'
                """
            ).fetchall()
        assert len({check for _, check, _ in checks}) == 5
        assert {status for _, _, status in checks} == {"SUCCEEDED"}

    def test_writes_nothing_by_a_second_sync(self, demo: Demo) -> None:
        (again,) = [line for line in demo.first.splitlines() if "sync again, looking at every customer" in line]
        assert again.split()[-1] == "0"
        assert "nothing is pending" in again

    def test_invoices_and_charges_nothing_twice(self, demo: Demo) -> None:
        invoices = [block_of_invoices(run) for run in (demo.first, demo.second)]
        assert invoices[0] == invoices[1]
        again = demo.second.partition("A month at Stripe")[2].partition("Invoices, ours")[0]
        (together,) = [line for line in again.splitlines() if "together" in line]
        assert together.split()[-1] == "0"
        assert "renews" not in again


def charged_at_stripe(invoices: tuple[InvoiceThere, ...], account_id: str) -> int:
    """Return what the account's invoices at Stripe come to."""
    return sum(one.total for one in invoices if one.account_id == account_id)


def block_of_invoices(printed: str) -> str:
    """Return the part of what the demo printed that shows both sides."""
    return printed.partition("Invoices, ours")[2].partition("Bill of ")[0]


class TestBillCommand:
    @pytest.fixture(autouse=True)
    def in_the_demo(self, demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BILLING_HOME", str(demo.home))

    def test_prints_lines_that_add_up_to_the_total(self, demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["bill", "nordwind", "2026-03"]) == 0
        shown = capsys.readouterr().out
        booked = ChargeReader(demo.runtime.database).bill("nordwind", "2026-03")
        assert sum(charge.amount.minor_units for charge in booked.charges) == booked.total.minor_units
        assert f"{booked.total.major:,} EUR" in shown
        for charge in booked.charges:
            assert str(charge.charge_id)[:8] in shown
            exact = sum((Fraction(str(line["amount"])) for line in charge.lines), Fraction(0))
            # Kept with 12 places: a GB-month of March has no end.
            assert abs(exact - Fraction(charge.exact_amount)) < Fraction(1, 10**12)

    def test_says_which_days_are_still_open(self, capsys: pytest.CaptureFixture[str]) -> None:
        cli.run(["bill", "acme", "2026-03-02"])
        assert "Open: API requests are in for 3 of 32 days" in capsys.readouterr().out

    def test_names_the_months_that_have_charges(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["bill", "acme", "2031-01"]) == 1
        shown = capsys.readouterr().err
        assert "no charge in 2031-01" in shown
        assert "2026-03" in shown

    def test_names_accounts_close_to_one_that_does_not_exist(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["bill", "nordwnd", "2026-03"]) == 1
        assert "nordwind" in capsys.readouterr().err

    def test_explains_a_charge_down_to_lines(self, demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
        bill = ChargeReader(demo.runtime.database).bill("acme", "2026-03")
        metered = next(charge for charge in bill.charges if charge.meter_id is not None)
        assert cli.run(["explain", str(metered.charge_id)[:8], "--rows", "2", "--lines", "2"]) == 0
        shown = capsys.readouterr().out
        for part in ("Revisions", "Ledger postings", "receivable:acme", "jsonl.gz line", "more rows: --rows"):
            assert part in shown

    def test_explains_a_flat_fee_without_usage(self, demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
        bill = ChargeReader(demo.runtime.database).bill("acme", "2026-03")
        fee = next(charge for charge in bill.charges if charge.meter_id is None)
        assert cli.run(["explain", str(fee.charge_id)]) == 0
        assert "A flat fee" in capsys.readouterr().out


class TestLineage:
    def test_leads_every_usage_row_to_as_many_lines_as_it_counts(self, demo: Demo) -> None:
        bill = ChargeReader(demo.runtime.database).bill("nordwind", "2026-03")
        charge = next(charge for charge in bill.charges if charge.group)
        rows = self.rows_of(demo.runtime, charge)
        assert sum(row.request_count for row in rows) == charge.quantity
        for row in rows[:: max(1, len(rows) // 20)]:
            assert (
                read_positions(demo.runtime.database, demo.runtime.settings, row, limit=1).records == row.request_count
            )

    def test_points_at_lines_that_say_what_was_billed(self, demo: Demo) -> None:
        bill = ChargeReader(demo.runtime.database).bill("acme", "2026-03")
        charge = next(charge for charge in bill.charges if charge.meter_id is not None)
        row = self.rows_of(demo.runtime, charge)[0]
        positions = read_positions(demo.runtime.database, demo.runtime.settings, row, limit=1000)
        assert len(positions.first) == row.request_count
        for position in positions.first:
            content = (demo.home / "landing" / position.key).read_bytes()
            if position.key.endswith(".gz") and "api-20260301T06" not in position.key:
                line = json.loads(gzip.decompress(content).splitlines()[position.line_number - 1])
                assert line["client_id"] == row.client_id
                assert row.period_start <= datetime.fromisoformat(str(line["timestamp"])) < row.period_end

    @staticmethod
    def rows_of(runtime: Runtime, charge: BookedCharge) -> tuple[UsageRow, ...]:
        assert charge.meter_id is not None
        return read_usage_rows(
            runtime.database,
            account_id=charge.account_id,
            meter_id=charge.meter_id,
            period_start=charge.period.start,
            period_end=charge.period.end,
            group=charge.group,
            limit=100_000,
        ).first


class TestStatusCommands:
    @pytest.fixture(autouse=True)
    def in_the_demo(self, demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BILLING_HOME", str(demo.home))

    def test_shows_deliveries_refusals_days_and_books(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["status"]) == 0
        shown = capsys.readouterr().out
        for part in ("Deliveries", "Refused lines", "unknown_client", "2026-03-02  built", "books balance", "Next:"):
            assert part in shown

    def test_lists_refused_lines_of_one_reason(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["quarantine", "--reason", "no_timezone"]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "api-2026" in line]
        assert len(lines) == 1
        assert lines[0].startswith("no_timezone")

    def test_refuses_a_reason_that_does_not_exist(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["quarantine", "--reason", "bad_jsn"]) == 1
        assert "bad_json" in capsys.readouterr().err

    def test_has_no_conflict_open_as_what_is_billed_stays(self, demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["conflicts"]) == 0
        assert "No request waits" in capsys.readouterr().out
        with demo.runtime.database.reading() as connection:
            decided = connection.execute("select actor, reason from core.request_conflict_decision").fetchall()
        assert decided == [("billing_pipeline", "already billed")]

    @pytest.mark.parametrize(
        ("arguments", "what"),
        [
            (["release", "usage/api_requests", "2026-03-02", "hours_delivered", "--reason", "x"], "Nothing is held"),
            (["decide-conflict", "api", "nobody", "none", "--reason", "x"], "no such conflict"),
            (["accept-file", "requests/api/nothing", "--reason", "x"], "There are: requests/api/2026-03-01"),
            (["materialize", "usage/api_request"], "Did you mean usage/api_requests"),
            (["materialize", "--day", "1990-01-01"], "the first is 1995-01-01"),
            (["explain", "ffff"], "no charge's id begins"),
        ],
    )
    def test_refuses_what_is_not_there_with_one_clear_error(
        self, arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.run(arguments) == 1
        shown = capsys.readouterr().err
        assert what in shown
        assert shown.count("Error:") == 1
        assert "Traceback" not in shown


class TestOwnFiles:
    LINES = tuple(
        json.dumps(
            {
                "request_id": f"{number:08}-0000-4000-8000-000000000000",
                "client_id": ("caller_0", "caller_1", "a caller")[number // 24 % 3],
                "timestamp": f"2026-02-03T{number % 24:02}:10:00.000Z",
                "endpoint": "/v2.0/vehicles/0b7ad1c5-5b0c-4f5c-8c1c-1f0a7c3f3c11/odometer",
                "method": "GET",
                "status_code": 200,
                "response_time_ms": 20.5,
                "is_real_vehicle": True,
            }
        )
        for number in range(2160)
    )

    def test_runs_everything_on_one_file_that_is_only_read(self, open_folder: Path) -> None:
        own = open_folder / "own-logs"
        own.mkdir()
        log = own / "Access Log.jsonl"
        log.write_text("\n".join(self.LINES) + "\n")
        before = {path: path.read_bytes() for path in own.rglob("*")}
        home = open_folder / "own-home"
        ended = billing(home, "demo", "--landing", str(log), "--profile", "billable_request_json")
        assert ended.returncode == 0, ended.stderr
        assert {path: path.read_bytes() for path in own.rglob("*")} == before
        assert "proposed in" in ended.stdout
        # A name with a blank is no identifier: those lines are refused, and nobody is billed for them.
        assert "2 accounts, one for each client seen" in ended.stdout
        assert "Bill of caller_0" in ended.stdout
        # 720 requests at 0.0125.
        assert "720 request x 0.0125 = 9" in ended.stdout
        assert not (home / "lake").exists()

    def test_holds_a_day_that_lacks_an_hour_and_goes_on(self, open_folder: Path) -> None:
        own = open_folder / "own-gap"
        (own / "2026-02-04").mkdir(parents=True)
        lines = [line for line in self.LINES if "T07:" not in line]
        (own / "2026-02-04" / "log.jsonl").write_text("\n".join(lines) + "\n")
        ended = billing(open_folder / "own-home", "demo", "--landing", str(own), "--profile", "billable_request_json")
        assert ended.returncode == 0, ended.stderr
        assert "hours_delivered holds usage/api_requests on 2026-02-03" in ended.stderr
        assert "0 new revisions booked" in ended.stdout

    @pytest.mark.parametrize(
        ("landing", "profile", "what"),
        [("no-such", "nginx_json", "no folder or file"), (".", "nginx_jso", "Did you mean nginx_json")],
    )
    def test_refuses_a_folder_or_profile_that_does_not_exist(
        self,
        tmp_path: Path,
        landing: str,
        profile: str,
        what: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("BILLING_HOME", str(tmp_path))
        assert cli.run(["demo", "--landing", str(tmp_path / landing), "--profile", profile]) == 1
        assert what in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


class TestOpenPoints:
    PERIOD = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 4, tzinfo=UTC))

    def bill(self) -> Bill:
        """Return a bill of one charge over three days."""
        charge = BookedCharge(
            charge_id=UUID(int=1),
            revision=1,
            account_id="acme",
            subscription_id="sub",
            plan_id="plan",
            price_id="price",
            meter_id="meter",
            source=MeterSource.API_REQUESTS,
            group={},
            period=self.PERIOD,
            quantity=Decimal(1),
            unit="request",
            exact_amount=Decimal(1),
            amount=Money(100, "USD"),
            lines=(),
            event_day=date(2026, 3, 1),
        )
        return Bill(
            account_id="acme",
            account_name="Acme",
            time_zone="UTC",
            asked_for="2026-03",
            charges=(charge,),
            total=charge.amount,
        )

    @staticmethod
    def status(days: Mapping[int, str]) -> Status:
        """Return a state in which days of March 2026 are built or held."""
        builds = tuple(
            Build(
                asset="usage/api_requests",
                day=date(2026, 3, day),
                state=state,
                records_read=0,
                billable=0,
                not_billable=0,
                duplicate=0,
                conflict=0,
                usage_rows=0,
                built_at=datetime(2026, 3, 5, tzinfo=UTC),
            )
            for day, state in days.items()
        )
        verdicts = tuple(
            GuardVerdict(
                asset=build.asset,
                partition_key=build.day.isoformat(),
                guard="hours_delivered",
                status="held",
                expected="24 hours",
                actual="23 hours",
                message="An hour is missing.",
            )
            for build in builds
            if build.state == "held"
        )
        return Status(
            tallies=(),
            refused_files=(),
            refused_lines_by_reason={},
            pending_days=(),
            builds=builds,
            not_billable_by_reason={},
            verdicts=verdicts,
            open_conflicts=0,
            books=(),
        )

    def test_has_none_when_every_day_is_built(self) -> None:
        assert open_points(self.bill(), self.status(dict.fromkeys((1, 2, 3), "built")), conflict_days={}) == ()

    def test_names_days_that_are_missing_held_or_in_conflict(self) -> None:
        points = open_points(
            self.bill(),
            self.status({1: "built", 2: "held", 9: "held"}),
            conflict_days={"2026-03-01": 2, "2026-04-01": 5},
        )
        assert points[0].startswith("Open: API requests are in for 1 of 3 days")
        assert points[1].startswith("Held: usage/api_requests 2026-03-02 by hours_delivered")
        assert points[2].startswith("Undecided: 2 contradictory requests on 2026-03-01")
        assert len(points) == 3


class TestRebuiltFromRaw:
    """Everything that is derived from what was delivered is forgotten, and derived again."""

    def test_has_the_same_facts_charges_nothing_and_calls_stripe_for_no_write(self, demo: Demo) -> None:
        before, at_stripe = facts_of(demo), left_at_stripe(demo.home)
        with psycopg.connect(demo.runtime.database.url, autocommit=True) as connection:
            tables = connection.execute(
                "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname = 'usage'"
                " or (schemaname = 'invoicing' and tablename like 'draft%')"
            ).fetchall()
            connection.execute(f"truncate {', '.join(table for (table,) in tables)}".encode())
        assert facts_of(demo) != before
        run = billing(demo.home, "demo")
        assert run.returncode == 0, run.stderr
        assert [line for line in run.stdout.splitlines() if "new revisions" in line] == ["0 new revisions booked"] * 2
        (together,) = [line for line in run.stdout.splitlines() if "a call for each request would be" in line]
        assert together.split()[-1] == "0"
        assert facts_of(demo) == before
        assert left_at_stripe(demo.home).invoices == at_stripe.invoices


def facts_of(demo: Demo) -> Mapping[str, object]:
    """Return a digest of every row of usage, of money and of invoices."""
    with demo.runtime.database.reading() as connection:
        return {
            table: connection.execute(
                f"select count(*), md5(string_agg(one::text, '|' order by one::text)) from ({query}) as one".encode()
            ).fetchone()
            for table, query in {
                **{name: f"select * from usage.{name}" for name in ("api_requests", "storage", "traffic")},
                "minutes": "select * from usage.traffic_minute",
                "charges": "select * from billing.charge_revision",
                "ledger": "select * from billing.ledger_posting",
                "prepaid": "select * from billing.prepaid_entry",
                "items": "select invoice_id, item_key, amount_minor, source_digest from invoicing.item",
            }.items()
        }
