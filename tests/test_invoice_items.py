"""Lines of invoices: identity, sums, groups; and what may become of an invoice."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from billing_pipeline.amounts import CurrencyMismatchError, Money
from billing_pipeline.invoicing.items import (
    CompiledInvoice,
    GroupedSumError,
    InvoiceItem,
    InvoiceKey,
    ItemKind,
    item_key,
)
from billing_pipeline.invoicing.states import InvoiceState, InvoiceStateError, refuse_unless
from billing_pipeline.periods import Window

MARCH = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
KEY = InvoiceKey(account_id="acme", subscription_id="s1", period=MARCH)


def line(name: str, cents: int, *, currency: str = "USD", parts: tuple[InvoiceItem, ...] = ()) -> InvoiceItem:
    return InvoiceItem(
        item_key=item_key(account_id="acme", subscription_id="s1", charge_key=name, period_start=MARCH.start),
        kind=ItemKind.OTHER if parts else ItemKind.USAGE,
        account_id="acme",
        subscription_id="s1",
        source_id=None if parts else UUID(int=1),
        charge_id=None if parts else UUID(int=1),
        period=MARCH,
        amount=Money(cents, currency),
        description=name,
        quantity_text="1 request",
        revision=1,
        source_digest=f"{cents}",
        parts=parts,
    )


class TestIdentity:
    def test_is_the_same_for_every_amount(self) -> None:
        assert line("a", 1).item_key == line("a", 2).item_key != line("b", 1).item_key
        assert len(line("a", 1).item_key) == 32

    def test_of_an_invoice_issued_again_is_another(self) -> None:
        one, two = (
            item_key(account_id="acme", subscription_id="s1", charge_key="a", period_start=MARCH.start, issue=issue)
            for issue in (1, 2)
        )
        assert one != two
        second = InvoiceKey(account_id="acme", subscription_id="s1", period=MARCH, issue=2)
        assert (
            second.invoice_id
            != KEY.invoice_id
            == InvoiceKey(account_id="acme", subscription_id="s1", period=MARCH).invoice_id
        )

    def test_keeps_accounts_and_subscriptions_apart(self) -> None:
        ids = {
            InvoiceKey(account_id=account, subscription_id=subscription, period=MARCH).invoice_id
            for account, subscription in (("acme", "s1"), ("acme", None), ("acmes1", None), ("a", "cmes1"))
        }
        assert len(ids) == 4


class TestSums:
    def test_of_three_lines_is_39_97(self) -> None:
        invoice = CompiledInvoice(key=KEY, currency="USD", items=(line("a", 1099), line("b", 1299), line("c", 1599)))
        assert str(invoice.total) == "39.97 USD"

    def test_of_a_group_are_its_parts_to_the_cent(self) -> None:
        parts = (line("a", 3), line("b", -1))
        group = line("other", 2, parts=parts)
        invoice = CompiledInvoice(key=KEY, currency="USD", items=(group, line("c", 5)))
        assert invoice.total == Money(7, "USD")
        assert [item.description for item in invoice.detail] == ["a", "b", "c"]
        with pytest.raises(GroupedSumError, match=r"is 0\.03 USD and groups lines of 0\.02 USD"):
            line("other", 3, parts=parts)

    def test_of_two_currencies_is_refused(self) -> None:
        with pytest.raises(CurrencyMismatchError):
            _ = CompiledInvoice(key=KEY, currency="USD", items=(line("a", 1, currency="EUR"),)).total

    def test_a_digest_follows_amounts_sources_and_groups_not_the_order(self) -> None:
        one, other = line("a", 3), line("b", 4)
        digest = CompiledInvoice(key=KEY, currency="USD", items=(one, other)).digest
        assert CompiledInvoice(key=KEY, currency="USD", items=(other, one)).digest == digest
        grouped = CompiledInvoice(key=KEY, currency="USD", items=(line("other", 7, parts=(one, other)),))
        assert len({digest, grouped.digest, CompiledInvoice(key=KEY, currency="USD", items=(one,)).digest}) == 3


class TestStates:
    @pytest.mark.parametrize(
        ("state", "wanted", "todo"),
        [
            (InvoiceState.DRAFT, InvoiceState.FINAL, True),
            (InvoiceState.FINAL, InvoiceState.FINAL, False),
            (InvoiceState.FINAL, InvoiceState.VOID, True),
            (InvoiceState.VOID, InvoiceState.VOID, False),
        ],
    )
    def test_go_forward_and_repeat_without_effect(self, state: InvoiceState, wanted: InvoiceState, todo: bool) -> None:
        assert refuse_unless(state, wanted, invoice="INV-1") is todo

    @pytest.mark.parametrize(
        ("state", "wanted", "fix"),
        [
            (InvoiceState.FINAL, InvoiceState.DRAFT, "billing credit-note"),
            (InvoiceState.VOID, InvoiceState.FINAL, "billing reissue"),
            (InvoiceState.DRAFT, InvoiceState.VOID, "billing adjust"),
        ],
    )
    def test_that_are_refused_say_what_to_do_instead(self, state: InvoiceState, wanted: InvoiceState, fix: str) -> None:
        with pytest.raises(InvoiceStateError, match=fix):
            refuse_unless(state, wanted, invoice="INV-1")
