"""The fewest commands between what is wanted and what Stripe holds: examples, and the law that running them makes both equal."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.periods import Window
from billing_pipeline.stripe_sync.lines import HeldItem, WantedLine, held_item, held_line, wanted_digest, wanted_line
from billing_pipeline.stripe_sync.plan import (
    AddLines,
    Command,
    CreateItem,
    DeleteItem,
    RemoveLines,
    UpdateItem,
    UpdateLines,
    WantedTwiceError,
    plan_draft,
    plan_pending,
)

MARCH = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))


def line(key: str, amount: int, description: str = "usage", currency: str = "USD") -> WantedLine:
    return wanted_line(
        key=key, amount=amount, currency=currency, description=description, period=MARCH, metadata={"bp_rev": "1"}
    )


def held(wanted: WantedLine, number: int, *, invoice: str | None = None, key: str | None = "") -> HeldItem:
    """Return an item at Stripe that says what `wanted` says; `key` None: somebody else's."""
    return HeldItem(
        key=wanted.key if key == "" else key,
        item_id=f"ii_{number:04}",
        line_id=f"il_{number:04}" if invoice else None,
        invoice_id=invoice,
        amount=wanted.amount,
        currency=wanted.currency,
        description=wanted.description,
        period_start=wanted.period_start,
        period_end=wanted.period_end,
    )


def charged(key: str, amount: int) -> HeldItem:
    """Return an item of ours that an invoice in the middle of the period has taken."""
    return held(line(key, amount), 700, invoice="in_mid")


def after(items: Iterable[HeldItem], commands: Sequence[Command]) -> list[HeldItem]:
    """Return what Stripe would hold after the commands: the reference that the plan is held to."""
    found = {one.item_id: one for one in items}
    for command in commands:
        match command:
            case CreateItem():
                made = held(command.line, 9000 + len(found))
                found[made.item_id] = made
            case UpdateItem():
                found[command.item_id] = says(found[command.item_id], command.line)
            case DeleteItem():
                del found[command.item_id]
            case AddLines():
                for one in command.lines:
                    made = held(one, 9000 + len(found), invoice=command.invoice_id)
                    found[made.item_id] = made
            case UpdateLines():
                for line_id, one in command.lines:
                    item_id = line_id.replace("il", "ii")
                    found[item_id] = says(found[item_id], one)
            case RemoveLines():
                for line_id, _ in command.lines:
                    del found[line_id.replace("il", "ii")]
    return list(found.values())


def says(one: HeldItem, wanted: WantedLine) -> HeldItem:
    return replace(
        one,
        amount=wanted.amount,
        description=wanted.description,
        period_start=wanted.period_start,
        period_end=wanted.period_end,
    )


class TestPending:
    def test_items_are_made_once_and_then_left_alone(self) -> None:
        wanted = [line("a", 1099), line("b", 1299), line("c", 1599)]
        plan = plan_pending(wanted, [], settled=[])
        assert plan.commands == tuple(CreateItem(line=one) for one in wanted)
        again = plan_pending(wanted, after([], plan.commands), settled=[])
        assert (again.commands, again.unchanged, again.is_in_step) == ((), 3, True)

    def test_items_with_another_amount_are_updated_in_place(self) -> None:
        before = [held(line("a", 1099), 1), held(line("b", 1299), 2)]
        assert plan_pending([line("a", 1099), line("b", 1399)], before, settled=[]).commands == (
            UpdateItem(item_id="ii_0002", line=line("b", 1399)),
        )

    def test_items_that_are_wanted_no_more_or_come_to_nothing_are_deleted(self) -> None:
        before = [held(line("a", 1099), 1), held(line("b", 1299), 2)]
        plan = plan_pending([line("b", 0)], before, settled=[])
        assert set(plan.commands) == {DeleteItem(item_id="ii_0001", key="a"), DeleteItem(item_id="ii_0002", key="b")}

    def test_items_of_nothing_are_not_made(self) -> None:
        assert plan_pending([line("a", 0)], [], settled=[]).commands == ()

    def test_items_of_others_are_left_alone(self) -> None:
        foreign = held(line("a", 500), 7, key=None)
        plan = plan_pending([line("a", 500)], [foreign], settled=[])
        assert (plan.commands, plan.foreign) == ((CreateItem(line=line("a", 500)),), 1)

    def test_items_of_one_key_are_charged_once(self) -> None:
        twice = [held(line("a", 500), 1), held(line("a", 500), 2)]
        assert plan_pending([line("a", 500)], twice, settled=[]).commands == (DeleteItem(item_id="ii_0002", key="a"),)

    def test_items_hold_what_invoices_have_not_charged_yet(self) -> None:
        assert plan_pending([line("a", 1200)], [], settled=[charged("a", 500)]).commands == (
            CreateItem(line=line("a", 700)),
        )
        assert plan_pending([line("a", 500)], [], settled=[charged("a", 500)]).is_in_step
        assert plan_pending([line("a", 300)], [], settled=[charged("a", 500)]).commands == (
            CreateItem(line=line("a", -200)),
        )

    def test_items_of_a_group_hold_what_its_parts_were_not_charged_before(self) -> None:
        group = replace(line("other", 1200), part_keys=("a", "b"))
        assert plan_pending([group], [], settled=[charged("a", 500)]).commands == (
            CreateItem(line=replace(group, amount=700)),
        )

    def test_items_give_back_what_was_charged_and_is_wanted_no_more(self) -> None:
        (create,) = plan_pending([line("a", 900)], [], settled=[charged("gone", 500), charged("a", 900)]).commands
        assert isinstance(create, CreateItem)
        assert (create.line.key, create.line.amount, create.line.metadata) == ("gone", -500, {"bp_key": "gone"})

    def test_items_of_another_currency_are_a_problem_and_not_touched(self) -> None:
        plan = plan_pending([line("a", 500)], [held(line("a", 500, currency="EUR"), 1)], settled=[])
        assert plan.commands == ()
        assert not plan.is_in_step
        assert "ii_0001" in plan.problems[0]

    def test_keys_that_are_wanted_twice_are_refused(self) -> None:
        with pytest.raises(WantedTwiceError):
            plan_pending([line("a", 500), line("a", 500)], [], settled=[])


class TestDraft:
    def test_takes_one_call_of_each_kind_for_a_hundred_lines(self) -> None:
        lines = [held(line(f"old{n}", 100), n, invoice="in_1") for n in range(60)]
        wanted = [line(f"old{n}", 200) for n in range(40)] + [line(f"new{n}", 300) for n in range(30)]
        plan = plan_draft("in_1", wanted, lines, pending=[], settled=[])
        assert [type(one) for one in plan.commands] == [UpdateLines, RemoveLines, AddLines]

    def test_takes_a_call_for_each_hundred_lines(self) -> None:
        plan = plan_draft("in_1", [line(f"k{n}", 1) for n in range(250)], [], pending=[], settled=[])
        assert [len(one.lines) for one in plan.commands if isinstance(one, AddLines)] == [100, 100, 50]

    def test_has_a_line_instead_of_a_pending_item_that_came_too_late(self) -> None:
        plan = plan_draft("in_1", [line("a", 700)], [], pending=[held(line("a", 500), 3)], settled=[])
        assert plan.commands == (
            DeleteItem(item_id="ii_0003", key="a"),
            AddLines(invoice_id="in_1", lines=(line("a", 700),)),
        )

    def test_deletes_a_pending_item_of_a_line_that_it_has(self) -> None:
        lines = [held(line("a", 700), 1, invoice="in_1")]
        plan = plan_draft("in_1", [line("a", 700)], lines, pending=[held(line("a", 500), 3)], settled=[])
        assert plan.commands == (DeleteItem(item_id="ii_0003", key="a"),)

    def test_never_changes_lines_of_others(self) -> None:
        proration = held(line("x", -400), 1, invoice="in_1", key=None)
        plan = plan_draft("in_1", [line("a", 700)], [proration], pending=[], settled=[])
        assert [type(one) for one in plan.commands] == [AddLines]
        assert plan.foreign == 1


KEYS = st.sampled_from("abcdef")
AMOUNTS = st.integers(-500, 500)
WANTED = st.dictionaries(KEYS, AMOUNTS).map(lambda found: [line(key, amount) for key, amount in found.items()])
SETTLED = st.lists(st.tuples(KEYS, st.integers(-300, 300)), max_size=5).map(
    lambda found: [charged(key, amount) for key, amount in found]
)
HELD = st.lists(st.tuples(KEYS | st.none(), AMOUNTS, st.sampled_from(["usage", "older"])), max_size=9)


def items(found: Sequence[tuple[str | None, int, str]], *, invoice: str | None, first: int) -> list[HeldItem]:
    return [
        held(line(key or "x", amount, text), first + number, invoice=invoice, key=key)
        for number, (key, amount, text) in enumerate(found)
    ]


def sums(held_items: Iterable[HeldItem]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in held_items:
        if one.key is not None:
            found[one.key] = found.get(one.key, 0) + one.amount
    return {key: amount for key, amount in found.items() if amount}


def owed(wanted: Iterable[WantedLine], settled: Iterable[HeldItem]) -> dict[str, int]:
    """Return by key what is still to be charged."""
    found = {one.key: one.amount for one in wanted}
    for one in settled:
        assert one.key is not None
        found[one.key] = found.get(one.key, 0) - one.amount
    return {key: amount for key, amount in found.items() if amount}


class TestLaws:
    @given(WANTED, HELD, SETTLED)
    def test_pending_items_come_to_what_is_wanted_less_what_is_charged(
        self, wanted: list[WantedLine], found: list[tuple[str | None, int, str]], settled: list[HeldItem]
    ) -> None:
        before = items(found, invoice=None, first=1)
        plan = plan_pending(wanted, before, settled=settled)
        made = after(before, plan.commands)
        expected = owed(wanted, settled)
        assert sums(made) == expected
        assert plan_pending(wanted, made, settled=settled).commands == ()
        assert [one for one in made if one.key is None] == [one for one in before if one.key is None]

    @given(WANTED, HELD, HELD, SETTLED)
    def test_drafts_come_to_what_is_wanted_less_what_others_charge(
        self,
        wanted: list[WantedLine],
        found: list[tuple[str | None, int, str]],
        waiting: list[tuple[str | None, int, str]],
        settled: list[HeldItem],
    ) -> None:
        lines, pending = items(found, invoice="in_1", first=1), items(waiting, invoice=None, first=50)
        plan = plan_draft("in_1", wanted, lines, pending=pending, settled=settled)
        made = after([*lines, *pending], plan.commands)
        expected = owed(wanted, settled)
        on_draft = [one for one in made if one.invoice_id == "in_1"]
        assert sums(on_draft) == expected
        assert not [one for one in made if one.is_pending and one.key]
        assert [one for one in made if one.key is None] == [one for one in (*lines, *pending) if one.key is None]


class TestReading:
    def test_tells_ours_from_others_and_items_from_lines(self) -> None:
        item = {
            "id": "ii_1",
            "customer": "cus_1",
            "invoice": None,
            "amount": 500,
            "currency": "usd",
            "description": None,
            "period": {"start": 1, "end": 2},
            "metadata": {"bp_key": "a", "bp_account": "acme"},
        }
        assert held_item(item).key == "a"
        assert held_item(item).account_id == "acme"
        assert held_item(item).is_pending
        assert held_item({**item, "metadata": {}, "invoice": {"id": "in_1"}}).invoice_id == "in_1"
        parent = {"type": "invoice_item_details", "invoice_item_details": {"invoice_item": "ii_1"}}
        read = held_line({**item, "id": "il_9", "parent": parent}, "in_1")
        assert (read.item_id, read.line_id, read.invoice_id) == ("ii_1", "il_9", "in_1")
        assert held_line({**item, "id": "il_9", "parent": {"invoice_item_details": None}}, "in_1").item_id is None

    def test_of_a_period_is_inclusive_at_both_ends_and_texts_are_cut(self) -> None:
        made = wanted_line(
            key="a", amount=1, currency="USD", description="x" * 900, period=MARCH, metadata={"bp_note": "y" * 900}
        )
        assert made.period_end - made.period_start == 31 * 86400 - 1
        assert (len(made.description), len(made.metadata["bp_note"]), made.metadata["bp_key"]) == (500, 500, "a")

    def test_digests_differ_where_a_customer_sees_a_difference(self) -> None:
        assert wanted_digest((line("a", 1), line("b", 2))) == wanted_digest((line("b", 2), line("a", 1)))
        assert wanted_digest((line("a", 1),)) != wanted_digest((line("a", 2),))
        assert wanted_digest((line("a", 1),)) == wanted_digest((replace(line("a", 1), metadata={"bp_rev": "9"}),))
