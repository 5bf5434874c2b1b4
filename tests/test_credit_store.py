"""Credit on invoices and in the ledger: who pays, what is frozen, given back, expired; in any order of events."""

from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_pipeline.amounts import Money
from billing_pipeline.credits import GrantSource
from billing_pipeline.invoicing.items import ItemKind
from console import cli
from resources.credits.credit_store import CreditRefusedError, CreditStore, GrantWords
from resources.database import Database
from tests.invoicing_world import InvoicingWorld, at, month

JANUARY, FEBRUARY, MARCH = month(1), month(2), month(3)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> InvoicingWorld:
    """Return an installation with a catalog, in the middle of February."""
    made = InvoicingWorld(database, tmp_path / "catalog")
    made.load()
    return made


def words(
    amount: str,
    *,
    priority: int = 1,
    begin: str = "2026-01-01T00:00",
    until: str | None = None,
    source: GrantSource = GrantSource.PROMOTION,
    key: str = "",
) -> GrantWords:
    return GrantWords(
        amount=Decimal(amount),
        priority=priority,
        effective_at=at(begin),
        expires_at=None if until is None else at(until),
        source=source,
        actor="kim",
        reason="pilot",
        key=key,
    )


def give(world: InvoicingWorld, amount: str, account: str = "acme", **more: str | int | None) -> str:
    """Grant credit and return the grant's id."""
    granted, _ = credits_of(world).grant(account, words(amount, **more), now=world.now)  # type: ignore[arg-type]
    return str(granted.grant_id)


def credits_of(world: InvoicingWorld) -> CreditStore:
    return CreditStore(world.database, world.policy)


def paid(world: InvoicingWorld, period: object, account: str = "acme") -> list[str]:
    """Return what credit lines take off the period's invoice."""
    items = world.lines(account, period).items  # type: ignore[arg-type]
    return [str(item.amount) for item in items if item.kind is ItemKind.CREDIT]


def left(world: InvoicingWorld, when: datetime | None = None, account: str = "acme") -> list[str]:
    """Return what is left of each grant."""
    return [str(state.left) for state in credits_of(world).balances(account, at=when or world.now)]


class TestGrant:
    def test_pays_the_open_invoice_and_is_booked(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        give(world, "30.00")
        assert paid(world, JANUARY) == ["-30.00 USD"]
        assert str(world.newest("acme", JANUARY).total) == "9.97 USD"
        assert world.receivable("acme") == Money(997, "USD")
        assert world.balance("credits:acme") == 0
        assert world.balance("credit_funding:promotion") == 3000

    def test_pays_by_priority_then_earliest_expiry(self, world: InvoicingWorld) -> None:
        give(world, "100.00", priority=3)
        give(world, "20.00", priority=2)
        give(world, "10.00", key="never")
        give(world, "5.00", until="2026-02-02T00:00")
        world.book_month(1)
        world.compile()
        assert sorted(paid(world, JANUARY)) == ["-10.00 USD", "-20.00 USD", "-4.97 USD", "-5.00 USD"]

    def test_with_the_same_words_is_one_grant(self, world: InvoicingWorld) -> None:
        store = credits_of(world)
        first, is_new = store.grant("acme", words("5.00"), now=world.now)
        again, is_new_again = store.grant("acme", words("5.00"), now=world.now)
        assert (first, is_new, is_new_again) == (again, True, False)
        other, is_new = store.grant("acme", words("5.00", key="second"), now=world.now)
        assert is_new
        assert other != first
        assert world.balance("credits:acme") == -1000

    def test_of_a_key_is_given_once_on_whatever_day_it_is_reported_again(self, world: InvoicingWorld) -> None:
        store = credits_of(world)
        first, _ = store.grant("acme", words("25.00", key="pay_123"), now=world.now)
        next_day = words("25.00", key="pay_123", begin="2026-01-02T00:00")
        assert store.grant("acme", next_day, now=world.now) == (first, False)
        for other in (words("30.00", key="pay_123"), words("25.00", key="pay_123", until="2026-03-01T00:00")):
            with pytest.raises(CreditRefusedError, match=r"'pay_123' was granted before with other words: 25\.00 USD"):
                store.grant("acme", other, now=world.now)
        assert world.balance("credits:acme") == -2500

    def test_that_the_currency_cannot_hold_or_without_reason_is_refused(self, world: InvoicingWorld) -> None:
        with pytest.raises(CreditRefusedError, match="more places than the 2 of USD"):
            give(world, "0.001")
        assert world.rows("select count(*) from billing.credit_grant") == [(0,)]

    def test_is_kept_for_ever(self, world: InvoicingWorld) -> None:
        give(world, "5.00")
        for table in ("credit_grant", "credit_entry"):
            with world.database.transaction() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"delete from billing.{table}".encode())


class TestFinalInvoices:
    def test_keep_what_was_spent_on_them(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        give(world, "50.00")
        final = world.finalize("acme", JANUARY)
        assert str(final.total) == "0.00 USD"
        world.book_month(2)
        give(world, "1.00", priority=1, until="2026-02-05T00:00", key="late word")
        world.compile()
        assert paid(world, JANUARY) == ["-39.97 USD"]
        assert paid(world, FEBRUARY) == ["-10.03 USD"]
        assert world.receivable("acme") == Money(3997 - 1003, "USD")

    def test_that_are_void_give_it_back(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        give(world, "50.00")
        final = world.finalize("acme", JANUARY)
        assert left(world) == ["10.03 USD"]
        world.invoices.void(str(final.number), actor="kim", reason="wrong", now=world.now)
        assert left(world) == ["50.00 USD"]
        assert world.balance("credits:acme") == -5000

    def test_get_no_credit_from_late_usage_but_the_next_one_does(self, world: InvoicingWorld) -> None:
        for number in (1, 2):
            world.book_month(number)
        give(world, "100.00")
        world.finalize("acme", JANUARY)
        world.use("acme", "2026-01-09", 500)
        world.book_month(1)
        world.compile()
        assert paid(world, JANUARY) == ["-39.97 USD"]
        assert paid(world, FEBRUARY) == ["-44.97 USD"]


class TestExpiry:
    def test_is_booked_with_what_was_left(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        give(world, "50.00", until="2026-02-05T00:00")
        world.compile()
        assert left(world, at("2026-02-04T00:00")) == ["10.03 USD"]
        assert left(world) == ["0.00 USD"]
        assert world.balance("credits_expired:USD") == -1003
        world.use("acme", "2026-01-09", 3)
        world.book_month(1)
        world.compile()
        assert world.balance("credits_expired:USD") == -1000
        assert world.balance("credits:acme") == 0

    def test_keeps_an_expired_grant_from_the_invoice_that_is_due_later(self, world: InvoicingWorld) -> None:
        world.book_month(2)
        give(world, "50.00", until="2026-02-20T00:00")
        assert paid(world, FEBRUARY) == []

    def test_comes_with_a_revocation(self, world: InvoicingWorld) -> None:
        world.book_month(2)
        grant = give(world, "50.00")
        assert paid(world, FEBRUARY) == ["-39.97 USD"]
        for _ in range(2):
            credits_of(world).revoke(grant[:8], actor="kim", reason="by mistake", now=world.now)
        assert paid(world, FEBRUARY) == []
        assert world.balance("credits:acme") == 0
        with pytest.raises(CreditRefusedError, match="no grants begin with"):
            credits_of(world).revoke("ffffffff", actor="kim", reason="by mistake", now=world.now)


class TestRecurringCredit:
    def test_is_granted_once_a_period_and_expires_with_it(self, world: InvoicingWorld) -> None:
        credit = '[[credit]]\nid = "pilot"\naccount = "acme"\namount = "40.00"\nstarts_at = 2026-01-01T00:00:00Z\n'
        (world.folder / "credits.toml").write_text(credit)
        world.load()
        for number in (1, 2):
            world.book_month(number)
        preview = world.invoices.preview("acme", as_of=world.now)
        for _ in range(2):
            world.compile()
        # A grant that expires at the very end of a period is not valid at that instant: the one of the next period pays.
        assert paid(world, JANUARY) == ["-39.97 USD"]
        assert [invoice.digest for invoice in preview.invoices] == [
            world.lines("acme", period).digest for period in (JANUARY, FEBRUARY)
        ]
        assert world.rows("select count(*) from billing.credit_grant where source = 'recurring'") == [(2,)]


class TestAnyStory:
    @settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(seed=st.integers(0, 10**6))
    def test_ends_with_books_that_agree_with_invoices(self, database: Database, tmp_path: Path, seed: int) -> None:
        random = Random(seed)
        world = InvoicingWorld(database, tmp_path / f"catalog-{seed}")
        _empty(world)
        world.load()
        grants = []
        for step in range(12):
            world.now += timedelta(hours=random.randrange(96))
            match random.randrange(6):
                case 0:
                    until = random.choice([None, "2026-02-15T00:00", "2026-03-15T00:00"])
                    amount = f"{random.randrange(1, 60)}.00"
                    grants.append(give(world, amount, priority=random.randint(1, 3), until=until, key=str(step)))
                case 1:
                    world.use("acme", f"2026-0{random.randint(1, 3)}-10", random.randrange(3000))
                case 2:
                    world.book_month(random.randint(1, 3))
                case 3 if grants:
                    credits_of(world).revoke(random.choice(grants), actor="kim", reason="mistake", now=world.now)
                case 4:
                    row = world.invoices.newest("acme", "s_acme", random.choice([JANUARY, FEBRUARY]))
                    if row is not None and row.state == "draft" and row.item_count:
                        world.finalize("acme", row.key.period)
                case _:
                    world.compile()
        world.compile()
        invoiced = world.rows(
            "select coalesce(sum(total_minor), 0)::bigint from invoicing.invoice where account_id = 'acme'"
        )
        assert world.balance("receivable:acme") == invoiced[0][0]
        assert world.rows("select sum(amount_minor)::bigint from billing.ledger_posting") in ([(0,)], [(None,)])
        for state in credits_of(world).balances("acme", at=world.now + timedelta(days=400)):
            assert state.spent.minor_units >= 0
            assert state.expired.minor_units >= 0
            assert state.left.minor_units >= 0
        before = world.rows("select count(*) from billing.credit_entry")
        world.compile()
        assert world.rows("select count(*) from billing.credit_entry") == before


def _empty(world: InvoicingWorld) -> None:
    with psycopg.connect(world.database.url, autocommit=True) as connection:
        tables = connection.execute(
            "select string_agg(format('%I.%I', schemaname, tablename), ', ') from pg_tables"
            " where schemaname in ('billing', 'invoicing', 'usage', 'catalog', 'guards')"
        ).fetchone()
        assert tables is not None
        connection.execute(f"truncate {tables[0]} restart identity cascade".encode())


class TestTheCommands:
    def test_grant_show_and_revoke(
        self, world: InvoicingWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("BILLING_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("BILLING_CATALOG_DIR", str(world.folder))
        for name in ("BILLING_DATABASE_URL", "DAGSTER_DATABASE_URL"):
            monkeypatch.setenv(name, world.database.url)
        assert cli.run(["grant", "acme", "25.00", "--reason", "pilot", "--source", "top_up"]) == 0
        said = capsys.readouterr().out
        assert "Granted 25.00 USD to acme" in said
        assert "Left: 25.00 USD" in said
        digits = said.split("(")[1][:8]
        assert cli.run(["revoke-credit", digits, "--reason", "by mistake"]) == 0
        assert cli.run(["credits", "acme"]) == 0
        assert "Left: 0.00 USD" in capsys.readouterr().out
        assert cli.run(["grant", "acme", "many", "--reason", "no"]) == 1
        assert "'many' is no amount above 0" in capsys.readouterr().err
        assert cli.run(["credits", "nobody"]) == 1
