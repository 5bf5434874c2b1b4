"""Money on invoices: every size exact, what goes by meter, many lines, shown is charged, totals of years."""

import random
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from billing_pipeline.amounts import Money
from billing_pipeline.invoicing.items import ItemKind
from billing_pipeline.invoicing.policy import InvoicingPolicy
from resources.database import Database
from resources.invoicing.added_store import AdjustmentRefusedError
from resources.invoicing.invoice_reader import InvoiceReader
from tests.invoicing_world import (
    ACCOUNTS,
    InvoicingWorld,
    accounts_of,
    at,
    days_of,
    month,
    subscriptions_of,
)

JANUARY, FEBRUARY, MARCH = month(1), month(2), month(3)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> InvoicingWorld:
    """Return an installation with a catalog, in the middle of February."""
    made = InvoicingWorld(database, tmp_path / "catalog")
    made.load()
    return made


class TestAmounts:
    @pytest.mark.parametrize(
        ("quantity", "price", "shown"),
        [
            ("1", "1000000.000", "1000000.00 USD"),
            ("1", "0.0001", "0.00 USD"),
            ("10000", "0.0001", "1.00 USD"),
            ("3", "0.005", "0.02 USD"),
            ("1", "-0.005", "-0.01 USD"),
            ("123456789", "9.99", "1233333322.11 USD"),
        ],
    )
    def test_of_every_size_are_exact_and_rounded_once(
        self, world: InvoicingWorld, quantity: str, price: str, shown: str
    ) -> None:
        line = world.added.sell_once(
            "acme",
            description="Set-up",
            quantity=Decimal(quantity),
            unit="piece",
            unit_price=Decimal(price),
            sold_at=JANUARY.start,
            decision=world.decision(),
        )
        assert str(line.amount) == shown
        ((exact, kept),) = world.rows("select exact_amount, amount_minor from invoicing.one_off")
        assert exact == Decimal(quantity) * Decimal(price)
        assert Money(int(str(kept)), "USD") == line.amount
        assert line.invoice is not None
        assert line.invoice.total == line.amount
        assert world.receivable("acme") == line.amount
        assert world.disagreements() == ()

    def test_of_an_adjustment_are_exact(self, world: InvoicingWorld) -> None:
        for amount in ("1000000.000", "0.0001"):
            world.added.adjust("acme", reach=JANUARY, amount=Decimal(amount), decision=world.decision())
        assert world.rows("select exact_amount from invoicing.adjustment order by 1") == [
            (Decimal("0.0001"),),
            (Decimal("1000000.000"),),
        ]
        assert world.receivable("acme") == Money(100_000_000, "USD")

    def test_that_a_charge_rates_to_are_what_the_invoice_says(self, world: InvoicingWorld) -> None:
        world.use("acme", "2026-01-05", 100_000_000)
        world.book_month(1)
        world.compile()
        assert str(world.newest("acme", JANUARY).total) == "1000039.97 USD"

    def test_of_fils_are_whole_steps_on_the_invoice_and_carried_to_the_next(self, world: InvoicingWorld) -> None:
        for number, used in ((1, 5124), (2, 5124)):
            world.use("gulf", f"2026-0{number}-05", used)
            world.book_month(number)
        final = world.finalize("gulf", JANUARY)
        assert str(final.total) == "5.120 KWD"
        assert str(world.newest("gulf", FEBRUARY).total) == "5.130 KWD"
        (carried,) = (item for item in world.lines("gulf", FEBRUARY).items if "earlier" in item.description)
        assert str(carried.amount) == "0.004 KWD"
        assert world.disagreements() == ()

    def test_need_an_account_a_period_and_words(self, world: InvoicingWorld) -> None:
        def adjust(account: str = "acme", subscription: str | None = None, reason: str = "why") -> None:
            world.added.adjust(
                account,
                reach=JANUARY,
                amount=Decimal(1),
                decision=world.decision(reason),
                subscription_id=subscription,
            )

        with pytest.raises(AdjustmentRefusedError, match="no billing period there"):
            adjust("alone")
        with pytest.raises(AdjustmentRefusedError, match="has no subscription 's_beta'"):
            adjust(subscription="s_beta")
        with pytest.raises(AdjustmentRefusedError, match="reason is empty"):
            adjust(reason=" ")
        world.load(
            subscriptions=subscriptions_of(ACCOUNTS)
            + '[[subscription]]\nid = "s_more"\naccount = "acme"\nplan = "one_fee"\nstarts_at = 2026-01-01T00:00:00Z\n'
        )
        with pytest.raises(AdjustmentRefusedError, match="has several invoices in that period: s_acme"):
            adjust()
        adjust(subscription="s_more")
        assert world.rows("select subscription_id from invoicing.adjustment") == [("s_more",)]

    def test_sold_to_an_account_without_subscription_make_an_invoice_of_its_own(self, world: InvoicingWorld) -> None:
        line = world.added.sell_once(
            "alone",
            description="Set-up",
            quantity=Decimal(1),
            unit="piece",
            unit_price=Decimal(500),
            sold_at=at("2026-01-15T00:00"),
            decision=world.decision(),
        )
        assert line.invoice is not None
        assert (line.invoice.key.subscription_id, line.invoice.key.period) == (None, FEBRUARY)
        final = world.invoices.finalize(str(line.invoice.invoice_id), actor="kim", reason="due", now=world.now)
        assert str(final.total) == "500.00 USD"


class TestLines:
    def test_of_a_meter_of_stripe_are_marked_and_those_from_a_balance_left_out(self, world: InvoicingWorld) -> None:
        world.use("beta", "2026-01-05", 100)
        world.book_month(1)
        world.compile()
        assert {item.description: item.by_meter for item in world.lines("beta", JANUARY).items} == {
            "basic": False,
            "by_meter": True,
        }
        assert str(world.newest("beta", JANUARY).total) == "11.99 USD"
        assert world.disagreements() == ()

    def test_beyond_250_are_grouped_and_explainable(self, world: InvoicingWorld) -> None:
        with world.database.transaction() as connection:
            connection.execute(
                """
                insert into usage.api_requests
                    (event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id, quantity, unit,
                     request_count)
                select '2026-01-05', 'many', 'requests', '2026-01-05T12:00Z', '2026-01-05T13:00Z', '/a', 'GET', 'c' || number,
                    number, 'request', 1
                from generate_series(1, 1000) as number
                """
            )
        world.book_month(1)
        final = world.finalize("many", JANUARY)
        assert str(final.total) == "5005.00 USD"
        assert final.item_count == 250
        invoice = world.lines("many", JANUARY)
        (group,) = (item for item in invoice.items if item.parts)
        assert (group.description, len(group.parts)) == ("Other usage (751 lines)", 751)
        assert group.amount == Money(sum(range(1, 752)), "USD")
        charges = world.rows(
            "select count(*), sum(final_item.amount_minor)::bigint from invoicing.final_item join billing.charge_revision using"
            " (charge_id, revision) where final_item.amount_minor = charge_revision.amount_minor"
        )
        assert charges == [(1000, 500_500)]
        assert world.disagreements() == ()

    def test_of_several_kinds_of_usage_and_a_subscription_beside_stand_on_one_invoice(
        self, world: InvoicingWorld
    ) -> None:
        beside = (
            '[[subscription]]\nid = "s_more"\naccount = "acme"\nplan = "one_fee"\nstarts_at = 2026-01-10T00:00:00Z\n'
            'invoice_with = "s_acme"\n'
        )
        world.load(
            subscriptions=subscriptions_of(ACCOUNTS).replace('plan = "fees_and_requests"', 'plan = "requests"') + beside
        )
        world.use("acme", "2026-01-05", 500)
        world.book([date(2026, 1, 15)])
        world.compile()
        invoice = world.lines("acme", JANUARY)
        assert [(item.kind, item.subscription_id, str(item.amount)) for item in invoice.items] == [
            (ItemKind.USAGE, "s_acme", "5.00 USD"),
            (ItemKind.FEE, "s_more", "7.80 USD"),
        ]
        assert world.rows("select count(*) from invoicing.invoice where account_id = 'acme'") == [(1,)]


class TestParity:
    def test_of_preview_draft_and_final_is_500_of_500(self, database: Database, tmp_path: Path) -> None:
        accounts = {f"p{number:02}": ("requests", "USD", "") for number in range(50)}
        world = InvoicingWorld(
            database, tmp_path / "catalog", InvoicingPolicy(finalize_after=timedelta(0)), at("2026-11-10T00:00")
        )
        world.load(accounts=accounts_of(accounts), subscriptions=subscriptions_of(accounts))
        chance = random.Random(15)
        with database.transaction() as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                insert into usage.api_requests
                    (event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id, quantity, unit,
                     request_count)
                values (%(day)s, %(account)s, 'requests', %(at)s, %(at)s::timestamptz + interval '1 hour', '/a', 'GET', 'c',
                    %(quantity)s, 'request', 1)
                """,
                [
                    {
                        "day": date(2026, number, 5),
                        "account": account,
                        "at": at(f"2026-{number:02}-05T12:00"),
                        "quantity": chance.randrange(1, 10**6),
                    }
                    for account in accounts
                    for number in range(1, 11)
                ],
            )
        world.build([day for number in range(1, 11) for day in days_of(month(number))])
        previews = {
            invoice.invoice_id: invoice
            for account in accounts
            for invoice in world.invoices.preview(account, as_of=world.now).invoices
        }
        assert len(previews) == 500
        world.compile()
        drafts = {row.invoice_id: invoice for row, invoice in world.invoices.open_invoices()}
        assert sum(previews[one] != drafts[one] for one in previews) == 0
        assert drafts.keys() == previews.keys()
        final = world.invoices.finalize_due(now=world.now)
        assert [row.number for row in final] == [f"INV-{number:06}" for number in range(1, 501)]
        assert sum(previews[row.invoice_id].total != row.total for row in final) == 0
        assert sum(previews[row.invoice_id].digest != row.items_digest for row in final) == 0
        assert world.disagreements() == ()


class TestMonths:
    def test_add_up_what_counts_and_nothing_else(self, world: InvoicingWorld) -> None:
        for number in (1, 2, 3):
            world.use("acme", f"2026-0{number}-05", 100 * number)
            world.book_month(number)
        world.finalize("acme", JANUARY)
        world.invoices.void(str(world.finalize("acme", FEBRUARY).number), actor="kim", reason="why", now=world.now)
        reader = InvoiceReader(world.database)
        found = {(one.month, one.total.currency): (one.invoices, one.total.minor_units) for one in reader.months()}
        beta = 1099
        assert found == {
            (date(2026, 1, 1), "USD"): (2, 3997 + 100 + beta),
            (date(2026, 2, 1), "USD"): (1, beta),
            (date(2026, 3, 1), "USD"): (2, 3997 + 300 + beta),
        }
        by_account = [reader.months(account_id=account) for account in ACCOUNTS]
        assert sum(one.invoices for months in by_account for one in months) == 5

    def test_are_those_of_the_account_where_its_period_begins(self, world: InvoicingWorld) -> None:
        accounts = accounts_of(ACCOUNTS).replace('time_zone = "UTC"', 'time_zone = "Asia/Tokyo"')
        subscriptions = subscriptions_of(ACCOUNTS).replace("2026-01-01T00:00:00Z", "2025-12-31T15:00:00Z")
        world.load(accounts=accounts, subscriptions=subscriptions)
        world.book_month(1)
        world.compile()
        months = {one.month for one in InvoiceReader(world.database).months()}
        assert date(2026, 1, 1) in months
        assert date(2025, 12, 1) not in months
