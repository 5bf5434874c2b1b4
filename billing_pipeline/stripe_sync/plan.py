"""The fewest commands that make what Stripe holds equal to what is wanted: (wanted, held) -> plan. Pure.

Two places: pending items of a customer, which the next invoice takes, and the lines of one draft. A key is never charged
twice: what other invoices have of it (an upgrade in the middle of a period takes the pending item) is subtracted, total -
billed = remaining. Items without a key of ours are left alone, whatever they say.

Example: wanted 12.99, pending 10.00: one update. Wanted 12.99, 10.00 of it on a paid invoice: one new item of 2.99.
Not here: requests and intents (resources/stripe_sync).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from billing_pipeline.errors import BillingError
from billing_pipeline.stripe_sync.lines import (
    ACCOUNT_FIELD,
    INVOICE_FIELD,
    KEY_FIELD,
    LONGEST_DESCRIPTION,
    HeldItem,
    WantedLine,
)

_One = TypeVar("_One")

# Lines in one call. Stripe names no limit; an invoice has 250 items at most.
LINES_PER_CALL = 100


class WantedTwiceError(BillingError):
    """One key is wanted twice: it could be charged twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateItem:
    """A pending item for a line."""

    line: WantedLine


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateItem:
    """Set an item to what a line says. Set, not add: twice is as good as once."""

    item_id: str
    line: WantedLine


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteItem:
    """Take away an item of ours that is not wanted."""

    item_id: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddLines:
    """Put new lines on a draft."""

    invoice_id: str
    lines: tuple[WantedLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateLines:
    """Set lines of a draft, by line id, to what the wanted ones say."""

    invoice_id: str
    lines: tuple[tuple[str, WantedLine], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveLines:
    """Take lines of ours, with their items, off a draft: (line id, key)."""

    invoice_id: str
    lines: tuple[tuple[str, str], ...]


Command = CreateItem | UpdateItem | DeleteItem | AddLines | UpdateLines | RemoveLines


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`commands` in the order to run them; none when both sides are equal. `problems` are what no command can mend."""

    commands: tuple[Command, ...]
    unchanged: int
    foreign: int
    problems: tuple[str, ...] = ()

    @property
    def is_in_step(self) -> bool:
        """Tell whether Stripe holds what is wanted."""
        return not self.commands and not self.problems


def plan_pending(wanted: Sequence[WantedLine], held: Iterable[HeldItem], *, settled: Sequence[HeldItem]) -> Plan:
    """Return what makes the pending items equal to `wanted`.

    `held` are the customer's pending items that belong to the compiled invoice, `settled` those of its items that invoices
    have taken. Pending items of ours under a key that is not wanted are deleted.

    Raises:
        WantedTwiceError: see there.
    """
    remaining = remaining_lines(wanted, settled)
    ours, foreign = _by_key(held)
    updates: list[Command] = []
    deletes: list[Command] = []
    creates: list[Command] = []
    problems: list[str] = []
    unchanged = 0
    for key, line in remaining.items():
        kept, *spare = sorted(ours.pop(key, ()), key=_oldest_first) or (None,)
        # Two pending items of one key would be charged twice: one stays.
        deletes += [DeleteItem(item_id=_item_id(one), key=key) for one in spare if one is not None]
        if kept is None:
            creates += [CreateItem(line=line)] if line.amount else []
        elif kept.currency != line.currency:
            problems.append(_other_currency(kept, line))
        elif line.amount == 0:
            deletes.append(DeleteItem(item_id=_item_id(kept), key=key))
        elif kept.says != line.says:
            updates.append(UpdateItem(item_id=_item_id(kept), line=line))
        else:
            unchanged += 1
    deletes += [DeleteItem(item_id=_item_id(one), key=key) for key, rest in ours.items() for one in rest]
    return Plan(
        commands=(*updates, *deletes, *creates), unchanged=unchanged, foreign=len(foreign), problems=tuple(problems)
    )


def plan_draft(
    invoice_id: str,
    wanted: Sequence[WantedLine],
    lines: Iterable[HeldItem],
    *,
    pending: Iterable[HeldItem],
    settled: Sequence[HeldItem],
) -> Plan:
    """Return what makes a draft's lines equal to `wanted`: at most one update, one removal and one addition per 100 lines.

    `lines` are the draft's lines of the compiled invoice, and others' lines; `pending` are its items that no invoice has taken
    yet, `settled` those that other invoices have. A pending item came too late for its invoice: it is deleted, and the draft gets
    a line of its own, before the next invoice would take it.

    Raises:
        WantedTwiceError: see there.
    """
    remaining = remaining_lines(wanted, settled)
    ours, foreign = _by_key(lines)
    updates: list[tuple[str, WantedLine]] = []
    removals: list[tuple[str, str]] = []
    additions: list[WantedLine] = []
    problems: list[str] = []
    unchanged = 0
    for key, line in remaining.items():
        kept, *spare = sorted(ours.pop(key, ()), key=_oldest_first) or (None,)
        removals += [(_line_id(one), key) for one in spare if one is not None]
        if kept is None:
            additions += [line] if line.amount else []
        elif kept.currency != line.currency:
            problems.append(_other_currency(kept, line))
        elif line.amount == 0:
            removals.append((_line_id(kept), key))
        elif kept.says != line.says:
            updates.append((_line_id(kept), line))
        else:
            unchanged += 1
    removals += [(_line_id(one), key) for key, rest in ours.items() for one in rest]
    commands: list[Command] = [
        *(UpdateLines(invoice_id=invoice_id, lines=tuple(some)) for some in _chunks(updates)),
        *(RemoveLines(invoice_id=invoice_id, lines=tuple(some)) for some in _chunks(removals)),
        *(DeleteItem(item_id=_item_id(one), key=one.key) for one in sorted(pending, key=_oldest_first) if one.key),
        *(AddLines(invoice_id=invoice_id, lines=tuple(some)) for some in _chunks(additions)),
    ]
    return Plan(commands=tuple(commands), unchanged=unchanged, foreign=len(foreign), problems=tuple(problems))


def remaining_lines(wanted: Sequence[WantedLine], settled: Iterable[HeldItem]) -> dict[str, WantedLine]:
    """Return by key what is still to be charged: total - billed, which may be 0 or below.

    What is billed of a part of a grouped line is taken off the group. What is billed and wanted no more is given back, by a
    line of its own: 5.00 billed of a charge that was withdrawn are -5.00. So the sum of what remains is always the sum of what is
    wanted less the sum of what is billed.

    Raises:
        WantedTwiceError: see there.
    """
    twice = [key for key, count in Counter(line.key for line in wanted).items() if count > 1]
    if twice:
        raise WantedTwiceError(
            f"key {twice[0]} is wanted more than once",
            bill="nothing of this customer was sent; what is at Stripe stays",
            fix="this is a defect of the compilation: report the account and the period",
        )
    remaining = {line.key: line for line in wanted}
    group_of = {key: line.key for line in wanted for key in line.part_keys}
    for one in sorted(settled, key=_oldest_first):
        if one.key is None or one.amount == 0:
            continue
        key = one.key if one.key in remaining else group_of.get(one.key, one.key)
        line = remaining.get(key) or _given_back(one, key)
        remaining[key] = replace(line, amount=line.amount - one.amount)
    return remaining


def _given_back(one: HeldItem, key: str) -> WantedLine:
    metadata = {KEY_FIELD: key, ACCOUNT_FIELD: one.account_id or "", INVOICE_FIELD: one.compiled_id or ""}
    return WantedLine(
        key=key,
        amount=0,
        currency=one.currency,
        description=f"Not charged after all: {one.description}"[:LONGEST_DESCRIPTION],
        period_start=one.period_start,
        period_end=one.period_end,
        metadata={name: value for name, value in metadata.items() if value},
    )


def _by_key(held: Iterable[HeldItem]) -> tuple[dict[str, list[HeldItem]], list[HeldItem]]:
    ours: dict[str, list[HeldItem]] = defaultdict(list)
    foreign = []
    for one in held:
        if one.key is None:
            foreign.append(one)
        else:
            ours[one.key].append(one)
    return ours, foreign


def _oldest_first(one: HeldItem) -> tuple[str, str]:
    """Order duplicates the same way every time; ids do not tell their age, but any order that stays will do."""
    return one.item_id or "", one.line_id or ""


def _item_id(one: HeldItem) -> str:
    assert one.item_id is not None, "a pending item has an id"
    return one.item_id


def _line_id(one: HeldItem) -> str:
    assert one.line_id is not None, "a line of an invoice has an id"
    return one.line_id


def _other_currency(held: HeldItem, line: WantedLine) -> str:
    return (
        f"item {held.item_id} of key {line.key} is in {held.currency.upper()} at Stripe and in {line.currency.upper()} here: "
        "it is left as it is. Delete it at Stripe if it is wrong"
    )


def _chunks(ones: Sequence[_One]) -> Iterable[Sequence[_One]]:
    return (ones[start : start + LINES_PER_CALL] for start in range(0, len(ones), LINES_PER_CALL))
