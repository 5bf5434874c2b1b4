"""Accounts that are booked batch by batch come to the books of all at once, corrections and reversals too; and whatever is shared
on the way (equal usage, terms, rows) or done side by side, the books are what `rate` says of each charge by itself."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import uuid5

import psycopg
import pytest

from bench.month import write_month_catalog
from billing_pipeline import charges, ledger
from billing_pipeline.amounts import exact_text, to_money
from billing_pipeline.catalog import Catalog
from billing_pipeline.periods import BillingPeriod, Window
from billing_pipeline.rating import BeyondLastTierError, Rated, VersionUsage, rate, rate_flat_fee
from resources import book_writer, charge_store, charge_usage
from resources.catalog_store import CatalogStore, current_catalog
from resources.charge_rows import SpelledRows
from resources.charge_store import ChargeStore, DayBooking
from resources.database import Database
from resources.settings import PROJECT_ROOT
from tests.test_charge_store import METERS, PRICES, book, day, money_of, use, write_catalog

DAYS = [day("2026-03-09"), day("2026-03-10"), day("2026-03-31")]
MARCH = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
ACCOUNTS = ("acme", "beta", "gamma", "delta", "epsilon")
# Usage that adds up, by versions and groups; usage that is merged day by day; a fee; and all of it once more by its own anchor.
PLANS = """
[[plan]]
id = "sums"
prices = ["per_request", "fee"]
[[plan]]
id = "groups"
prices = ["small", "per_client", "once", "fee"]
"""
# What has to be asked further of the same tables: units that were used before the period.
ONCE = """
[[price]]
id = "once"
meter = "more"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "0.10"
included_units = "10"
included_reset = "never"
"""
MORE = '[[meter]]\nid = "more"\naggregation = "count"\nunit = "request"\n'
SUMS = ("acme", "gamma")
OWN_PERIODS = 'anchor_day = 10\nanchor_time = 14:37:12\nanchor_zone = "Europe/Berlin"\n'


def load(database: Database, folder: Path, *, cancelled: Sequence[str] = ()) -> None:
    """Load a catalog in which each account has a subscription; of `cancelled` it ends before the days that are booked."""
    ends = "changes = [{ at = 2026-03-02T00:00:00Z, cancel = true }]\n"
    write_catalog(
        folder,
        plans=PLANS,
        meters=METERS + MORE,
        prices=ONCE + PRICES.replace('unit_price = "0.002" }]', 'unit_price = "0.002" }, { unit_price = "0.003" }]'),
        accounts="".join(f'[[account]]\nid = "{name}"\nname = "{name}"\ncurrency = "USD"\n' for name in ACCOUNTS),
        subscriptions="".join(
            f'[[subscription]]\nid = "s_{name}"\naccount = "{name}"\nstarts_at = 2026-01-01T00:00:00Z\n'
            f'plan = "{"sums" if name in SUMS else "groups"}"\n'
            f"{OWN_PERIODS if name == 'delta' else ''}{ends if name in cancelled else ''}"
            for name in ACCOUNTS
        ),
    )
    CatalogStore(database).load(folder)


def told(bookings: Sequence[DayBooking]) -> list[tuple[object, ...]]:
    """Return what bookings say, their guards too."""
    return [
        (
            one.day,
            one.charges_rated,
            one.revisions_booked,
            one.delta_by_currency,
            one.held,
            one.top_accounts,
            [(verdict.guard, verdict.status, verdict.inputs_digest) for verdict in one.verdicts],
        )
        for one in bookings
    ]


@dataclass
class Story:
    """The same changes on a database of its own, and what bookings said on the way."""

    database: Database
    folder: Path
    said: list[list[tuple[object, ...]]] = field(default_factory=list)

    def tell(self) -> None:
        """Book, correct, cancel an account, take another one away, and book what nothing has changed."""
        load(self.database, self.folder)
        for number, account in enumerate(ACCOUNTS, 1):
            use(self.database, account, "2026-01-20T09:00", 2 * number, meter="more")
            use(self.database, account, "2026-03-09T09:00", 5, meter="more")
            for hour in (9, 15):
                at = f"2026-03-09T{hour:02}:00"
                use(self.database, account, at, 100 * number)
                use(self.database, account, at, number, client=f"c{number}")
                clients = {"values": [f"c{one}" for one in range(number)]}
                use(self.database, account, at, number, meter="clients", state=clients)
        self._book()
        use(self.database, "beta", "2026-03-10T09:00", 7)
        self._book()
        load(self.database, self.folder, cancelled=["gamma"])
        self._book()
        self._book()

    def _book(self) -> None:
        self.said.append(told(book(ChargeStore(self.database), DAYS)))


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few subscriptions be enough to write beside rating, an account at a time."""
    monkeypatch.setattr(book_writer, "FEW_SUBSCRIPTIONS", 0)
    monkeypatch.setattr(charge_usage, "BATCH_SLOTS", 1)


class TestBatches:
    @pytest.mark.parametrize("mode", ["beside", "at once", "read ahead"])
    def test_of_one_account_come_to_the_books_of_all_together(
        self,
        database: Database,
        second_database: Database,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        mode: str,
    ) -> None:
        one, other = Story(database, tmp_path / "one"), Story(second_database, tmp_path / "other")
        other.tell()
        monkeypatch.setattr(charge_usage, "BATCH_SLOTS", 1)
        monkeypatch.setattr(book_writer, "FEW_SUBSCRIPTIONS", 0 if mode == "beside" else 1_000_000)
        if mode == "read ahead":
            monkeypatch.setattr(book_writer, "later", done_already)
        one.tell()
        assert one.said == other.said
        assert money_of(database) == money_of(second_database)
        first, corrected, cancelled, again = one.said
        # Every account is in the books, one is corrected alone, one is reversed, and then nothing is left to book.
        assert len(first[-1][5]) == len(ACCOUNTS)  # type: ignore[arg-type]
        assert [sum(booking[2] for booking in said) > 0 for said in (first, corrected, cancelled)] == [True] * 3  # type: ignore[misc]
        assert all(booking[2] == 0 for booking in again)
        assert not any(booking[4] for booking in [*first, *corrected, *cancelled, *again])

    @pytest.mark.usefixtures("beside")
    def test_reverse_accounts_that_have_no_subscription_any_more(
        self, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load(database, tmp_path / "catalog")
        use(database, "beta", "2026-03-09T09:00", 100)
        use(database, "gamma", "2026-03-09T09:00", 100)
        book(ChargeStore(database), DAYS)
        before = balances(database)
        monkeypatch.setattr(charge_store, "current_catalog", without_gamma)
        book(ChargeStore(database), DAYS)
        after = balances(database)
        assert before["receivable:gamma"] > 0
        assert after["receivable:gamma"] == 0
        assert after["receivable:beta"] == before["receivable:beta"] > 0
        assert book(ChargeStore(database), DAYS)[-1].revisions_booked == 0


def done_already(work: Callable[[], None]) -> Callable[[], None]:
    """Read the next batch before the caller has the one before: the earliest that a thread may."""
    work()
    return lambda: None


def without_gamma(connection: psycopg.Connection) -> Catalog:
    """Return the catalog as it is once nothing names the subscription of gamma any more, under the same digest."""
    found = current_catalog(connection)
    return replace(found, subscriptions={name: one for name, one in found.subscriptions.items() if name != "s_gamma"})


def balances(database: Database) -> Mapping[str, int]:
    with database.reading() as connection:
        rows = connection.execute(
            "select ledger_account, sum(amount_minor)::bigint from billing.ledger_posting group by ledger_account"
        )
        return dict(rows.fetchall())


QUANTITIES = (1, 7, 7, 1_000, 1_001, 7, 250, 10_001, 1_000, 250)


@pytest.fixture
def month(database: Database, tmp_path: Path) -> ChargeStore:
    """Return a store with a subscription for each of `QUANTITIES`, on a fee and four meters, all of which it has used as much of;
    the last one has used nothing."""
    folder = write_month_catalog(tmp_path / "month", subscriptions=len(QUANTITIES) + 1)
    (folder / "sources.toml").unlink()
    # A second fee: its terms differ in nothing but the price.
    prices, plans = folder / "prices.toml", folder / "plans.toml"
    first = prices.read_text().partition("[[price]]\n")[2].partition("[[price]]\n")[0]
    prices.write_text(f"{prices.read_text()}[[price]]\n{first.replace('fee', 'support', 1)}")
    plans.write_text(plans.read_text().replace('"fee"', '"fee", "support"'))
    CatalogStore(database).load(folder)
    with database.reading() as connection:
        accounts = [one for (one,) in connection.execute("select account_id from catalog.account order by account_id")]
    for account, quantity in zip(accounts, QUANTITIES, strict=False):
        for meter in ("calls", "reads", "writes", "exports"):
            use(database, account, "2026-03-09T09:00", quantity, meter=meter)
    return ChargeStore(database)


def books(database: Database) -> dict[str, tuple[object, ...]]:
    with database.reading() as connection:
        rows = connection.execute(
            """
            select charge_id::text, account_id, subscription_id, price_id, meter_id, quantity, exact_amount, amount_minor,
                delta_minor, rating_digest, lines, (
                    select array_agg((transaction_id, posting_number, ledger_account, amount_minor)::text order by posting_number)
                    from billing.ledger_posting as posting
                    where posting.charge_id = charge.charge_id and posting.revision = charge.revision
                )
            from billing.charge_revision as charge
            """
        ).fetchall()
    return {row[0]: row[1:] for row in rows}


def expected(database: Database) -> dict[str, tuple[object, ...]]:
    """Return the books of the month as each charge comes to by itself: `rate` of its own usage, ids and digests by the library."""
    found = {}
    catalog = CatalogStore(database).current()
    subscriptions = sorted(catalog.subscriptions.values(), key=lambda one: one.account_id)
    for subscription, quantity in zip(subscriptions, (*QUANTITIES, 0), strict=True):
        for price in catalog.prices_of(subscription):
            if price.meter_id is None:
                rated = rate_flat_fee(price=price, period=BillingPeriod(MARCH, MARCH), zone="UTC")
            elif quantity:
                usage = VersionUsage(version=price.versions[0], quantity=Decimal(quantity), events=1)
                rated = rate(price=price, unit="request", usage=(usage,))
            else:
                continue
            key = [
                subscription.subscription_id,
                price.price_id,
                *map(str, map(datetime.isoformat, (MARCH.start, MARCH.end))),
            ]
            charge_id = uuid5(charges._CHARGE_NAMESPACE, json.dumps([*key, ""], ensure_ascii=False))
            amount = to_money(rated.exact, price.currency).minor_units
            found[str(charge_id)] = (
                subscription.account_id,
                subscription.subscription_id,
                price.price_id,
                price.meter_id,
                rated.quantity,
                rated.exact,
                amount,
                amount,
                digest(rated),
                [line.as_text() for line in rated.lines],
                posted(str(charge_id), subscription.account_id, price.price_id, amount),
            )
    return found


def digest(rated: Rated) -> str:
    lines = json.dumps([line.as_text() for line in rated.lines], separators=(",", ":"), ensure_ascii=False)
    text = f"{exact_text(rated.quantity)}|{rated.unit}|{exact_text(rated.exact)}|USD|{lines}"
    return hashlib.sha256(text.encode()).hexdigest()


def posted(charge_id: str, account_id: str, price_id: str, amount: int) -> list[str] | None:
    if amount == 0:
        return None
    own_id = uuid5(ledger._TRANSACTION_NAMESPACE, f"{charge_id}|1|{amount}|USD")
    return [f"({own_id},1,receivable:{account_id},{amount})", f"({own_id},2,revenue:{price_id},{-amount})"]


class TestWhatIsSharedOnTheWay:
    @pytest.mark.parametrize("slots", [1, 1_000_000])
    def test_comes_to_what_each_charge_comes_to_by_itself(
        self, month: ChargeStore, monkeypatch: pytest.MonkeyPatch, slots: int
    ) -> None:
        monkeypatch.setattr(book_writer, "FEW_SUBSCRIPTIONS", 0)
        monkeypatch.setattr(charge_usage, "BATCH_SLOTS", slots)
        book(month, [day("2026-03-31")])
        wanted = expected(month.database)
        assert len(wanted) == 6 * len(QUANTITIES) + 2
        assert books(month.database) == wanted

    def test_is_rated_once_for_equal_usage(self, month: ChargeStore, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[str, Decimal]] = []

        def counted(*, price: object, unit: str, usage: Sequence[VersionUsage]) -> Rated:
            seen.append((price.price_id, usage[0].quantity))  # type: ignore[attr-defined, arg-type]
            return rate(price=price, unit=unit, usage=usage)  # type: ignore[arg-type]

        monkeypatch.setattr("billing_pipeline.period_charges.rate", counted)
        book(month, [day("2026-03-31")])
        assert len(seen) == len(set(seen)) == 4 * len(set(QUANTITIES))


@pytest.mark.usefixtures("beside")
class TestWritingBesideRating:
    def test_leaves_nothing_where_a_later_charge_cannot_be_rated(self, database: Database, tmp_path: Path) -> None:
        folder = write_catalog(
            tmp_path / "catalog", plans=PLANS, subscriptions=subscribed(), meters=METERS + MORE, prices=ONCE + PRICES
        )
        CatalogStore(database).load(folder)
        for account in ("acme", "beta"):
            use(database, account, "2026-03-09T09:00", 7)
        use(database, "gamma", "2026-03-09T09:00", 1_001)
        before = sys.getswitchinterval(), threading.active_count()
        with pytest.raises(BeyondLastTierError, match=r"account 'gamma', .*prices.toml: small: .*line \d+"):
            ChargeStore(database, catalog_dir=folder).book_days([day("2026-03-31")], run_id="run", code_version="test")
        assert money_of(database) == []
        assert (sys.getswitchinterval(), threading.active_count()) == before
        use(database, "gamma", "2026-03-09T09:00", 1_000)
        assert book(ChargeStore(database), [day("2026-03-31")])[0].revisions_booked == 7

    @pytest.mark.parametrize("batch", [3, len(QUANTITIES) + 1])
    def test_says_what_the_server_says_of_a_batch_and_books_nothing(
        self, month: ChargeStore, monkeypatch: pytest.MonkeyPatch, batch: int
    ) -> None:
        write, written = SpelledRows.write, []

        def refused(self: SpelledRows, connection: psycopg.Connection) -> None:
            written.append(self)
            if len(written) == batch:
                connection.execute("update billing.charge_revision set amount_minor = 0")
            write(self, connection)

        monkeypatch.setattr(SpelledRows, "write", refused)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            book(month, [day("2026-03-31")])
        assert len(written) == batch
        assert money_of(month.database) == []

    def test_writes_the_last_batch_before_guards_look(
        self, month: ChargeStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write, pause = SpelledRows.write, threading.Event()

        def slowly(self: SpelledRows, connection: psycopg.Connection) -> None:
            pause.wait(0.02)
            write(self, connection)

        monkeypatch.setattr(SpelledRows, "write", slowly)
        (booking,) = book(month, [day("2026-03-31")])
        assert booking.held == ()
        assert books(month.database) == expected(month.database)

    def test_killed_in_the_middle_and_run_again_books_the_same(self, month: ChargeStore) -> None:
        for death in (1, 4):
            assert killed_at_batch(month.database, death) == -signal.SIGKILL
            assert money_of(month.database) == []
        book(month, [day("2026-03-31")])
        assert books(month.database) == expected(month.database)
        assert book(month, [day("2026-03-31")])[0].revisions_booked == 0


def subscribed() -> str:
    return "".join(
        f'[[subscription]]\nid = "s_{name}"\naccount = "{name}"\nplan = "groups"\nstarts_at = 2026-01-01T00:00:00Z\n'
        for name in ("acme", "beta", "gamma")
    )


def killed_at_batch(database: Database, number: int) -> int:
    """Book in a process that kills itself while the batch with that number is written, and return how it ended."""
    environment = {**os.environ, "URL": database.url, "BATCH": str(number)}
    return subprocess.run([sys.executable, "-c", _KILLED], cwd=PROJECT_ROOT, env=environment, check=False).returncode


_KILLED = """
import os, signal
from datetime import date
from resources import book_writer, charge_usage
from resources.charge_rows import SpelledRows
from resources.charge_store import ChargeStore
from resources.database import Database
book_writer.FEW_SUBSCRIPTIONS, charge_usage.BATCH_SLOTS = 0, 1
write, written = SpelledRows.write, []
def killed(self, connection):
    written.append(self)
    write(self, connection)
    if len(written) == int(os.environ["BATCH"]):
        os.kill(os.getpid(), signal.SIGKILL)
SpelledRows.write = killed
ChargeStore(Database(os.environ["URL"])).book_days([date(2026, 3, 31)], run_id="run", code_version="test")
"""
