"""Invoices made of books: where each line stands, and that no order of events gains or loses a cent."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import Subscription
from billing_pipeline.invoicing.grouping import grouped
from billing_pipeline.invoicing.items import CompiledInvoice, ItemKind, sum_of
from billing_pipeline.invoicing.policy import InvoicingPolicy, PaymentUnits, WithoutNext
from billing_pipeline.invoicing.stripe_amounts import charge_step, stripe_amounts
from billing_pipeline.periods import BillingAnchor, Window
from tests.invoice_model import Model, id_of, totals
from tests.invoicing_world import at, month

JANUARY, FEBRUARY, MARCH, APRIL = (month(number) for number in (1, 2, 3, 4))
NOW = at("2026-04-10T00:00")


def subscription(name: str, *, ends: str | None = None, host: str | None = None, day: int = 1) -> Subscription:
    return Subscription(
        subscription_id=name,
        account_id="acme",
        plan_id="plan",
        starts_at=at("2026-01-01T00:00"),
        ends_at=None if ends is None else at(ends),
        anchor=BillingAnchor(day=day),
        invoice_with=host,
    )


def model(
    *subscriptions: Subscription, currency: str = "USD", policy: InvoicingPolicy | None = None, now: datetime = NOW
) -> Model:
    found = subscriptions or (subscription("s1"),)
    return Model(
        currency=currency,
        subscriptions={one.subscription_id: one for one in found},
        now=now,
        policy=policy or InvoicingPolicy(),
    )


def of_period(found: Model, period: Window, subscription_id: str | None = "s1") -> CompiledInvoice:
    (one,) = (
        invoice
        for invoice in found.compile().invoices
        if (invoice.subscription_id, invoice.period) == (subscription_id, period)
    )
    return one


class TestPlaces:
    def test_of_a_charge_is_its_own_period(self) -> None:
        found = model()
        found.charge("a", "s1", JANUARY, 100)
        found.charge("b", "s1", FEBRUARY, 200)
        assert totals(found.compile()) == {("s1", JANUARY, 1): 100, ("s1", FEBRUARY, 1): 200}

    def test_of_what_is_invoiced_with_another_subscription_is_that_ones_month(self) -> None:
        found = model(subscription("s1"), subscription("s2", host="s1", ends="2026-02-11T00:00"))
        found.charge("a", "s1", FEBRUARY, 100)
        found.charge("b", "s2", Window(FEBRUARY.start, at("2026-02-11T00:00")), 20)
        invoice = of_period(found, FEBRUARY)
        assert [(item.subscription_id, item.amount.minor_units) for item in invoice.items] == [("s1", 100), ("s2", 20)]

    def test_of_weeks_is_the_month_in_which_they_end(self) -> None:
        found = model()
        for number in range(5):
            start = at("2026-01-01T00:00") + timedelta(days=7 * number)
            found.charge(f"week {number}", "s1", Window(start, start + timedelta(days=7)), 10**number)
        assert totals(found.compile()) == {("s1", JANUARY, 1): 1111, ("s1", FEBRUARY, 1): 10_000}

    def test_of_late_usage_is_the_first_open_invoice_that_ends_later(self) -> None:
        found = model()
        found.charge("a", "s1", JANUARY, 100)
        found.finalize(of_period(found, JANUARY))
        found.charge("a", "s1", JANUARY, 130)
        found.charge("b", "s1", MARCH, 7)
        (line,) = of_period(found, FEBRUARY).items
        assert (line.kind, line.amount, line.period) == (ItemKind.CORRECTION, Money(30, "USD"), JANUARY)
        assert line.corrects == id_of("a")
        assert line.charge_id is None
        assert "1.30 USD instead of 1.00 USD" in line.description

    def test_of_a_charge_that_is_new_after_its_invoice_is_a_correction_too(self) -> None:
        found = model()
        found.charge("a", "s1", JANUARY, 100)
        found.finalize(of_period(found, JANUARY))
        found.charge("b", "s1", JANUARY, 5)
        (line,) = of_period(found, FEBRUARY).items
        assert (line.kind, line.corrects, line.reason) == (
            ItemKind.CORRECTION,
            id_of("b"),
            "booked after invoice INV-000001 was final",
        )

    def test_of_a_correction_is_another_subscription_when_its_own_has_ended(self) -> None:
        found = model(subscription("s1", ends="2026-02-01T00:00"), subscription("s2", day=15))
        found.charge("a", "s1", JANUARY, 100)
        found.finalize(of_period(found, JANUARY))
        found.charge("a", "s1", JANUARY, 90)
        ((key, total),) = totals(found.compile()).items()
        assert (key[0], key[1].start, total) == ("s2", at("2026-01-15T00:00"), -10)

    def test_of_a_one_off_without_subscription_is_an_invoice_of_the_account(self) -> None:
        found = model(subscription("s1", ends="2026-02-01T00:00"))
        found.sell("set-up", at("2026-03-05T00:00"), 500)
        assert totals(found.compile()) == {(None, APRIL, 1): 500}
        found.finalize(found.compile().invoices[0])
        assert found.compile().invoices == ()
        found.sell("again", at("2026-04-05T00:00"), 500)
        assert totals(found.compile()) == {(None, month(5), 1): 500}

    def test_of_a_chain_of_corrections_telescopes(self) -> None:
        found = model()
        amounts = (100, 130, 90, 90, 250)
        for number, amount in enumerate(amounts):
            found.charge("a", "s1", JANUARY, amount)
            for invoice in found.compile().invoices:
                found.finalize(invoice)
            assert sum(final.invoice.total.minor_units for final in found.finals) == amount, number
        assert len(found.finals) == 4


class TestWithoutNext:
    def ended(self, **policy: WithoutNext) -> Model:
        found = model(subscription("s1", ends="2026-02-01T00:00"), policy=InvoicingPolicy(**policy))
        found.charge("a", "s1", JANUARY, 100)
        found.finalize(of_period(found, JANUARY))
        return found

    def test_gives_back_by_a_credit_note_once(self) -> None:
        found = self.ended()
        found.charge("a", "s1", JANUARY, 60)
        for _ in range(3):
            assert found.compile().invoices == ()
        assert found.credits == [(id_of("a"), found.finals[0].invoice.invoice_id, 40)]

    def test_takes_back_a_credit_that_was_wrong_by_an_invoice(self) -> None:
        found = self.ended()
        found.charge("a", "s1", JANUARY, 60)
        found.compile()
        found.charge("a", "s1", JANUARY, 75)
        assert totals(found.compile()) == {(None, APRIL, 1): 15}

    def test_charges_what_is_too_little_by_an_invoice_of_its_own(self) -> None:
        found = self.ended()
        found.charge("a", "s1", JANUARY, 130)
        (invoice,) = found.compile().invoices
        assert (invoice.subscription_id, invoice.total) == (None, Money(30, "USD"))
        found.finalize(invoice)
        assert found.compile().invoices == ()

    def test_never_credits_more_than_the_invoice_was(self) -> None:
        found = self.ended()
        found.credits.append((None, found.finals[0].invoice.invoice_id, 70))
        found.charge("a", "s1", JANUARY, 0)
        assert totals(found.compile()) == {(None, APRIL, 1): -70}
        assert found.credits[1:] == [(id_of("a"), found.finals[0].invoice.invoice_id, 30)]

    def test_never_credits_more_than_the_invoice_was_for_several_charges_together(self) -> None:
        found = model(subscription("s1", ends="2026-02-01T00:00"))
        for name in ("a", "b"):
            found.charge(name, "s1", JANUARY, 100)
        found.adjust("minus", "s1", JANUARY, -150)
        found.finalize(of_period(found, JANUARY))
        for name, amount in (("a", 70), ("b", 60)):
            found.charge(name, "s1", JANUARY, amount)
        assert totals(found.compile()) == {(None, APRIL, 1): -20}
        assert sum(amount for *_, amount in found.credits) == 50

    def test_waits_for_a_person_where_the_policy_says_so(self) -> None:
        found = self.ended(over_billed=WithoutNext.WAIT, under_billed=WithoutNext.WAIT)
        found.charge("a", "s1", JANUARY, 60)
        compiled = found.compile()
        assert (compiled.invoices, found.credits) == ((), [])
        assert [(one.amount, one.source_id) for one in compiled.uninvoiced] == [(Money(-40, "USD"), id_of("a"))]


class TestVoid:
    def test_leaves_the_period_uncharged_until_it_is_issued_again(self) -> None:
        found = model()
        found.charge("a", "s1", JANUARY, 100)
        found.adjust("minus", "s1", JANUARY, -5)
        final = found.finalize(of_period(found, JANUARY))
        found.void(final)
        compiled = found.compile()
        assert compiled.invoices == ()
        assert sorted(one.amount.minor_units for one in compiled.uninvoiced) == [-5, 100]
        assert found.reissue(final)
        (again,) = found.compile().invoices
        assert (again.key.issue, again.total) == (2, Money(95, "USD"))
        assert not {item.item_key for item in again.items} & {item.item_key for item in final.invoice.items}
        assert not found.reissue(final)

    def test_frees_corrections_that_stood_on_it(self) -> None:
        found = model()
        found.charge("a", "s1", JANUARY, 100)
        found.finalize(of_period(found, JANUARY))
        found.charge("a", "s1", JANUARY, 130)
        found.charge("b", "s1", FEBRUARY, 1)
        found.void(found.finalize(of_period(found, FEBRUARY)))
        assert totals(found.compile()) == {("s1", MARCH, 1): 30}


class TestStripe:
    def test_an_interim_invoice_leaves_the_rest_to_the_period(self) -> None:
        found = model()
        found.charge("a", "s1", JANUARY, 100)
        final = found.finalize(of_period(found, JANUARY), stripe_amounts(of_period(found, JANUARY).items))
        found.reissued.add(found.slot(final))
        found.charge("a", "s1", JANUARY, 140)
        found.charge("b", "s1", JANUARY, 9)
        (rest,) = found.compile().invoices
        assert (rest.period, rest.key.issue, rest.total) == (JANUARY, 2, Money(49, "USD"))
        assert {item.kind for item in rest.items} == {ItemKind.USAGE}

    def test_what_stripe_did_not_charge_is_on_the_next_invoice(self) -> None:
        found = model()
        for name, amount in (("a", 100), ("b", 50), ("c", 7)):
            found.charge(name, "s1", JANUARY, amount)
        found.adjust("minus", "s1", JANUARY, -5)
        invoice = of_period(found, JANUARY)
        held = stripe_amounts(invoice.items)
        keys = {item.description: item.item_key for item in invoice.items}
        del held[keys["c"]], held[keys["minus"]]
        held[keys["b"]] = 40
        final = found.finalize(invoice, held)
        assert final.invoice.total == Money(140, "USD")
        assert sorted(item.amount.minor_units for item in of_period(found, FEBRUARY).items) == [-5, 7, 10]

    def grouped_invoice(self) -> tuple[Model, CompiledInvoice]:
        found = model(policy=InvoicingPolicy(max_items=2))
        for name, amount in (("a", 100), ("b", 5), ("c", 3), ("d", 1)):
            found.charge(name, "s1", JANUARY, amount)
        return found, of_period(found, JANUARY)

    def test_the_largest_part_of_a_group_takes_what_stripe_has_differently(self) -> None:
        found, invoice = self.grouped_invoice()
        held = stripe_amounts(invoice.items)
        (group,) = (item for item in invoice.items if item.parts)
        final = found.finalize(invoice, {**held, group.item_key: 7})
        assert {item.description: item.amount.minor_units for item in final.invoice.detail} == {
            "a": 100,
            "b": 3,
            "c": 3,
            "d": 1,
        }
        assert totals(found.compile()) == {("s1", FEBRUARY, 1): 2}

    def test_a_part_of_a_group_that_stripe_has_by_itself_stands_by_itself(self) -> None:
        found, invoice = self.grouped_invoice()
        held = stripe_amounts(invoice.items)
        (group,) = (item for item in invoice.items if item.parts)
        alone = next(part for part in group.parts if part.description == "b")
        final = found.finalize(invoice, {**held, group.item_key: 4, alone.item_key: 5})
        assert sorted(item.amount.minor_units for item in final.invoice.items) == [4, 5, 100]
        assert final.invoice.total == Money(109, "USD")
        assert found.compile().invoices == ()

    def test_a_group_that_stripe_has_beside_all_its_parts_is_carried_back(self) -> None:
        found, invoice = self.grouped_invoice()
        held = stripe_amounts(invoice.items)
        (group,) = (item for item in invoice.items if item.parts)
        parts = {part.item_key: part.amount.minor_units for part in group.parts}
        final = found.finalize(invoice, {**held, **parts})
        assert final.invoice.total == Money(118, "USD")
        found.charge("e", "s1", FEBRUARY, 20)
        assert of_period(found, FEBRUARY).total == Money(11, "USD")


class TestCarried:
    def test_fils_go_to_the_next_invoice_and_none_is_lost(self) -> None:
        found = model(currency="KWD")
        for number, amount in ((1, 5124), (2, 5124), (3, 5124)):
            found.charge(f"{number}", "s1", month(number), amount)
        paid = []
        for number in (1, 2, 3):
            invoice = of_period(found, month(number))
            assert invoice.total.minor_units % 10 == 0
            paid.append(found.finalize(invoice).invoice.total.minor_units)
        # 5.124 -> 5.12; 5.124 + 0.004 = 5.128 -> 5.13; 5.124 - 0.002 = 5.122 -> 5.12
        assert paid == [5120, 5130, 5120]

    def test_of_every_minor_unit_nothing_is_carried(self) -> None:
        found = model(currency="KWD", policy=InvoicingPolicy(payment_units=PaymentUnits.ISO))
        found.charge("a", "s1", JANUARY, 5124)
        assert of_period(found, JANUARY).total == Money(5124, "KWD")

    @given(
        st.sampled_from(["KWD", "MGA", "USD", "JPY"]),
        st.lists(st.integers(-(10**6), 10**6).filter(bool), min_size=1, max_size=4),
    )
    def test_what_was_paid_and_what_is_carried_is_what_was_owed(self, currency: str, amounts: list[int]) -> None:
        found = model(currency=currency)
        for number, amount in enumerate(amounts):
            found.charge(f"{number}", "s1", month(number + 1), amount)
        for number in range(len(amounts)):
            found.finalize(of_period(found, month(number + 1)))
        paid = sum(final.invoice.total.minor_units for final in found.finals)
        assert all(final.invoice.total.minor_units % charge_step(currency) == 0 for final in found.finals)
        assert paid + found.book().carried == sum(amounts)
        assert abs(found.book().carried) <= charge_step(currency) // 2


class TestGrouping:
    @pytest.mark.parametrize(("lines", "shown"), [(3, 3), (249, 249), (250, 250), (251, 250), (1000, 250)])
    def test_never_shows_more_lines_than_allowed_and_keeps_the_sum(self, lines: int, shown: int) -> None:
        found = model()
        for number in range(lines):
            found.charge(f"{number}", "s1", JANUARY, 2 * (number * 7919 % 997) - 101)
        invoice = of_period(found, JANUARY)
        assert len(invoice.items) == shown
        assert len(invoice.detail) == lines
        assert invoice.total.minor_units == sum(2 * (number * 7919 % 997) - 101 for number in range(lines))
        groups = [item for item in invoice.items if item.parts]
        assert len(groups) == (lines > 250)
        for group in groups:
            smallest_shown = min(abs(item.amount.minor_units) for item in invoice.items if not item.parts)
            assert max(abs(part.amount.minor_units) for part in group.parts) <= smallest_shown
            assert len(group.parts) == lines - 249

    def test_keeps_what_people_added_and_what_goes_by_meter(self) -> None:
        found = model(policy=InvoicingPolicy(max_items=2))
        for number in range(5):
            found.charge(f"{number}", "s1", JANUARY, 1000 + number)
            found.charge(f"meter {number}", "s1", JANUARY, 1, by_meter=True)
        found.adjust("minus", "s1", JANUARY, -1)
        invoice = of_period(found, JANUARY)
        sent = [item for item in invoice.items if not item.by_meter]
        assert [item.kind for item in sent] == [ItemKind.ADJUSTMENT, ItemKind.OTHER]
        assert sum(item.by_meter for item in invoice.items) == 5
        assert invoice.total == Money(5010 - 1 + 5, "USD")

    @given(st.lists(st.integers(-5000, 5000), max_size=30), st.integers(2, 12), st.randoms())
    def test_is_the_same_for_any_order_of_lines(self, amounts: list[int], at_most: int, random) -> None:
        found = model()
        for number, amount in enumerate(amounts):
            found.charge(f"{number}", "s1", JANUARY, amount)
        for invoice in found.compile().invoices:
            lines = list(invoice.items)
            once = grouped(lines, key=invoice.key, at_most=at_most)
            random.shuffle(lines)
            assert grouped(lines, key=invoice.key, at_most=at_most) == once
            assert sum_of(once, "USD") == invoice.total
            assert len(once) == min(at_most, len(lines))


PERIODS = (JANUARY, FEBRUARY, MARCH)
AMOUNTS = st.integers(-300, 1500)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("charge"), st.integers(0, 3), st.integers(0, 2), AMOUNTS),
        st.tuples(st.just("adjust"), st.integers(0, 9), st.integers(0, 2), AMOUNTS),
        st.tuples(st.just("sell"), st.integers(0, 9), st.integers(0, 80), AMOUNTS),
        st.tuples(st.just("finalize"), st.integers(0, 5)),
        st.tuples(st.just("stripe"), st.integers(0, 5), st.integers(0, 3), AMOUNTS),
        st.tuples(st.just("interim"), st.integers(0, 5)),
        st.tuples(st.just("void"), st.integers(0, 5)),
        st.tuples(st.just("reissue"), st.integers(0, 5)),
        st.tuples(st.just("credit"), st.integers(0, 5), st.integers(1, 300)),
    ),
    min_size=1,
    max_size=25,
)
WORLDS = st.sampled_from(
    [
        (("s1",), "USD"),
        (("s1 until March",), "USD"),
        (("s1 until March", "s2"), "USD"),
        (("s1", "s2 with s1"), "USD"),
        (("s1 until March",), "KWD"),
        (("s1", "s2"), "KWD"),
    ]
)


def world_of(names: tuple[str, ...], currency: str) -> Model:
    made = (
        subscription(
            name.split()[0],
            ends="2026-03-01T00:00" if "until" in name else None,
            host="s1" if "with" in name else None,
            day=15 if name == "s2" else 1,
        )
        for name in names
    )
    return model(*made, currency=currency, policy=InvoicingPolicy(max_items=4))


def happen(found: Model, number: int, event: tuple) -> None:
    """Let one thing happen; what cannot is left out."""
    open_invoices = found.compile().invoices
    match event:
        case ("charge", which, period, amount):
            subscription_id = sorted(found.subscriptions)[which % len(found.subscriptions)]
            one = found.subscriptions[subscription_id]
            window = PERIODS[period].overlap(one.starts_at, one.ends_at)
            if window is not None:
                found.charge(f"charge {which} {period}", subscription_id, window, max(amount, 0))
        case ("adjust", which, period, amount):
            found.adjust(f"adjust {number}", sorted(found.subscriptions)[0], PERIODS[period], amount)
        case ("sell", which, day, amount):
            found.sell(f"sell {number}", at("2026-01-01T00:00") + timedelta(days=day), amount)
        case ("finalize", which) if open_invoices:
            found.finalize(open_invoices[which % len(open_invoices)])
        case ("stripe", which, line, amount) if open_invoices:
            invoice = open_invoices[which % len(open_invoices)]
            held = stripe_amounts(invoice.items)
            if held:
                # Stripe holds another amount of one line, misses one, and has one that is of nothing here.
                keys = sorted(held)
                step = 10 if found.currency == "KWD" else 1
                held[keys[line % len(keys)]] = amount * step
                if len(keys) > 2:
                    del held[keys[(line + 1) % len(keys)]]
                if amount % 5 == 0:
                    held["f" * 32] = amount * step
            final = found.finalize(invoice, held)
            # Both have as many digits in Stripe's units as in ISO 4217's.
            assert final.invoice.total.minor_units == sum(held.values())
        case ("interim", which) if open_invoices:
            invoice = open_invoices[which % len(open_invoices)]
            final = found.finalize(invoice)
            found.reissued.add(found.slot(final))
        case ("void", which) if found.finals:
            found.void(found.finals[which % len(found.finals)])
        case ("reissue", which) if found.finals:
            found.reissue(found.finals[which % len(found.finals)])
        case ("credit", which, amount) if found.counting():
            final = found.counting()[which % len(found.counting())]
            if amount <= found.creditable(final):
                found.credits.append((None, final.invoice.invoice_id, amount))


class TestAnyOrder:
    @settings(max_examples=300)
    @given(WORLDS, EVENTS)
    def test_of_late_usage_adjustments_finals_voids_and_stripe_accounts_for_every_cent(self, world, events) -> None:
        found = world_of(*world)
        for number, event in enumerate(events):
            kept = [final.invoice for final in found.finals]
            adjusted = {one.source_id: one.amount for one in found.sources.values() if not one.is_charge}
            happen(found, number, event)
            compiled = found.compile()
            assert found.compile() == compiled
            assert [final.invoice for final in found.finals][: len(kept)] == kept
            for source_id, amount in adjusted.items():
                assert found.sources[source_id].amount == amount
            assert found.accounted(compiled) == found.owed()
            for invoice in compiled.invoices:
                assert invoice.total == sum_of(invoice.detail, found.currency)
                assert len({item.item_key for item in invoice.detail}) == len(invoice.detail)
                assert sum_of(invoice.items, found.currency).minor_units % charge_step(found.currency) == 0
                assert len([item for item in invoice.items if not item.by_meter]) <= found.policy.max_items
            numbers = [final.number for final in found.finals]
            assert len(set(numbers)) == len(numbers)

    @settings(max_examples=100)
    @given(WORLDS, EVENTS)
    def test_ends_with_nothing_owed_once_everything_is_final(self, world, events) -> None:
        found = world_of(*world)
        for number, event in enumerate(events):
            happen(found, number, event)
        for final in list(found.finals):
            found.reissue(final)
        for _ in range(12):
            for invoice in found.compile().invoices[:1]:
                found.finalize(invoice)
        compiled = found.compile()
        assert compiled.uninvoiced == ()
        if not compiled.invoices:
            paid = sum(final.invoice.total.minor_units for final in found.counting())
            alive = {final.invoice.invoice_id for final in found.counting()}
            credited = sum(amount for source, one, amount in found.credits if one in alive and source is not None)
            given_back = sum(amount for source, one, amount in found.credits if one in alive and source is None)
            carried = found.book().carried
            assert paid - credited + carried == found.owed() + given_back


def test_the_clock_decides_only_where_a_correction_goes_that_no_invoice_is_open_for() -> None:
    found = model()
    found.charge("a", "s1", JANUARY, 100)
    found.adjust("minus", "s1", JANUARY, -5)
    first = found.compile()
    found.now = datetime(2030, 1, 1, tzinfo=UTC)
    assert found.compile() == first
