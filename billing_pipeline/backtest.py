"""Backtest: charges as they are booked, and as a draft catalog would have them -> what changes for whom. Pure.

Both sides are rated by the production code; here they are only held against each other, by amount and digest, and by their
arithmetic where those do not tell. Money is rounded once a charge, as on a bill. Not here: reading and rating
(resources/backtest), which entries differ (catalog.differences).
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from billing_pipeline.amounts import Money
from billing_pipeline.charges import Charge, ChargeKey
from billing_pipeline.periods import Window


class BookedSide(NamedTuple):
    """The newest revision of a charge; `has_lines` is False where it has no arithmetic. A tuple, as there are so many."""

    account_id: str
    subscription_id: str
    price_id: str
    group_key: str
    period: Window
    amount_minor: int
    currency: str
    rating_digest: str
    has_lines: bool
    revision: int

    @property
    def key(self) -> ChargeKey:
        """Return what makes the charge itself."""
        return _key(self)

    @property
    def amount(self) -> Money:
        """Return the rounded total."""
        return Money(self.amount_minor, self.currency)


class DraftSide(NamedTuple):
    """A charge as the draft has it: its rounded total, and its arithmetic as JSON."""

    account_id: str
    subscription_id: str
    price_id: str
    group_key: str
    period: Window
    amount_minor: int
    currency: str
    lines_json: str

    @property
    def key(self) -> ChargeKey:
        """Return what makes the charge itself."""
        return _key(self)

    @property
    def amount(self) -> Money:
        """Return the rounded total."""
        return Money(self.amount_minor, self.currency)


def _key(side: BookedSide | DraftSide) -> ChargeKey:
    return ChargeKey(
        subscription_id=side.subscription_id, price_id=side.price_id, period=side.period, group_key=side.group_key
    )


class ChangedCharge(NamedTuple):
    """A charge whose amount or arithmetic differs. `before` None: the draft makes it; `after` None: the draft drops it."""

    charge_id: UUID
    before: BookedSide | None
    after: DraftSide | None

    @property
    def side(self) -> BookedSide | DraftSide:
        """Return the side that is there, the draft's first."""
        side = self.after or self.before
        if side is None:
            raise AssertionError("a changed charge has a side")  # pragma: no cover
        return side

    @property
    def delta(self) -> Money | None:
        """Return what the draft adds; None where both sides are in different currencies."""
        zero = Money(0, self.side.currency)
        before, after = (zero if side is None else side.amount for side in (self.before, self.after))
        return after - before if before.currency == after.currency else None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountChange:
    """What an account's charges come to on both sides, in one currency, and how many of them differ."""

    account_id: str
    before: Money
    after: Money
    changed_charges: int

    @property
    def delta(self) -> Money:
        """Return what the draft adds."""
        return self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Both sides of every account that was looked at, by account and currency; the charges that differ, by id."""

    accounts: tuple[AccountChange, ...]
    changed: tuple[ChangedCharge, ...]

    @property
    def totals(self) -> tuple[AccountChange, ...]:
        """Return the sums of all accounts by currency; their account id is empty."""
        sums: dict[str, AccountChange] = {}
        for one in self.accounts:
            currency = one.before.currency
            zero = AccountChange(account_id="", before=Money(0, currency), after=Money(0, currency), changed_charges=0)
            so_far = sums.get(currency, zero)
            sums[currency] = AccountChange(
                account_id="",
                before=so_far.before + one.before,
                after=so_far.after + one.after,
                changed_charges=so_far.changed_charges + one.changed_charges,
            )
        return tuple(sums[currency] for currency in sorted(sums))


# The booked arithmetic of some charges, as JSON, by charge id.
ReadLines = Callable[[Sequence[UUID]], Mapping[UUID, str]]


def compare(
    before: Mapping[UUID, BookedSide],
    after: Mapping[UUID, Charge],
    *,
    unaffected: Mapping[tuple[str, str], int] = MappingProxyType({}),
    read_lines: ReadLines,
) -> Comparison:
    """Return what differs. A charge of 0 without arithmetic is as good as none.

    `unaffected` is what booked charges come to that the draft has as they are, in minor units by account and currency: it counts
    on both sides. `read_lines` is asked once at most,
    for charges with the same amount and another digest.
    """
    changed = sorted(_changed(before, after, read_lines), key=lambda one: one.charge_id.int)
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for booked in before.values():
        sums[booked.account_id, booked.currency][0] += booked.amount_minor
    for charge in after.values():
        sums[charge.account_id, charge.currency][1] += charge.amount.minor_units
    for key, amount_minor in unaffected.items():
        both = sums[key]
        both[0] += amount_minor
        both[1] += amount_minor
    for one in changed:
        for currency in {side.currency for side in (one.before, one.after) if side is not None}:
            sums[one.side.account_id, currency][2] += 1
    return Comparison(accounts=tuple(_accounts(sums)), changed=tuple(changed))


def together(parts: Sequence[Comparison]) -> Comparison:
    """Return comparisons of different accounts as one."""
    accounts = sorted(
        (one for part in parts for one in part.accounts), key=lambda one: (one.account_id, one.before.currency)
    )
    changed = sorted((one for part in parts for one in part.changed), key=lambda one: one.charge_id.int)
    return Comparison(accounts=tuple(accounts), changed=tuple(changed))


def _changed(
    before: Mapping[UUID, BookedSide], after: Mapping[UUID, Charge], read_lines: ReadLines
) -> Iterator[ChangedCharge]:
    untold = []
    for charge_id, charge in after.items():
        booked = before.get(charge_id)
        if booked is None or not _says_something(booked):
            if charge.rated.lines or charge.amount.minor_units:
                yield _change(charge_id, booked, charge)
        elif booked.amount_minor != charge.amount.minor_units or booked.currency != charge.currency:
            yield _change(charge_id, booked, charge)
        elif booked.rating_digest != charge.rating_digest:
            untold.append(charge_id)
    for charge_id, booked in before.items():
        if charge_id not in after and _says_something(booked):
            yield ChangedCharge(charge_id=charge_id, before=booked, after=None)
    if untold:
        lines = read_lines(untold)
        for charge_id in untold:
            if _canonical(lines[charge_id]) != _canonical(after[charge_id].lines_json):
                yield _change(charge_id, before[charge_id], after[charge_id])


def _change(charge_id: UUID, booked: BookedSide | None, charge: Charge) -> ChangedCharge:
    key, amount = charge.key, charge.amount
    # One window for both sides: there are as many sides as charges, and few periods.
    period = key.period if booked is None else booked.period
    after = DraftSide(
        charge.account_id,
        key.subscription_id,
        key.price_id,
        key.group_key,
        period,
        amount.minor_units,
        amount.currency,
        charge.lines_json,
    )
    return ChangedCharge(charge_id, booked, after)


def _says_something(booked: BookedSide) -> bool:
    return booked.has_lines or booked.amount_minor != 0


@lru_cache(maxsize=1 << 16)
def _canonical(lines: str) -> str:
    """Return the arithmetic as JSON that two sides can be compared by: PostgreSQL orders the keys of jsonb its own way."""
    return json.dumps(json.loads(lines), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _accounts(sums: Mapping[tuple[str, str], Sequence[int]]) -> Iterator[AccountChange]:
    for (account_id, currency), (old, new, count) in sorted(sums.items()):
        yield AccountChange(
            account_id=account_id, before=Money(old, currency), after=Money(new, currency), changed_charges=count
        )
