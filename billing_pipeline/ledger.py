"""Charge revisions -> balanced postings. Pure.

Double entry in minor units: a revision debits the account's receivable, or its prepaid balance (plus), and credits the
price's revenue (minus); a negative difference turns both round. What a person adds to an invoice is posted against an
account of its kind. Postings of a transaction sum to zero. Not here: what is charged (charges), who may add what
(resources/invoicing), the balance that an account begins with (prepaid).
"""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import BillingMode
from billing_pipeline.charges import ChargeRevision, name_bytes, name_uuid
from billing_pipeline.credits import CreditChange, GrantSource

# Made once with uuid4. Never change it: ids of booked transactions are made from it.
_TRANSACTION_NAMESPACE = UUID("b7a4f3c2-52d7-4f0e-8a34-0d9f1c6e2b58")

_PAID_FROM = {
    BillingMode.INVOICE_ITEMS: "receivable",
    BillingMode.STRIPE_METER: "receivable",
    BillingMode.PREPAID_BALANCE: "prepaid",
}


class Added(StrEnum):
    """What people add to invoices, and the ledger account of each currency that it is posted against."""

    ADJUSTMENT = "adjustments"
    ONE_OFF = "one_offs"
    CREDIT_NOTE = "credit_notes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One side of a ledger transaction. Debits are positive, credits negative."""

    transaction_id: UUID
    posting_number: int
    ledger_account: str
    account_id: str
    amount: Money


def postings(revision: ChargeRevision, *, billing_mode: BillingMode = BillingMode.INVOICE_ITEMS) -> tuple[Posting, ...]:
    """Return the postings of a revision: two that sum to zero, or none where it adds nothing.

    4.50 USD more: receivable:acme +450, revenue:api_requests -450. What a prepaid price asks is taken from what the account
    has paid before: prepaid:acme +450.
    """
    if revision.delta.minor_units == 0:
        return ()
    debited, credited = accounts_of(revision, billing_mode=billing_mode)
    sides = ((debited, revision.delta), (credited, -revision.delta))
    return _sides(transaction_id(revision), revision.charge.account_id, sides)


def transaction_id(revision: ChargeRevision) -> UUID:
    """Return the id of the transaction that books a revision."""
    return UUID(bytes=transaction_bytes(revision))


def transaction_bytes(revision: ChargeRevision) -> bytes:
    """Return the sixteen bytes of the id of the transaction that books a revision."""
    delta = revision.delta
    name = f"{revision.charge_id}|{revision.revision}|{delta.minor_units}|{delta.currency}"
    return name_bytes(_TRANSACTION_NAMESPACE, name)


def accounts_of(revision: ChargeRevision, *, billing_mode: BillingMode) -> tuple[str, str]:
    """Return the ledger accounts that a revision debits and credits."""
    charge = revision.charge
    return f"{_PAID_FROM[billing_mode]}:{charge.account_id}", f"revenue:{charge.key.price_id}"


def postings_of_added(*, added: Added, entry_id: UUID, account_id: str, amount: Money) -> tuple[Posting, ...]:
    """Return the postings of what a person adds; `amount` is what the customer owes more, below 0 what it owes less.

    An adjustment of -5.00 USD: receivable:acme -500, adjustments:USD +500. None where nothing is added.
    """
    if amount.minor_units == 0:
        return ()
    own_id = name_uuid(_TRANSACTION_NAMESPACE, f"{added}|{entry_id}|{amount.minor_units}|{amount.currency}")
    sides = ((f"receivable:{account_id}", amount), (f"{added}:{amount.currency}", -amount))
    return _sides(own_id, account_id, sides)


def postings_of_credit(
    *, entry_id: UUID, account_id: str, change: CreditChange, source: GrantSource, delta: Money
) -> tuple[Posting, ...]:
    """Return the postings of what changes a grant's balance by `delta`: what we owe the account in credit is below 0.

    10.00 USD granted: credits:acme -1000, credit_funding:promotion +1000. 3.00 spent (delta -3.00): credits:acme +300,
    receivable:acme -300. 2.00 expired: credits:acme +200, credits_expired:USD -200.
    """
    if delta.minor_units == 0:
        return ()
    against = {
        CreditChange.GRANTED: f"credit_funding:{source}",
        CreditChange.SPENT: f"receivable:{account_id}",
        CreditChange.EXPIRED: f"credits_expired:{delta.currency}",
    }
    own_id = name_uuid(_TRANSACTION_NAMESPACE, f"credit|{entry_id}|{delta.minor_units}|{delta.currency}")
    sides = ((f"credits:{account_id}", -delta), (against[change], delta))
    return _sides(own_id, account_id, sides)


def _sides(own_id: UUID, account_id: str, sides: tuple[tuple[str, Money], ...]) -> tuple[Posting, ...]:
    return tuple(
        Posting(
            transaction_id=own_id,
            posting_number=number,
            ledger_account=ledger_account,
            account_id=account_id,
            amount=amount,
        )
        for number, (ledger_account, amount) in enumerate(sides, 1)
    )
