"""What is billed here beside what Stripe holds: equal to the minor unit, or a difference with a name. Row 39, FLY-15, FLY-16."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.amounts import to_money
from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.periods import Window
from billing_pipeline.reconciliation import (
    PENDING,
    Agreement,
    Drift,
    HeldLine,
    OurInvoice,
    Reconciled,
    Standing,
    reconcile,
)
from resources.database import Database
from resources.reconciliation.canaries import Canary, CanaryFileError, load_canaries
from resources.reconciliation.reconciler import Reconciler, Reconciliation
from resources.settings import PROJECT_ROOT
from resources.stripe_mirror.gateway_reads import GatewayReads
from resources.stripe_mirror.reads import StripeAwayError
from tests.invoicing_world import (
    ACCOUNTS,
    PLANS,
    PRICES,
    InvoicingWorld,
    accounts_of,
    days_of,
    month,
    subscriptions_of,
)
from tests.stripe_world import StripeWorld, stripe_world

MARCH = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
LINKED = Standing(customer_id="cus_1")
APRIL_1 = datetime(2026, 4, 1, tzinfo=UTC)


def ours(lines: dict[str, int], state: InvoiceState = InvoiceState.DRAFT, number: int = 1) -> OurInvoice:
    return OurInvoice(
        invoice_id=UUID(int=number),
        account_id="acme",
        subscription_id="s_acme",
        period=MARCH,
        state=state,
        currency="USD",
        lines=lines,
    )


def held(lines: dict[str, int], where: str = PENDING, currency: str = "USD") -> list[HeldLine]:
    return [HeldLine(key=key, amount=amount, currency=currency, where=where) for key, amount in lines.items()]


def compared(
    invoices: Sequence[OurInvoice], lines: Sequence[HeldLine], standing: Standing = LINKED, **options: Any
) -> tuple[Reconciled, ...]:
    return reconcile("acme", invoices, lines, standing, **options)


class TestReconcile:
    def test_names_a_cent_and_the_line_that_it_is_in(self) -> None:
        (row,) = compared([ours({"a": 500, "b": 300})], held({"a": 500}) + held({"b": 299}, "in_1"))
        assert (row.agreement, row.ours, row.held, row.difference) == (Agreement.DRIFT, 800, 799, -1)
        assert row.drifts == (Drift(key="b", ours=300, held=299, where=("in_1",)),)

    def test_does_not_let_two_drifts_cancel_out(self) -> None:
        (row,) = compared([ours({"a": 500, "b": 300})], held({"a": 501, "b": 299}))
        assert (row.agreement, row.difference, len(row.drifts)) == (Agreement.DRIFT, 0, 2)

    def test_sees_a_line_that_is_there_twice(self) -> None:
        (row,) = compared([ours({"a": 500})], held({"a": 500}, "in_1") + held({"a": 500}))
        assert (row.agreement, row.difference) == (Agreement.DRIFT, 500)
        assert row.drifts[0].where == ("in_1", PENDING)

    def test_takes_the_same_line_on_two_invoices_for_what_it_comes_to(self) -> None:
        """Taken in part by an upgrade in mid-period (row 25)."""
        (row,) = compared([ours({"a": 500})], held({"a": 200}, "in_1") + held({"a": 300}, "in_2"))
        assert row.agreement is Agreement.EQUAL

    def test_shows_what_nothing_here_knows(self) -> None:
        found = compared([ours({"a": 500})], held({"a": 500, "z": 7}))
        assert [row.agreement for row in found] == [Agreement.EQUAL, Agreement.DRIFT]
        assert (found[1].invoice, found[1].difference) == (None, 7)
        assert len(compared([ours({"a": 500})], held({"a": 500, "z": 7}), elsewhere=frozenset({"z"}))) == 1

    def test_does_not_add_currencies(self) -> None:
        (row,) = compared([ours({"a": 500})], held({"a": 500}, currency="EUR"))
        assert row.agreement is Agreement.DRIFT
        assert row.drifts[0].where == ("another currency",)

    @pytest.mark.parametrize(
        ("standing", "options", "agreement"),
        [
            (Standing(customer_id="cus_1", is_behind=True), {}, Agreement.BEHIND),
            (Standing(customer_id=None), {}, Agreement.UNLINKED),
            (LINKED, {"is_pushed": False}, Agreement.NOT_DUE),
            (LINKED, {}, Agreement.DRIFT),
        ],
    )
    def test_says_why_nothing_is_there(
        self, standing: Standing, options: dict[str, bool], agreement: Agreement
    ) -> None:
        (row,) = compared([ours({"a": 500})], [], standing, **options)
        assert row.agreement is agreement

    def test_of_a_final_invoice_waits_for_no_renewal(self) -> None:
        (row,) = compared([ours({"a": 500}, InvoiceState.FINAL)], [], is_pushed=False)
        assert row.agreement is Agreement.DRIFT

    def test_takes_off_what_is_given_back_on_both_sides(self) -> None:
        invoice = replace(ours({"a": 500}, InvoiceState.FINAL), credits={"CN-1": -100})
        (row,) = compared([invoice], held({"a": 500}, "in_1") + held({"CN-1": -100}, "cn_1"))
        assert (row.agreement, row.ours, row.held) == (Agreement.EQUAL, 400, 400)
        assert (row.ours_credited, row.held_credited) == (-100, -100)

    def test_names_a_credit_note_that_is_a_cent_off_or_of_nothing_here(self) -> None:
        invoice = replace(ours({"a": 500}, InvoiceState.FINAL), credits={"CN-1": -100})
        found = compared([invoice], held({"a": 500}, "in_1") + held({"CN-1": -99}, "cn_1") + held({"cn_2": -7}, "cn_2"))
        assert [row.agreement for row in found] == [Agreement.DRIFT, Agreement.DRIFT]
        assert found[0].drifts == (Drift(key="CN-1", ours=-100, held=-99, where=("cn_1",)),)
        assert (found[1].difference, found[1].drifts[0].where) == (-7, ("cn_2",))

    def test_knows_a_credit_note_that_is_on_its_way(self) -> None:
        invoice = replace(ours({"a": 500}, InvoiceState.FINAL), credits={"CN-1": -100})
        late = frozenset({"CN-1"})
        (row,) = compared([invoice], held({"a": 500}, "in_1"), on_their_way=late)
        assert (row.agreement, row.difference) == (Agreement.BEHIND, 100)
        (row,) = compared([invoice], held({"a": 499}, "in_1"), on_their_way=late)
        assert row.agreement is Agreement.DRIFT

    @given(
        lines=st.dictionaries(st.text("abcd", min_size=1, max_size=2), st.integers(-1000, 1000), max_size=6),
        there=st.lists(st.tuples(st.text("abcd", min_size=1, max_size=2), st.integers(-1000, 1000)), max_size=8),
    )
    def test_adds_up_to_what_both_sides_have(self, lines: dict[str, int], there: list[tuple[str, int]]) -> None:
        """Whole = sum of parts: nothing that either side has is left out, and equal means equal line by line."""
        found = compared([ours(lines)], [HeldLine(key=k, amount=a, currency="USD", where=PENDING) for k, a in there])
        assert sum(row.ours for row in found) == sum(lines.values())
        assert sum(row.held for row in found) == sum(amount for _, amount in there)
        assert all(row.difference == sum(drift.difference for drift in row.drifts) for row in found)
        sums: dict[str, int] = dict.fromkeys(lines, 0)
        for key, amount in there:
            sums[key] = sums.get(key, 0) + amount
        is_equal = all(sums[key] == lines.get(key, 0) for key in sums)
        assert is_equal == all(row.agreement is Agreement.EQUAL for row in found)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[StripeWorld]:
    accounts = {"acme": ("fees_and_requests", "USD", ""), "beta": ("requests", "USD", "")}
    with stripe_world(database, tmp_path, accounts=accounts) as world:
        yield world


def reconciled(world: StripeWorld, day: date = date(2026, 3, 15), **options: Any) -> Reconciliation:
    """Reconcile a minute later, so that what was synced at the same instant is not taken for under way."""
    world.advance_to(world.now + timedelta(minutes=1))
    gateway = world.gateway()
    reconciler = Reconciler(database=world.database, reads=lambda: GatewayReads(gateway), clock=world.clock, **options)
    return reconciler.reconcile(day, run_id=world._run())


class TestReadBack:
    """Over sockets, with the sync's own doing on the other side."""

    def test_finds_both_sides_equal_after_a_sync(self, world: StripeWorld) -> None:
        """FLY-15: what is shown is what is charged."""
        world.link("acme", "beta")
        for account, quantity in (("acme", 100), ("beta", 31)):
            world.use(account, "2026-03-05", quantity)
        world.sync()
        found = reconciled(world)
        assert {row.agreement for row in found.rows} == {Agreement.EQUAL}
        assert sum(row.ours for row in found.rows) == world.charged("acme") + world.charged("beta") > 0
        kept = world.rows("select account_id, agreement, difference_stripe_minor from invoicing.reconciliation")
        assert sorted(set(kept)) == [("acme", "equal", 0), ("beta", "equal", 0)]

    def test_names_a_cent_that_somebody_has_changed_at_stripe(self, world: StripeWorld) -> None:
        """Row 39."""
        world.link("acme", "beta")
        for account in ("acme", "beta"):
            world.use(account, "2026-03-05", 100)
        world.sync()
        item = world.pending("acme")[-1]
        world.sdk.v1.invoice_items.update(item.id or "", {"amount": item.amount + 1})
        (drift,) = reconciled(world).of(Agreement.DRIFT)
        assert (drift.account_id, drift.difference) == ("acme", 1)
        assert [(one.key, one.difference, one.where) for one in drift.drifts] == [
            (item.metadata["bp_key"], 1, (PENDING,))
        ]
        kept = world.rows(
            "select account_id, drifts -> 0 ->> 'key' from invoicing.reconciliation where agreement = 'drift'"
        )
        assert kept == [("acme", item.metadata["bp_key"])]
        world.sync(verify=True)
        assert reconciled(world).of(Agreement.DRIFT) == ()

    def test_tells_what_is_on_its_way_from_what_is_wrong(self, world: StripeWorld) -> None:
        """FLY-16: behind, and since when."""
        world.link("acme")
        world.use("acme", "2026-03-05", 100)
        world.sync()
        synced_at = world.now
        world.advance_to(world.now + timedelta(hours=2))
        world.use("acme", "2026-03-06", 50)
        world.books.compile()
        found = reconciled(world)
        assert [row.agreement for row in found.rows if row.drifts] == [Agreement.BEHIND]
        standing = found.standings["acme"]
        assert (standing.synced_at, standing.behind_since) == (synced_at, synced_at)

    def test_follows_a_renewal_to_the_invoice_that_was_paid(self, world: StripeWorld) -> None:
        world.link("acme")
        world.use("acme", "2026-03-05", 100)
        world.complete(3)
        world.sync()
        world.renew(APRIL_1)
        world.true_up()
        world.advance_to(APRIL_1 + timedelta(hours=30))
        world.mirror()
        world.sync()
        found = reconciled(world, date(2026, 4, 1))
        assert {row.agreement for row in found.rows} == {Agreement.EQUAL}
        final = [row for row in found.rows if row.invoice and row.invoice.state is InvoiceState.FINAL]
        assert [row.held for row in final] == [sum(world.ours(world.invoices_at_stripe("acme")[-1].id or "").values())]

    def test_of_accounts_without_a_customer_says_so(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-05", 100)
        world.books.compile()
        found = reconciled(world)
        assert {row.agreement for row in found.rows if row.ours} == {Agreement.UNLINKED}

    def test_does_not_ask_for_lines_of_final_invoices_again(self, world: StripeWorld) -> None:
        """Row 16: unchanged costs a call for a hundred."""
        world.link("acme", "beta")
        world.sync()
        reconciled(world)
        before = len(world.attempts)
        reconciled(world)
        calls = [str(one.call.operation) for one in world.attempts[before:]]
        assert calls == ["invoice_items.list", "invoices.list", "credit_notes.list"]

    def test_keeps_nothing_when_stripe_cannot_be_read(self, world: StripeWorld) -> None:
        world.link("acme")
        world.use("acme", "2026-03-05", 100)
        world.sim.remote.fault("unavailable", times=1_000)
        with pytest.raises(StripeAwayError):
            reconciled(world)
        assert world.rows("select * from invoicing.reconciliation") == []


class TestCreditNotes:
    """Ours, Stripe's and the difference are less what is given back, to the minor unit."""

    @pytest.fixture
    def invoice(self, world: StripeWorld) -> str:
        world.link("acme", "beta")
        world.use("acme", "2026-03-05", 100)
        world.complete(3)
        world.sync()
        world.renew(APRIL_1)
        world.true_up()
        world.advance_to(APRIL_1 + timedelta(hours=30))
        world.mirror()
        world.sync()
        (renewal,) = (one for one in world.invoices_at_stripe("acme") if one.billing_reason == "subscription_cycle")
        return renewal.id or ""

    def credit(self, world: StripeWorld, amount: str) -> None:
        number = world.books.newest("acme", MARCH).number or ""
        world.books.added.credit(number, amount=Decimal(amount), decision=world.books.decision())

    def march(self, world: StripeWorld) -> Reconciled:
        (row,) = (row for row in reconciled(world, date(2026, 4, 1)).rows if row.ours_credited)
        return row

    def test_are_behind_until_they_are_there_and_equal_then(self, world: StripeWorld, invoice: str) -> None:
        self.credit(world, "5.01")
        row = self.march(world)
        assert (row.agreement, row.ours_credited, row.held_credited) == (Agreement.BEHIND, -501, 0)
        world.credit_notes()
        row = self.march(world)
        assert (row.agreement, row.ours_credited, row.held_credited) == (Agreement.EQUAL, -501, -501)
        assert row.ours == row.held == sum(world.ours(invoice).values()) - 501
        kept = world.rows(
            "select ours_stripe_minor, ours_credited_stripe_minor, held_credited_stripe_minor from invoicing.reconciliation"
            " where agreement = 'equal' and ours_credited_stripe_minor < 0"
        )
        assert kept == [(row.ours, -501, -501)]

    def test_that_somebody_made_void_or_issued_at_stripe_are_drifts(self, world: StripeWorld, invoice: str) -> None:
        self.credit(world, "5.00")
        (note,) = world.credit_notes()
        foreign = world.sdk.v1.credit_notes.create({"invoice": invoice, "amount": 7, "credit_amount": 7}).id
        (drift,) = reconciled(world, date(2026, 4, 1)).of(Agreement.DRIFT)
        assert (drift.account_id, drift.difference, drift.drifts[0].key) == ("acme", -7, foreign)
        row = world.sim.application.world.table("credit_note").get(note.stripe_id or "")
        assert row is not None
        row["status"] = "void"
        found = reconciled(world, date(2026, 4, 1)).of(Agreement.DRIFT)
        assert {one.difference for one in found} == {-7, 500}

    def test_of_invoices_that_are_long_over_are_looked_at_again(self, world: StripeWorld, invoice: str) -> None:
        late = date(2026, 6, 20)
        world.advance_to(datetime(2026, 6, 20, tzinfo=UTC))
        assert MARCH not in [row.invoice.period for row in reconciled(world, late).rows if row.invoice]
        self.credit(world, "5.00")
        world.credit_notes()
        (row,) = (row for row in reconciled(world, late).rows if row.ours_credited)
        assert (row.agreement, row.invoice and row.invoice.period) == (Agreement.EQUAL, MARCH)


class TestCanary:
    def test_is_right_when_its_bill_is_what_was_known(self, world: StripeWorld) -> None:
        world.link("acme")
        world.use("acme", "2026-03-05", 100)
        world.complete(3)
        world.sync()
        world.renew(APRIL_1)
        world.true_up()
        world.advance_to(APRIL_1 + timedelta(hours=30))
        world.mirror()
        world.sync()
        found = [row.invoice for row in reconciled(world, date(2026, 4, 1)).rows if row.invoice is not None]
        (paid,) = (invoice for invoice in found if invoice.period.end == APRIL_1 and invoice.account_id == "acme")
        canary = Canary(
            account_id="acme",
            subscription_id="s_acme",
            total=Decimal(paid.total) / 100,
            since=MARCH.start,
        )
        (result,) = reconciled(world, date(2026, 4, 1), canaries=(canary,)).canaries
        assert (result.is_right, result.period_end) == (True, APRIL_1)
        wrong = Canary(account_id="acme", subscription_id="s_acme", total=Decimal("0.01"), since=canary.since)
        (result,) = reconciled(world, date(2026, 4, 1), canaries=(wrong,)).canaries
        assert (result.is_right, result.expected, result.ours, result.held) == (False, 1, paid.total, paid.total)
        assert world.rows("select is_right from invoicing.canary_result order by compared_at") == [(True,), (False,)]

    def test_without_an_invoice_for_a_period_that_is_over_is_wrong(self, world: StripeWorld) -> None:
        """A canary that bills nothing any more must not look right."""
        world.link("acme")
        world.advance_to(APRIL_1 + timedelta(hours=30))
        canary = Canary(account_id="acme", subscription_id="s_gone", total=Decimal(1), since=MARCH.start)
        alive = replace(canary, subscription_id="s_acme")
        found = reconciled(world, date(2026, 4, 1), canaries=(canary, alive, replace(alive, until=MARCH.start)))
        (result,) = found.canaries
        assert (result.is_right, result.ours, result.period_start) == (False, None, MARCH.start)
        assert found.unknown_canaries == ("account 'acme' with subscription 's_gone'",)

    def test_is_read_from_the_catalog(self, tmp_path: Path) -> None:
        assert load_canaries(tmp_path) == ()
        text = '[[canary]]\naccount = "c"\nsubscription = "s"\ntotal = "42.00"\nsince = 2026-01-01\n'
        (tmp_path / "canary.toml").write_text(text)
        (canary,) = load_canaries(tmp_path)
        assert (canary.account_id, canary.total, canary.since.year) == ("c", Decimal("42.00"), 2026)
        assert canary.until is None

    def test_of_the_page_is_a_catalog_that_loads(self, database: Database, tmp_path: Path) -> None:
        """docs/stripe.md: the blocks of the template beside an installation's own, and the template's total is right."""
        blocks = re.findall(
            r"```toml\n# (\w+\.toml)\n(.*?)```", (PROJECT_ROOT / "docs/stripe.md").read_text(), re.DOTALL
        )
        names = [name for name, _ in blocks]
        assert names == [
            "prices.toml",
            "plans.toml",
            "accounts.toml",
            "subscriptions.toml",
            "canary.toml",
        ]
        books = InvoicingWorld(database, tmp_path / "catalog")
        ours = {"prices": PRICES, "plans": PLANS, "accounts": accounts_of(ACCOUNTS)}
        ours["subscriptions"] = subscriptions_of(ACCOUNTS)
        texts = {name.removesuffix(".toml"): text for name, text in blocks}
        books.folder.mkdir()
        (books.folder / "canary.toml").write_text(texts.pop("canary"))
        books.load(**{name: ours[name] + text for name, text in texts.items()})
        (canary,) = load_canaries(books.folder)
        for day in days_of(month(1))[:28]:
            books.use(canary.account_id, day.isoformat(), 100)
        books.build(days_of(month(1)))
        (invoice,) = (
            one for one in books.invoices.preview(canary.account_id, as_of=books.now).invoices if one.period == month(1)
        )
        assert invoice.total == to_money(canary.total, "USD")

    @pytest.mark.parametrize(
        "text",
        [
            "[[canary]]\naccount = 'c'\n",
            "[[canary]]\naccount = 'c'\nsubscription = 's'\ntotal = 'much'\n",
            "[[canary]]\naccount = 'c'\nsubscription = 's'\ntotal = 'NaN'\n",
            "[[canary]]\naccount = 'c'\nsubscription = 's'\ntotal = 42.0\n",
            "nonsense",
        ],
    )
    def test_that_is_wrong_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "canary.toml").write_text(text)
        with pytest.raises(CanaryFileError):
            load_canaries(tmp_path)
