"""The stores against the model: random histories of bookings, adjustments, finals, voids, Stripe and credits, on real PostgreSQL.

`BILLING_INVOICE_HISTORIES` tells more of them; a history that fails is named by its seed.
"""

import os
import random
from decimal import Decimal
from pathlib import Path

import pytest

from billing_pipeline.charges import ChargeKey
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.items import CompiledInvoice
from billing_pipeline.invoicing.policy import InvoicingPolicy
from billing_pipeline.invoicing.states import InvoiceStateError
from billing_pipeline.invoicing.stripe_amounts import stripe_amounts
from billing_pipeline.periods import Window
from resources.catalog_store import current_catalog
from resources.database import Database
from resources.invoicing.added_store import AdjustmentRefusedError, CreditRefusedError
from resources.invoicing.invoice_reader import InvoiceReader
from resources.invoicing.invoice_rows import InvoiceRow
from tests.invoice_model import Model
from tests.invoicing_world import InvoicingWorld, accounts_of, at, month, subscriptions_of

HISTORIES = int(os.environ.get("BILLING_INVOICE_HISTORIES") or 6)
STEPS = 14
MONTHS = (1, 2, 3)
POLICY = InvoicingPolicy(max_items=4)
NOW = at("2026-04-10T00:00")
ACCOUNTS = {
    f"h{seed}": ("grouped", "USD", "ends_at = 2026-03-01T00:00:00Z\n" if seed % 2 else "") for seed in range(HISTORIES)
}


@pytest.fixture(scope="module")
def catalog_files() -> dict[str, str]:
    return {"accounts": accounts_of(ACCOUNTS), "subscriptions": subscriptions_of(ACCOUNTS)}


class History:
    """One account, in PostgreSQL and in the model."""

    def __init__(self, world: InvoicingWorld, seed: int) -> None:
        self.world, self.seed = world, seed
        self.account, self.subscription_id = f"h{seed}", f"s_h{seed}"
        with world.database.reading() as connection:
            subscription = current_catalog(connection).subscriptions[self.subscription_id]
        self.model = Model(
            currency="USD", subscriptions={self.subscription_id: subscription}, now=world.now, policy=world.policy
        )
        self.model.account_id = self.account
        self.random = random.Random(seed)
        self.period_of = {
            number: window
            for number in MONTHS
            if (window := month(number).overlap(subscription.starts_at, subscription.ends_at)) is not None
        }

    def step(self, number: int) -> str:
        """Let one thing happen in both, and return what."""
        kind = self.random.choice(
            [
                "use",
                "use",
                "use",
                "adjust",
                "sell",
                "finalize",
                "finalize",
                "stripe",
                "interim",
                "void",
                "reissue",
                "credit",
            ]
        )
        getattr(self, kind)(number)
        return kind

    def use(self, number: int) -> None:
        which, client = self.random.choice(sorted(self.period_of)), f"c{self.random.randrange(6)}"
        quantity = self.random.choice([0, 7, 100, 250, 1000])
        self.world.use(self.account, f"{month(which).start:%Y-%m}-03", quantity, client=client)
        self.world.book_month(which)
        period = self.period_of[which]
        key = ChargeKey(
            subscription_id=self.subscription_id,
            price_id="grouped",
            period=period,
            group_key=f'{{"client_id":"{client}"}}',
        )
        if quantity or key.charge_id in self.model.sources:
            self.model.charge(
                f"grouped, client_id {client}", self.subscription_id, period, quantity, charge_id=key.charge_id
            )

    def adjust(self, number: int) -> None:
        period, amount = self.random.choice(sorted(self.period_of.values())), self.random.randrange(-300, 300)
        is_open = self.model.is_open(self.subscription_id, period)
        try:
            line = self.world.added.adjust(
                self.account,
                reach=Window(period.start, period.start.replace(day=2)),
                amount=Decimal(amount).scaleb(-2),
                decision=self.world.decision(key=str(number)),
            )
        except AdjustmentRefusedError:
            assert not is_open
        else:
            assert is_open
            self.model.adjust(line.added_id, self.subscription_id, period, amount)

    def sell(self, number: int) -> None:
        sold_at, amount = at(f"2026-0{self.random.choice(MONTHS)}-05T00:00"), self.random.randrange(1, 500)
        line = self.world.added.sell_once(
            self.account,
            description="Set-up",
            quantity=Decimal(amount),
            unit="piece",
            unit_price=Decimal("0.01"),
            sold_at=sold_at,
            decision=self.world.decision(key=str(number)),
        )
        self.model.sell(line.added_id, sold_at, amount)

    def finalize(self, number: int) -> None:
        for model_invoice, row in self._some_open():
            self.model.finalize(model_invoice)
            self.world.invoices.release(str(row.invoice_id), actor="test", reason="as it is", now=NOW)
            self.world.invoices.finalize(str(row.invoice_id), actor="test", reason="due", now=NOW)

    def stripe(self, number: int) -> None:
        for model_invoice, row in self._some_open():
            held = stripe_amounts(self.world.invoices.compiled(row).items)
            keys = sorted(held)
            lost, other = (self.random.randrange(max(len(keys), 1)) for _ in range(2))
            for place, key in enumerate(keys):
                if place == lost and len(keys) > 1:
                    del held[key]
                elif place == other:
                    held[key] = self.random.randrange(1, 900)
            self.model.finalize(model_invoice, held)
            self.world.invoices.record_finalized(
                row.key, external_id=f"in_{self.seed}_{number}", finalized_at=NOW, held=held, now=NOW
            )

    def interim(self, number: int) -> None:
        for model_invoice, row in self._some_open():
            held = stripe_amounts(self.world.invoices.compiled(row).items)
            final = self.model.finalize(model_invoice)
            self.model.reissued.add(self.model.slot(final))
            self.model.compile()
            self.world.invoices.record_interim(
                row.key, external_id=f"in_{self.seed}_{number}", finalized_at=NOW, held=held, now=NOW
            )

    def void(self, number: int) -> None:
        if self.model.finals:
            final = self.random.choice(self.model.finals)
            number_text = self.numbers()[self.model.finals.index(final)]
            was_void = final.is_void
            is_void = self.model.void(final)
            try:
                self.world.invoices.void(number_text, actor="test", reason="wrong", now=NOW)
            except BillingError:
                assert not is_void
            else:
                assert is_void or was_void

    def reissue(self, number: int) -> None:
        if self.model.finals:
            final = self.random.choice(self.model.finals)
            number_text = self.numbers()[self.model.finals.index(final)]
            was_open = self.model.slot(final) in self.model.reissued
            is_open = self.model.reissue(final)
            try:
                self.world.invoices.reissue(number_text, actor="test", reason="again", now=NOW)
            except InvoiceStateError:
                assert not is_open
            else:
                assert is_open or was_open

    def credit(self, number: int) -> None:
        if self.model.counting():
            final = self.random.choice(self.model.counting())
            number_text = self.numbers()[self.model.finals.index(final)]
            amount = self.random.randrange(1, 400)
            fits = amount <= self.model.creditable(final)
            if fits:
                self.model.credits.append((None, final.invoice.invoice_id, amount))
                self.model.compile()
            try:
                decision = self.world.decision(key=str(number))
                self.world.added.credit(number_text, amount=Decimal(amount).scaleb(-2), decision=decision)
            except CreditRefusedError:
                assert not fits
            else:
                assert fits

    def numbers(self) -> list[str]:
        """Return the numbers of the account's final invoices, in the order in which they became final."""
        rows = self.world.rows(
            "select number from invoicing.final_invoice where account_id = %s order by number", self.account
        )
        return [str(number) for (number,) in rows]

    def _some_open(self) -> list[tuple[CompiledInvoice, InvoiceRow]]:
        invoices = self.model.compile().invoices
        if not invoices:
            return []
        chosen = self.random.choice(invoices)
        self.world.invoices.compile_invoices(as_of=NOW, accounts=[self.account])
        row = self.world.invoices.newest(self.account, chosen.subscription_id, chosen.period)
        assert row is not None
        return [(chosen, row)]

    def compare(self, when: str) -> None:
        """Compare what both say, and the ledger with the invoices."""
        done = self.world.invoices.compile_invoices(as_of=NOW, accounts=[self.account])
        assert done.failed == {}
        expected = self.model.compile()
        found = self.world.invoices.open_invoices([self.account])
        assert sorted(_content(invoice) for _, invoice in found) == sorted(map(_content, expected.invoices)), when
        finals = [row for row in InvoiceReader(self.world.database).of_account(self.account) if row.number]
        finals.sort(key=lambda row: str(row.number))
        assert [row.total for row in finals] == [final.invoice.total for final in self.model.finals], when
        assert [row.state == "void" for row in finals] == [final.is_void for final in self.model.finals], when
        uninvoiced = self.world.rows(
            "select amount_minor from invoicing.uninvoiced where account_id = %s order by 1", self.account
        )
        assert [amount for (amount,) in uninvoiced] == sorted(one.amount.minor_units for one in expected.uninvoiced)
        assert self.world.receivable(self.account).minor_units == self._ledger_of_model(), when
        assert InvoiceReader(self.world.database).disagreements([self.account]) == (), when
        assert self.world.invoices.preview(self.account, as_of=NOW).invoices == tuple(
            sorted((invoice for _, invoice in found), key=lambda one: (one.period, one.subscription_id or ""))
        )

    def _ledger_of_model(self) -> int:
        return self.model.owed()


def _content(invoice: CompiledInvoice) -> str:
    """Return what an invoice says, in short."""
    lines = sorted(
        f"{item.kind} {item.amount} {item.item_key[:6]} of {item.period.start:%m-%d}" for item in invoice.detail
    )
    head = (
        f"{invoice.subscription_id} {invoice.period.start:%m-%d} issue {invoice.key.issue}, {len(invoice.items)} lines"
    )
    return f"{head}: {', '.join(lines)}"


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_stores_and_model_tell_the_same_history(
    database: Database, tmp_path: Path, catalog_files: dict[str, str], seed: int
) -> None:
    world = InvoicingWorld(database, tmp_path / "catalog", POLICY, NOW)
    world.load(**catalog_files)
    history = History(world, seed)
    told = []
    for number in range(STEPS):
        told.append(history.step(number))
        if number % 3 == 2:
            history.compare(f"seed {seed}: {told}")
    history.compare(f"seed {seed}: {told}")
