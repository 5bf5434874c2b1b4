"""What a person sees of a materialization: the numbers add up, tables are tables, pictures are small, text is harmless."""

import base64
import re
from datetime import date
from decimal import Decimal
from xml.etree import ElementTree

import pytest

from assets import columns
from assets.metadata import (
    catalog_metadata,
    charges_metadata,
    ingest_metadata,
    ledger_metadata,
    markdown_table,
    usage_metadata,
)
from assets.plots import INLINE_CHARACTERS, hourly_bars
from resources.database import Database
from tests.dagster_fakes import FakeCatalogStore, FakeVerdicts, booking_of, build_of, ingest_of

DAY = date(2026, 3, 1)
VERDICTS = FakeVerdicts()


class TestIngestMetadata:
    def test_accounts_for_every_line(self):
        found = ingest_metadata(ingest_of(DAY, VERDICTS), in_detail=True)
        outcomes = ("lines_accepted", "lines_rejected", "lines_duplicate", "lines_out_of_scope")
        assert found["lines_read"].value == 10 == sum(found[name].value for name in outcomes)
        assert found["dagster/row_count"].value == 6

    def test_counts_rejections_by_reason(self):
        table = ingest_metadata(ingest_of(DAY, VERDICTS), in_detail=False)["rejected_by_reason"].value
        assert table == "| reason | lines |\n| --- | --- |\n| bad\\_json | 1 |\n| future | 1 |"

    def test_links_to_the_event_days_that_the_delivery_touches(self):
        days = ingest_metadata(ingest_of(DAY, VERDICTS), in_detail=True)["largest_event_days"].value
        assert "[2026-03-01](/assets/usage/api_requests?view=partitions&partition=2026-03-01) | 6" in days


class TestUsageMetadata:
    def test_accounts_for_every_record(self):
        found = usage_metadata(build_of(DAY, VERDICTS), in_detail=True)
        outcomes = ("records_billable", "records_not_billable", "records_duplicate", "records_in_conflict")
        assert found["records_read"].value == 10 == sum(found[name].value for name in outcomes)

    def test_shows_quantities_exactly(self):
        assert (
            "| api\\_requests | 7 |"
            in usage_metadata(build_of(DAY, VERDICTS), in_detail=True)["quantity_by_meter"].value
        )

    def test_of_a_long_range_is_numbers_and_short_text(self):
        found = usage_metadata(build_of(DAY, VERDICTS), in_detail=False)
        assert "requests_by_hour" not in found
        assert sum(len(str(value.value)) for value in found.values()) < 400

    def test_escapes_names_that_would_break_a_table(self):
        accounts = usage_metadata(build_of(DAY, VERDICTS), in_detail=True)["biggest_accounts"].value
        assert "| zeta\\|corp | 3 |" in accounts


class TestBillingMetadata:
    def test_gives_money_in_minor_units_to_plot_and_in_words_to_read(self):
        found = charges_metadata(booking_of(DAY, VERDICTS), in_detail=True)
        assert found["added_minor_EUR"].value == 4839
        assert "| acme | 48.39 EUR |" in found["biggest_accounts"].value

    def test_names_the_guards_that_hold_the_day(self):
        verdicts = FakeVerdicts()
        verdicts.hold("usage/api_requests", "2026-03-01", "hours_delivered")
        found = charges_metadata(booking_of(DAY, verdicts), in_detail=False)
        assert found["guards_holding"].value == 1
        assert found["held_by"].value == "hours_delivered"

    def test_of_the_ledger_says_what_was_posted(self):
        assert ledger_metadata(booking_of(DAY, VERDICTS), in_detail=False)["transactions_posted"].value == 1


class TestCatalogMetadata:
    def test_lists_what_a_load_changed(self):
        found = catalog_metadata(FakeCatalogStore().load("folder"), folder="/catalog", row_count=1)
        assert "| added | price p 1 |" in found["changes"].value


class TestMarkdownTable:
    def test_of_nothing_says_so(self):
        assert markdown_table(("a", "b"), []).value == "none"

    @pytest.mark.parametrize(
        ("value", "text"),
        [(1234567, "1,234,567"), (Decimal("1234.500"), "1,234.5"), (Decimal("0E-9"), "0"), (Decimal("100"), "100")],
    )
    def test_writes_numbers_exactly(self, value: object, text: str):
        assert f"| {text} |" in markdown_table(("n",), [(value,)]).value


class TestHourlyBars:
    def picture(self, markdown: str) -> ElementTree.Element:
        match = re.fullmatch(r"!\[Requests\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", markdown)
        assert match is not None
        return ElementTree.fromstring(base64.b64decode(match[1]))

    def test_is_a_picture_with_a_bar_an_hour_in_proportion(self):
        picture = self.picture(hourly_bars([0, 25, 100, *[50] * 21], title="Requests"))
        heights = re.findall(r"v-(\d+)", picture.find("{*}path").attrib["d"])
        assert heights == ["15", "60", *["30"] * 21]
        assert picture.find("{*}text").text == "100"

    def test_is_short_enough_to_be_shown_without_a_click(self):
        counts = [123_456_789_012 - hour for hour in range(24)]
        assert len(hourly_bars(counts, title="Requests by hour of 2026-03-01, UTC")) < INLINE_CHARACTERS

    def test_of_an_empty_day_has_no_bars(self):
        assert self.picture(hourly_bars([0] * 24, title="Requests")).find("{*}path").attrib["d"] == ""


class TestColumns:
    @pytest.mark.parametrize(
        ("table", "schema"),
        [
            ("usage.api_requests", columns.API_REQUESTS),
            ("usage.traffic", columns.TRAFFIC),
            ("usage.storage", columns.STORAGE),
            ("billing.charge_revision", columns.CHARGES),
            ("billing.ledger_posting", columns.LEDGER),
            ("invoicing.item", columns.INVOICE_ITEMS),
            ("stripe.sync_account", columns.STRIPE_SYNC),
            ("invoicing.reconciliation", columns.RECONCILIATION),
            ("catalog.price", columns.PRICES),
            ("catalog.subscription", columns.SUBSCRIPTIONS),
        ],
    )
    def test_are_those_of_the_table(self, database: Database, table: str, schema):
        with database.reading() as connection:
            found = connection.execute(
                "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
                " order by attnum",
                [table],
            ).fetchall()
        assert [column.name for column in schema.columns] == [name for (name,) in found]
