"""Compare what is billed here with what Stripe holds, line by line: our invoices, Stripe's lines -> differences with a name. Pure.

Amounts are Stripe's own minor units. Lines are known by their key (`metadata.bp_key`), which is of one invoice of ours; what
Stripe holds under one key is added up, pending items among it, void invoices left out. Credit notes are lines below 0 under
their number; one that somebody issued at Stripe is under its id there, and of nothing here. A difference that the sync knows of
(it has not been sent yet) is lag and no drift. Not here: reading either side (resources/reconciliation), what is to be sent.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.periods import Window

PENDING = "pending"
# Where a line is that has another currency than its invoice here.
OTHER_CURRENCY = "another currency"


class Agreement(StrEnum):
    """How both sides stand to each other. In this order of weight, the lightest first."""

    EQUAL = "equal"
    # Nothing is sent before the renewal, by policy.
    NOT_DUE = "not_due"
    # What is missing is on its way: the sync has not been here since it changed.
    BEHIND = "behind"
    UNLINKED = "unlinked"
    DRIFT = "drift"


@dataclass(frozen=True, slots=True, kw_only=True)
class OurInvoice:
    """An invoice here with what is to be charged for each of its lines, by key, and what is given back on it, by the number of
    the credit note, below 0. Lines by meter are Stripe's own: left out."""

    invoice_id: UUID
    account_id: str
    subscription_id: str | None
    period: Window
    state: InvoiceState
    currency: str
    lines: Mapping[str, int]
    credits: Mapping[str, int] = field(default_factory=dict)

    @property
    def amounts(self) -> Mapping[str, int]:
        """Return lines and credit notes, by key."""
        return {**self.lines, **self.credits}

    @property
    def credited(self) -> int:
        """Return what is given back, 0 or below."""
        return sum(self.credits.values())

    @property
    def total(self) -> int:
        """Return what the customer is to pay: the lines, less what is given back."""
        return sum(self.amounts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLine:
    """A line, or a pending item, at Stripe that carries a key of ours, or a credit note (an amount below 0) on an invoice that has
    such lines. `where`: in_..., cn_..., or `pending`."""

    key: str
    amount: int
    currency: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the sync says of an account. `is_behind`: something is wanted that it has not sent and seen yet."""

    customer_id: str | None
    is_behind: bool = False
    behind_since: datetime | None = None
    synced_at: datetime | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One line of which both sides say different; 0 where one of them has none."""

    key: str
    ours: int
    held: int
    where: tuple[str, ...]

    @property
    def difference(self) -> int:
        """Return what Stripe holds too much, below 0 too little."""
        return self.held - self.ours

    @property
    def is_any(self) -> bool:
        """Return whether both sides differ, if only in the currency."""
        return self.difference != 0 or self.where == (OTHER_CURRENCY,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """An invoice of ours beside what Stripe holds of it; `invoice` None: what Stripe holds of us and nothing here knows.
    `ours` and `held` are less what is given back, of which `..._credited` (0 or below) tells."""

    account_id: str
    currency: str
    agreement: Agreement
    ours: int
    held: int
    invoice: OurInvoice | None = None
    drifts: tuple[Drift, ...] = field(default=())
    ours_credited: int = 0
    held_credited: int = 0

    @property
    def difference(self) -> int:
        """Return what Stripe holds too much, below 0 too little."""
        return self.held - self.ours


def reconcile(
    account_id: str,
    invoices: Sequence[OurInvoice],
    held: Iterable[HeldLine],
    standing: Standing,
    *,
    is_pushed: bool = True,
    elsewhere: frozenset[str] = frozenset(),
    on_their_way: frozenset[str] = frozenset(),
) -> tuple[Reconciled, ...]:
    """Return every invoice of an account beside Stripe's lines, and last what Stripe holds beyond them, by currency.

    `is_pushed`: drafts are at Stripe while their period lasts. `elsewhere`: keys of invoices here that are not compared now.
    `on_their_way`: credit notes that were not brought to Stripe yet.
    With lines a: 500 and b: 300 here, a: 500, b: 299 and c: 7 there: 800 against 799, drift b -1; and c, which is of nothing, 7.
    With 100 of the 500 given back here alone: 700 against 799, drifts b -1 and CN-000001 +100.
    """
    by_key: dict[str, list[HeldLine]] = defaultdict(list)
    for line in held:
        by_key[line.key].append(line)
    found = []
    known: set[str] = set()
    for invoice in invoices:
        known.update(invoice.amounts)
        drifts = tuple(
            drift
            for key, amount in sorted(invoice.amounts.items())
            if (drift := _drift(key, amount, by_key.get(key, ()), invoice.currency)).is_any
        )
        ours = invoice.total
        there = sum(line.amount for key in invoice.amounts for line in by_key.get(key, ()))
        is_late = standing.is_behind or on_their_way.issuperset(drift.key for drift in drifts)
        found.append(
            Reconciled(
                account_id=account_id,
                currency=invoice.currency,
                agreement=_agreement(invoice, drifts, there, standing, is_late=is_late, is_pushed=is_pushed),
                ours=ours,
                held=there,
                invoice=invoice,
                drifts=drifts,
                ours_credited=invoice.credited,
                held_credited=sum(line.amount for key in invoice.credits for line in by_key.get(key, ())),
            )
        )
    unknown = [line for key, lines in by_key.items() if key not in known | elsewhere for line in lines]
    return (*found, *_beyond(account_id, unknown, standing))


def _drift(key: str, ours: int, lines: Sequence[HeldLine], currency: str) -> Drift:
    if any(line.currency != currency for line in lines):
        return Drift(key=key, ours=ours, held=sum(line.amount for line in lines), where=(OTHER_CURRENCY,))
    where = tuple(sorted({line.where for line in lines}))
    return Drift(key=key, ours=ours, held=sum(line.amount for line in lines), where=where)


def _agreement(
    invoice: OurInvoice, drifts: Sequence[Drift], held: int, standing: Standing, *, is_late: bool, is_pushed: bool
) -> Agreement:
    if not drifts:
        return Agreement.EQUAL
    if standing.customer_id is None:
        return Agreement.UNLINKED
    if is_late:
        return Agreement.BEHIND
    if not is_pushed and invoice.state is InvoiceState.DRAFT and held == 0:
        return Agreement.NOT_DUE
    return Agreement.DRIFT


def _beyond(account_id: str, lines: Sequence[HeldLine], standing: Standing) -> list[Reconciled]:
    """Return what Stripe holds under keys that nothing here has; lines that come to nothing are none."""
    by_currency: dict[str, dict[str, list[HeldLine]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        by_currency[line.currency][line.key].append(line)
    found = []
    for currency, keys in sorted(by_currency.items()):
        drifts = tuple(drift for key, held in sorted(keys.items()) if (drift := _drift(key, 0, held, currency)).is_any)
        if drifts:
            found.append(
                Reconciled(
                    account_id=account_id,
                    currency=currency,
                    agreement=Agreement.BEHIND if standing.is_behind else Agreement.DRIFT,
                    ours=0,
                    held=sum(drift.held for drift in drifts),
                    drifts=drifts,
                )
            )
    return found
