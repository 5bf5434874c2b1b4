"""Compare what is billed here with what Stripe holds, line by line: our invoices, Stripe's lines -> differences with a name. Pure.

Amounts are Stripe's own minor units. Lines are known by their key (`metadata.bp_key`), which is of one invoice of ours; what
Stripe holds under one key is added up, pending items among it, void invoices left out. A difference that the sync knows of
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
    """An invoice here with what is to be charged for each of its lines, by key. Lines by meter are Stripe's own: left out."""

    invoice_id: UUID
    account_id: str
    subscription_id: str | None
    period: Window
    state: InvoiceState
    currency: str
    lines: Mapping[str, int]

    @property
    def total(self) -> int:
        """Return the sum of the lines."""
        return sum(self.lines.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLine:
    """A line, or a pending item, at Stripe that carries a key of ours. `where`: in_..., or `pending`."""

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
    """An invoice of ours beside what Stripe holds of it; `invoice` None: what Stripe holds of us and nothing here knows."""

    account_id: str
    currency: str
    agreement: Agreement
    ours: int
    held: int
    invoice: OurInvoice | None = None
    drifts: tuple[Drift, ...] = field(default=())

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
) -> tuple[Reconciled, ...]:
    """Return every invoice of an account beside Stripe's lines, and last what Stripe holds beyond them, by currency.

    `is_pushed`: drafts are at Stripe while their period lasts. `elsewhere`: keys of invoices here that are not compared now.
    With lines a: 500 and b: 300 here, a: 500, b: 299 and c: 7 there: 800 against 799, drift b -1; and c, which is of nothing, 7.
    """
    by_key: dict[str, list[HeldLine]] = defaultdict(list)
    for line in held:
        by_key[line.key].append(line)
    found = []
    known: set[str] = set()
    for invoice in invoices:
        known.update(invoice.lines)
        drifts = tuple(
            drift
            for key, amount in sorted(invoice.lines.items())
            if (drift := _drift(key, amount, by_key.get(key, ()), invoice.currency)).is_any
        )
        ours = invoice.total
        there = sum(line.amount for key in invoice.lines for line in by_key.get(key, ()))
        found.append(
            Reconciled(
                account_id=account_id,
                currency=invoice.currency,
                agreement=_agreement(invoice, drifts, there, standing, is_pushed=is_pushed),
                ours=ours,
                held=there,
                invoice=invoice,
                drifts=drifts,
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
    invoice: OurInvoice, drifts: Sequence[Drift], held: int, standing: Standing, *, is_pushed: bool
) -> Agreement:
    if not drifts:
        return Agreement.EQUAL
    if standing.customer_id is None:
        return Agreement.UNLINKED
    if standing.is_behind:
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
