"""Prepaid credits: grants and invoices -> which grant pays how much of which invoice. Pure, whole minor units.

A grant is money that an account may spend before `expires_at`. Invoices are paid in the order of the instants at which they
are due; of each, grants that are valid then are spent by priority (1 before 2), then earliest expiry, then largest remainder.
What is spent on a final invoice is frozen; what stands on drafts is computed anew from all grants and invoices, so that order
and repetition of runs change nothing. Not here: the ledger's postings (ledger), keeping grants (resources/credits).
See docs/adr/0022-credits.md.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID, uuid5

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import RecurringCredit
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import Window

# Made once with uuid4. Never change it: ids of booked grants and entries are made from it.
CREDIT_NAMESPACE = UUID("5c1d2c1e-6c1b-4f0e-9b0a-0d2a7b2f4a55")
_INSTANT = timedelta(microseconds=1)


class CreditGrantInvalidError(BillingError):
    """A grant that cannot be spent by anybody."""


class CreditOverspentError(BillingError):
    """More was spent from a grant than it holds."""


class GrantSource(StrEnum):
    """Where a grant's money comes from: the account paid it, or it was given."""

    TOP_UP = "top_up"
    PROMOTION = "promotion"
    RECURRING = "recurring"
    REFUND = "refund"


class CreditChange(StrEnum):
    """What changes the balance of a grant."""

    GRANTED = "granted"
    SPENT = "spent"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Money to spend from `effective_at` until `expires_at` (exclusive; None: for ever). Priority 1 is spent first."""

    grant_id: UUID
    account_id: str
    amount: Money
    priority: int
    effective_at: datetime
    expires_at: datetime | None = None
    source: GrantSource = GrantSource.PROMOTION

    def __post_init__(self) -> None:
        if self.amount.minor_units <= 0:
            raise _invalid(self, f"is of {self.amount}", "grant more than 0")
        if self.expires_at is not None and self.expires_at <= self.effective_at:
            raise _invalid(self, f"expires at {self.expires_at.isoformat()}, before it begins", "set a later expiry")

    def revoked(self, at: datetime | None) -> "Grant":
        """Return the grant as it is once it was revoked `at` that instant, itself for None: it expires then, if not before.

        One that is revoked before it begins ends an instant after its begin.
        """
        if at is None or (self.expires_at is not None and self.expires_at <= at):
            return self
        return replace(self, expires_at=max(at, self.effective_at + _INSTANT))

    def is_valid_at(self, instant: datetime) -> bool:
        """Tell whether it may be spent at `instant`."""
        return self.effective_at <= instant and (self.expires_at is None or instant < self.expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What an invoice asks before credits, and when credits are spent on it. An amount below 0 takes none."""

    invoice_id: UUID
    account_id: str
    amount: Money
    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """What one grant pays of one invoice; above 0."""

    grant_id: UUID
    invoice_id: UUID
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantBalance:
    """What is left of a grant at an instant. `expired` is what nobody may spend any more."""

    grant_id: UUID
    granted: Money
    spent: Money
    expired: Money

    @property
    def left(self) -> Money:
        """Return what may still be spent."""
        return self.granted - self.spent - self.expired


def spend(grants: Iterable[Grant], dues: Iterable[Due], *, frozen: Sequence[Spend] = ()) -> tuple[Spend, ...]:
    """Return what each grant pays of each open invoice, ordered by invoice and then as it is spent.

    `frozen` is what grants have paid of final invoices; it is not spent again and not returned. Grants of 5 (priority 1,
    expires tomorrow), 10 (priority 1) and 20 (priority 2) pay an invoice of 12 as 5 + 7 + 0.

    Raises:
        CreditOverspentError: `frozen` spends more of a grant than it holds.
    """
    left = {grant.grant_id: grant.amount for grant in grants_by_id(grants).values()}
    by_account: dict[tuple[str, str], list[Grant]] = defaultdict(list)
    for grant in sorted(grants_by_id(grants).values(), key=lambda one: one.grant_id):
        by_account[grant.account_id, grant.amount.currency].append(grant)
    for paid in frozen:
        left[paid.grant_id] -= paid.amount
        if left[paid.grant_id].minor_units < 0:
            raise CreditOverspentError(
                f"grant {paid.grant_id} is overspent by {-left[paid.grant_id]}",
                bill="no credit is spent until this is settled; invoices keep what final ones have paid",
                fix="find the grant's entries with `billing credits` and correct them by a further grant",
            )
    found = []
    for due in sorted(dues, key=lambda one: (one.due_at, one.invoice_id)):
        open_units = due.amount.minor_units
        for grant in _in_order(by_account[due.account_id, due.amount.currency], left, due.due_at):
            units = min(open_units, left[grant.grant_id].minor_units)
            if units <= 0:
                continue
            amount = Money(units, due.amount.currency)
            left[grant.grant_id] -= amount
            open_units -= units
            found.append(Spend(grant_id=grant.grant_id, invoice_id=due.invoice_id, amount=amount))
    return tuple(found)


def grants_by_id(grants: Iterable[Grant]) -> Mapping[UUID, Grant]:
    """Return each grant once: the same grant twice is one."""
    return {grant.grant_id: grant for grant in grants}


def _in_order(grants: Sequence[Grant], left: Mapping[UUID, Money], at: datetime) -> Sequence[Grant]:
    valid = [grant for grant in grants if grant.is_valid_at(at)]
    return sorted(
        valid,
        key=lambda grant: (
            grant.priority,
            grant.expires_at is None,
            grant.expires_at or grant.effective_at,
            -left[grant.grant_id].minor_units,
            grant.grant_id,
        ),
    )


def balances_at(
    grants: Iterable[Grant], spends: Iterable[tuple[datetime, Spend]], *, at: datetime
) -> tuple[GrantBalance, ...]:
    """Return what is left of each grant that was effective by `at`, in order of their begin.

    `spends` are (due instant, spend); those after `at` do not count. What is left of a grant at its expiry expires.
    """
    spent: dict[UUID, int] = defaultdict(int)
    for due_at, paid in spends:
        if due_at <= at:
            spent[paid.grant_id] += paid.amount.minor_units
    known = sorted(grants_by_id(grants).values(), key=lambda one: (one.effective_at, one.grant_id))
    return tuple(
        GrantBalance(
            grant_id=grant.grant_id,
            granted=grant.amount,
            spent=Money(spent[grant.grant_id], grant.amount.currency),
            expired=Money(
                0 if grant.is_valid_at(at) else grant.amount.minor_units - spent[grant.grant_id], grant.amount.currency
            ),
        )
        for grant in known
        if grant.effective_at <= at
    )


def recurring_grants(credit: RecurringCredit, window: Window) -> Iterator[Grant]:
    """Yield the grants of `credit` whose periods meet `window`, in order; the same period is the same grant."""
    reach = window.overlap(credit.starts_at, credit.ends_at)
    if reach is None:
        return
    period = credit.anchor.period_containing(reach.start)
    while period.start < reach.end:
        begin = max(period.start, credit.starts_at)
        yield Grant(
            grant_id=uuid5(CREDIT_NAMESPACE, f"{credit.credit_id}|{period.start.isoformat()}"),
            account_id=credit.account_id,
            amount=credit.amount,
            priority=credit.priority,
            effective_at=begin,
            expires_at=None if credit.rolls_over else period.end,
            source=GrantSource.RECURRING,
        )
        period = credit.anchor.period_containing(period.end)


def _invalid(grant: Grant, problem: str, fix: str) -> CreditGrantInvalidError:
    return CreditGrantInvalidError(
        f"the grant {grant.grant_id} of account {grant.account_id!r} {problem}",
        bill="it is not granted, and no invoice is paid with it",
        fix=fix,
    )
