"""Invoices in PostgreSQL: drafts follow the books, final ones stay, what comes later goes onto the next one."""

from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import psycopg
import pytest

from billing_pipeline.amounts import Money
from billing_pipeline.invoicing.items import InvoiceKey, ItemKind
from billing_pipeline.invoicing.policy import InvoicingPolicy
from billing_pipeline.invoicing.states import InvoiceState, InvoiceStateError
from resources.database import Database
from resources.invoicing.account_work import InvoiceCreditedError, InvoiceElsewhereError, InvoiceIncompleteError
from resources.invoicing.added_store import AdjustmentRefusedError
from resources.invoicing.invoice_reader import InvoiceReader
from resources.lake import Lake
from resources.retention import Retention
from tests.invoicing_world import ACCOUNTS, InvoicingWorld, accounts_of, at, days_of, month

JANUARY, FEBRUARY, MARCH = month(1), month(2), month(3)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> InvoicingWorld:
    """Return an installation with a catalog, in the middle of February."""
    made = InvoicingWorld(database, tmp_path / "catalog")
    made.load()
    return made


class TestCompile:
    def test_three_fees_are_39_97(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        world.compile()
        invoice = world.lines("acme", JANUARY)
        assert [str(item.amount) for item in invoice.items] == ["10.99 USD", "12.99 USD", "15.99 USD"]
        assert {item.kind for item in invoice.items} == {ItemKind.FEE}
        assert str(world.newest("acme", JANUARY).total) == "39.97 USD" == str(invoice.total)
        assert world.receivable("acme") == invoice.total

    def test_again_writes_nothing(self, world: InvoicingWorld) -> None:
        world.use("acme", "2026-01-03", 7)
        world.book_month(1)
        first = world.invoices.compile_invoices(as_of=world.now)
        assert (first.written, first.removed) == (2, 0)
        before = world.rows("select * from invoicing.draft_item order by item_key")
        again = world.invoices.compile_invoices(as_of=world.now)
        assert (again.written, again.unchanged, again.removed) == (0, first.written, 0)
        assert world.rows("select * from invoicing.draft_item order by item_key") == before

    def test_an_adjustment_survives_what_is_computed(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        added = world.added.adjust("acme", reach=JANUARY, amount=Decimal("-5.00"), decision=world.decision())
        assert added.invoice is not None
        assert str(added.invoice.total) == "34.97 USD"
        world.use("acme", "2026-01-20", 103)
        world.book_month(1)
        world.compile()
        assert str(world.newest("acme", JANUARY).total) == "36.00 USD"
        assert world.receivable("acme") == Money(3600, "USD")
        (line,) = (item for item in world.lines("acme", JANUARY).items if item.kind is ItemKind.ADJUSTMENT)
        assert (line.reason, str(line.amount)) == ("goodwill", "-5.00 USD")

    def test_an_adjustment_of_a_final_invoice_is_refused_and_a_credit_note_offered(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        final = world.finalize("acme", JANUARY)
        with pytest.raises(AdjustmentRefusedError, match=f"billing credit-note {final.number}"):
            world.added.adjust("acme", reach=JANUARY, amount=Decimal("-5.00"), decision=world.decision())
        assert world.balance("adjustments:USD") == 0

    def test_late_usage_is_a_correction_on_the_next_open_invoice(self, world: InvoicingWorld) -> None:
        world.use("acme", "2026-01-03", 100)
        for number in (1, 2):
            world.book_month(number)
        final = world.finalize("acme", JANUARY)
        original = world.lines("acme", JANUARY)
        world.use("acme", "2026-01-04", 50)
        world.book_month(1)
        for _ in range(2):
            world.compile()
            (line,) = (item for item in world.lines("acme", FEBRUARY).items if item.kind is ItemKind.CORRECTION)
            assert str(line.amount) == "0.50 USD"
            assert line.period == JANUARY
            assert line.corrects == next(item.charge_id for item in original.items if item.kind is ItemKind.USAGE)
            assert line.reason == f"booked after invoice {final.number} was final"
        assert world.lines("acme", JANUARY) == original
        assert world.newest("acme", JANUARY).state is InvoiceState.FINAL
        assert world.newest("acme", FEBRUARY).total == Money(3997 + 50, "USD")

    def test_computed_three_times_and_finalized_twice_is_one_invoice_with_one_number(
        self, world: InvoicingWorld
    ) -> None:
        world.book_month(1)
        for _ in range(3):
            world.compile()
        first = world.finalize("acme", JANUARY)
        again = world.invoices.finalize(str(first.number), actor="test", reason="again", now=at("2026-02-20T00:00"))
        assert again == first
        assert first.number == "INV-000001"
        assert world.rows("select count(*) from invoicing.final_invoice where account_id = 'acme'") == [(1,)]


class TestStates:
    def test_a_void_period_is_issued_again_under_the_next_number(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        world.added.adjust("acme", reach=JANUARY, amount=Decimal("-5.00"), decision=world.decision())
        final = world.finalize("acme", JANUARY)
        store, by = world.invoices, {"actor": "kim", "reason": "wrong address", "now": world.now}
        with pytest.raises(InvoiceStateError, match="only the period of a void invoice"):
            store.reissue(str(final.number), **by)
        for _ in range(2):
            assert store.void(str(final.number), **by).state is InvoiceState.VOID
        assert world.rows("select sum(amount_minor)::bigint from invoicing.uninvoiced") == [(3497,)]
        assert world.disagreements() == ()
        for _ in range(2):
            again = store.reissue(str(final.number), **by)
            assert (again.key.issue, again.state, again.total) == (2, InvoiceState.DRAFT, final.total)
        second = world.finalize("acme", JANUARY)
        assert (second.number, second.total) == ("INV-000002", final.total)
        assert world.rows("select number, state from invoicing.invoice where number is not null order by 1") == [
            ("INV-000001", "void"),
            ("INV-000002", "final"),
        ]
        assert world.receivable("acme") == final.total
        assert world.disagreements() == ()

    def test_steps_that_a_state_does_not_allow_say_what_to_do(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        final = world.finalize("acme", JANUARY)
        by = {"actor": "kim", "reason": "why", "now": world.now}
        for step in (world.invoices.hold, world.invoices.release):
            with pytest.raises(InvoiceStateError, match="billing credit-note"):
                step(str(final.number), **by)
        world.invoices.void(str(final.number), **by)
        with pytest.raises(InvoiceStateError, match="billing reissue"):
            world.invoices.finalize(str(final.number), **by)
        with pytest.raises(AdjustmentRefusedError, match=f"billing reissue {final.number}"):
            world.added.adjust("acme", reach=JANUARY, amount=Decimal(-1), decision=world.decision())

    def test_an_incomplete_period_is_not_final_without_a_persons_word_for_exactly_that(
        self, world: InvoicingWorld
    ) -> None:
        world.build(days_of(JANUARY)[:-2])
        world.compile()
        name = str(world.newest("acme", JANUARY).invoice_id)
        by = {"actor": "kim", "reason": "why", "now": world.now}
        with pytest.raises(InvoiceIncompleteError, match="not built on 2026-01-30, 2026-01-31"):
            world.invoices.finalize(name, **by)
        world.invoices.release(name, **by)
        with world.database.transaction() as connection:
            connection.execute("update usage.build set inputs_digest = 'other' where partition_key = '2026-01-05'")
        with pytest.raises(InvoiceIncompleteError, match="built and not booked on 2026-01-05"):
            world.invoices.finalize(name, **by)
        world.build(days_of(JANUARY))
        assert world.invoices.finalize(name, **by).number == "INV-000001"

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (
                "update usage.build set state = 'held' where partition_key = '2026-01-07'",
                "held by a guard on 2026-01-07",
            ),
            (
                "insert into guards.verdict values ('billing/charges', '2026-01-08', 'g', 'held', '', '', '', '', '')",
                "billing/charges is held by a guard on 2026-01-08",
            ),
            (
                (
                    "insert into core.source_file"
                    " (source, key, content_sha256, size_bytes, delivery_day, first_seen_at, modified_at, status)"
                    " values ('api', 'late', repeat('a', 64), 1, '2026-02-01', now(), now(), 'pending')"
                ),
                "1 delivered files wait to be read",
            ),
            ("delete from billing.booked_day where event_day = '2026-01-09'", "built and not booked on 2026-01-09"),
        ],
    )
    def test_what_is_missing_is_named(self, world: InvoicingWorld, change: str, problem: str) -> None:
        world.build(days_of(JANUARY))
        world.compile()
        row = world.newest("acme", JANUARY)
        assert world.invoices.incomplete(row, now=world.now).problems == ()
        with world.database.transaction() as connection:
            connection.execute(change.encode())
        (found,) = world.invoices.incomplete(row, now=world.now).problems
        assert problem in found
        assert "its period ends" in world.invoices.incomplete(row, now=JANUARY.start).problems[0]

    def test_whole_invoices_become_final_by_the_policy_and_by_nobody_else(self, world: InvoicingWorld) -> None:
        world.build(days_of(JANUARY))
        world.book_month(2)
        world.compile()
        assert world.invoices.finalize_due(now=world.now) == ()
        world.policy = InvoicingPolicy(finalize_after=timedelta(days=1))
        assert world.invoices.finalize_due(now=at("2026-02-01T12:00")) == ()
        world.invoices.hold(str(world.newest("beta", JANUARY).invoice_id), actor="kim", reason="wait", now=world.now)
        done = world.invoices.finalize_due(now=world.now)
        assert [(row.key.account_id, row.key.period, row.number) for row in done] == [("acme", JANUARY, "INV-000001")]
        assert world.invoices.finalize_due(now=world.now) == ()
        world.load(accounts=accounts_of(ACCOUNTS).replace('name = "Beta"', 'name = "Beta"\nstripe_customer = "cus_1"'))
        world.invoices.release(str(world.newest("beta", JANUARY).invoice_id), actor="kim", reason="ok", now=world.now)
        assert world.invoices.finalize_due(now=world.now) == ()


class TestStripe:
    def test_its_word_is_recorded_once_whatever_is_missing_here(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        world.compile()
        key = world.newest("acme", JANUARY).key
        record = partial(
            world.invoices.record_finalized, key, external_id="in_1", finalized_at=world.now, held=None, now=world.now
        )
        first = record()
        assert (first.external_id, first.state, str(first.total)) == ("in_1", InvoiceState.FINAL, "39.97 USD")
        assert record() == first
        assert world.invoices.find("in_1") == first
        with pytest.raises(InvoiceElsewhereError, match="final as INV-000001"):
            world.invoices.record_finalized(key, external_id="in_2", finalized_at=world.now, held=None, now=world.now)
        (event,) = InvoiceReader(world.database).events(first.invoice_id)
        assert "is not built" in event.detail["missing"]

    def test_closes_a_period_in_which_nothing_was_charged(self, world: InvoicingWorld) -> None:
        key = InvoiceKey(account_id="many", subscription_id="s_many", period=JANUARY)
        empty = world.invoices.record_finalized(key, external_id="in_1", finalized_at=world.now, held={}, now=world.now)
        assert (empty.total, empty.item_count) == (Money(0, "USD"), 0)
        world.use("many", "2026-01-05", 100)
        world.book_month(1)
        world.compile()
        (line,) = world.lines("many", FEBRUARY).items
        assert (line.kind, str(line.amount)) == (ItemKind.CORRECTION, "1.00 USD")

    def test_a_voided_one_takes_what_people_gave_back_on_it_out_of_the_ledger(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        world.compile()
        key = world.newest("acme", JANUARY).key
        world.invoices.record_finalized(key, external_id="in_1", finalized_at=world.now, held=None, now=world.now)
        world.added.credit("in_1", amount=Decimal("5.00"), decision=world.decision())
        assert world.receivable("acme") == Money(3497, "USD")
        assert world.disagreements() == ()
        with pytest.raises(InvoiceCreditedError, match="CN-000001"):
            world.invoices.void("in_1", actor="kim", reason="why", now=world.now)
        for _ in range(2):
            row = world.invoices.record_voided("in_1", reason="voided at Stripe", now=world.now)
            assert row is not None
            assert row.state is InvoiceState.VOID
        assert world.receivable("acme") == Money(3997, "USD")
        assert world.disagreements() == ()
        assert world.invoices.record_voided("in_9", reason="unknown", now=world.now) is None


class TestHistory:
    def test_of_lines_adjustments_and_the_trail_is_not_the_writers_to_change(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        world.added.adjust("acme", reach=JANUARY, amount=Decimal(-1), decision=world.decision())
        world.finalize("acme", JANUARY)
        for statement in (
            "update invoicing.final_item set amount_minor = 0",
            "delete from invoicing.final_item",
            "update invoicing.final_invoice set total_minor = 0",
            "delete from invoicing.final_invoice",
            "update invoicing.adjustment set amount_minor = 0",
            "delete from invoicing.adjustment",
            "delete from invoicing.invoice_event",
            "update invoicing.invoice_event set actor = 'nobody'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), world.database.transaction() as connection:
                connection.execute(statement.encode())

    @pytest.mark.parametrize(
        ("statement", "refusal"),
        [
            (
                (
                    "insert into invoicing.final_item select gen_random_uuid(), item_key, position, part_of, part_count, kind,"
                    " account_id, subscription_id, source_id, charge_id, corrects, period_start, period_end, amount_minor + 1,"
                    " currency, description, quantity_text, revision, source_digest, reason, by_meter from invoicing.final_item"
                ),
                "violates foreign key",
            ),
            (
                (
                    "insert into invoicing.draft_invoice select invoice_id, account_id, subscription_id, period_start, period_end,"
                    " issue, month, currency, 0, 0, '' from invoicing.final_invoice"
                ),
                "is not compiled again",
            ),
            (
                (
                    "insert into invoicing.credit_note select gen_random_uuid(), 'X', invoice_id, account_id, 3998, currency, null,"
                    " null, 'a', 'b' from invoicing.final_invoice where account_id = 'acme'"
                ),
                "the invoice to 3997",
            ),
        ],
    )
    def test_is_kept_right_by_postgresql_itself(self, world: InvoicingWorld, statement: str, refusal: str) -> None:
        world.book_month(1)
        world.finalize("acme", JANUARY)
        with pytest.raises(psycopg.Error, match=refusal), world.database.transaction() as connection:
            connection.execute(statement.encode())

    def test_of_drafts_is_not_touched_by_retention(self, world: InvoicingWorld, tmp_path: Path) -> None:
        world.use("acme", "2026-01-03", 100)
        world.build(days_of(JANUARY))
        world.compile()
        tables = (
            "usage.api_requests",
            "usage.build",
            "billing.charge_revision",
            "billing.ledger_posting",
            "invoicing.draft_invoice",
            "invoicing.draft_item",
        )
        before = [world.rows(f"select * from {table} order by 1, 2, 3") for table in tables]
        retention = Retention(
            database=world.database, lake=Lake(str(tmp_path / "lake"), tmp_path / "scratch"), scratch_dir=tmp_path
        )
        retention.remove_unused(as_of=at("2031-01-01T00:00"), keep=timedelta(0))
        assert [world.rows(f"select * from {table} order by 1, 2, 3") for table in tables] == before
        assert all(before)
