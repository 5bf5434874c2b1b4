"""Backtest: charges as they are booked, and as a draft catalog would have them -> what changes for whom. Pure.

Both sides are rated by the production code; here they are only held against each other. Money is rounded once a charge, as on a
bill. Not here: reading and rating (resources/backtest), which entries differ (catalog.differences).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from billing_pipeline.amounts import Money
from billing_pipeline.charges import ChargeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeSide:
    """A charge on one side: its rounded total, and its arithmetic as canonical JSON."""

    key: ChargeKey
    account_id: str
    amount: Money
    lines_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedCharge:
    """A charge whose amount or arithmetic differs. `before` None: the draft makes it; `after` None: the draft drops it."""

    charge_id: UUID
    before: ChargeSide | None
    after: ChargeSide | None

    @property
    def side(self) -> ChargeSide:
        """Return the side that is there, the draft's first."""
        side = self.after or self.before
        if side is None:
            raise AssertionError("a changed charge has a side")  # pragma: no cover
        return side

    @property
    def delta(self) -> Money | None:
        """Return what the draft adds; None where both sides are in different currencies."""
        zero = Money(0, self.side.amount.currency)
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


def compare(before: Mapping[UUID, ChargeSide], after: Mapping[UUID, ChargeSide]) -> Comparison:
    """Return what differs. A charge of 0 without arithmetic is as good as none."""
    changed = [
        ChangedCharge(charge_id=charge_id, before=before.get(charge_id), after=after.get(charge_id))
        for charge_id in sorted(before.keys() | after.keys())
        if _said(before.get(charge_id)) != _said(after.get(charge_id))
    ]
    return Comparison(accounts=tuple(_accounts(before.values(), after.values(), changed)), changed=tuple(changed))


def _said(side: ChargeSide | None) -> tuple[int, str, str] | None:
    if side is None or (side.amount.minor_units == 0 and side.lines_json == "[]"):
        return None
    return side.amount.minor_units, side.amount.currency, side.lines_json


def _accounts(
    before: Iterable[ChargeSide], after: Iterable[ChargeSide], changed: Iterable[ChangedCharge]
) -> Iterable[AccountChange]:
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for place, sides in enumerate((before, after)):
        for side in sides:
            sums[side.account_id, side.amount.currency][place] += side.amount.minor_units
    for one in changed:
        for currency in {side.amount.currency for side in (one.before, one.after) if side is not None}:
            sums[one.side.account_id, currency][2] += 1
    for (account_id, currency), (old, new, count) in sorted(sums.items()):
        yield AccountChange(
            account_id=account_id, before=Money(old, currency), after=Money(new, currency), changed_charges=count
        )
