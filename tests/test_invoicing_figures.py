"""Figures that invoicing and the sync were built for: how seldom Stripe is called, totals of years, one way for each meter."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing_pipeline.amounts import Money
from billing_pipeline.catalog.files import CatalogError
from resources.database import Database
from resources.invoicing.invoice_reader import InvoiceReader
from tests.invoicing_world import PLANS, InvoicingWorld
from tests.stripe_fixtures import START
from tests.stripe_world import StripeWorld, stripe_world

# The quarters of an hour of a day. By default one of four is synced: each costs a compilation. BILLING_ALL_INTERVALS: all of them.
INCREMENTS, INTERVALS = 10_000, range(0, 96, 1 if os.environ.get("BILLING_ALL_INTERVALS") else 4)
INVOICES, MONTHS = 6_000, 60


class TestIntervals:
    @pytest.fixture
    def world(self, database: Database, tmp_path: Path) -> Iterator[StripeWorld]:
        with stripe_world(database, tmp_path, accounts={"acme": ("requests", "USD", "")}) as world:
            world.link("acme")
            yield world

    def test_fly02_of_a_day_are_96_syncs_for_10_000_increments_and_no_call_where_nothing_came(
        self, world: StripeWorld
    ) -> None:
        busy = INTERVALS[::3]
        came, calls, gateway = 0, [], world.gateway()
        for interval in INTERVALS:
            world.advance_to(START + timedelta(minutes=15 * (interval + 1)))
            if interval in busy:
                came += INCREMENTS // len(busy) + (INCREMENTS % len(busy) if interval == busy[-1] else 0)
                world.use("acme", "2026-03-01", came)
            world.forget_calls()
            world.sync(gateway=gateway)
            calls.append((len(world.attempts), len(world.writes())))
        assert came == INCREMENTS
        assert [interval for interval, (made, _) in zip(INTERVALS, calls, strict=True) if made] == list(busy)
        assert [writes for _, writes in calls if writes] == [1] * len(busy)
        assert [item.amount for item in world.pending("acme")] == [INCREMENTS]


class TestYears:
    def test_fly12_of_invoices_are_added_up_by_month(self, database: Database) -> None:
        """A million take as long as docs/benchmarks.md says (`--case invoice-months`)."""
        with database.transaction() as connection:
            connection.execute(
                """
                insert into invoicing.final_invoice (
                    invoice_id, account_id, period_start, period_end, issue, month, currency, item_count, total_minor,
                    items_digest, number, finalized_by, finalized_at
                )
                select gen_random_uuid(), 'a' || number, start, start + interval '1 month', 1, start::date, 'USD', 1, number,
                    'd', 'INV-' || number, 'test', now()
                from generate_series(1, %(invoices)s) as one (number),
                    lateral (select timestamptz '2021-01-01Z' + make_interval(months => number %% %(months)s)) as at (start)
                """,
                {"invoices": INVOICES, "months": MONTHS},
            )
            connection.execute(
                "insert into invoicing.voided_invoice (invoice_id, actor, reason)"
                " select invoice_id, 'kim', 'twice' from invoicing.final_invoice where number = 'INV-60'"
            )
        began = time.monotonic()
        found = InvoiceReader(database).months()
        assert time.monotonic() - began < 5
        truth = [sum(range(month or MONTHS, INVOICES + 1, MONTHS)) for month in range(MONTHS)]
        truth[0] -= 60
        assert [one.total for one in found] == [Money(total, "USD") for total in truth]
        assert [one.month for one in found] == [
            datetime(2021 + month // 12, month % 12 + 1, 1, tzinfo=UTC).date() for month in range(MONTHS)
        ]
        assert [one.invoices for one in found] == [INVOICES // MONTHS - 1, *[INVOICES // MONTHS] * (MONTHS - 1)]


class TestTwoWays:
    def test_x02_of_billing_one_meter_are_refused_with_file_line_and_what_to_do(
        self, database: Database, tmp_path: Path
    ) -> None:
        """One meter by Stripe's meter and by invoice items, in one plan."""
        plans = PLANS.replace('prices = ["basic", "by_meter"]', 'prices = ["basic", "by_meter", "each"]')
        with pytest.raises(CatalogError) as refused:
            InvoicingWorld(database, tmp_path / "catalog").load(plans=plans)
        (finding,) = refused.value.findings
        assert (finding.file, finding.entry, finding.field) == ("plans.toml", "metered", "prices")
        lines = plans.splitlines()
        assert finding.line is not None
        assert lines[finding.line - 1].startswith(('id = "metered"', 'prices = ["basic", "by_meter"', "[[plan]]"))
        assert "by_meter (stripe_meter), each (invoice_items) would bill meter 'requests' twice" in finding.message
        assert "leave one" in finding.message

    def test_x02_of_two_subscriptions_at_once_are_refused_too(self, database: Database, tmp_path: Path) -> None:
        both = "".join(
            f'[[subscription]]\nid = "s_{plan}"\naccount = "acme"\nplan = "{plan}"\nstarts_at = 2026-01-01T00:00:00Z\n'
            for plan in ("metered", "requests")
        )
        with pytest.raises(CatalogError) as refused:
            InvoicingWorld(database, tmp_path / "catalog").load(subscriptions=both)
        (finding,) = refused.value.findings
        assert finding.file == "subscriptions.toml"
        assert finding.line is not None
        assert "bills meter 'requests' of account 'acme' together with 's_metered'" in finding.message
