"""What an installation decides about Stripe (catalog/stripe.toml), as values. Pure.

Not here: reading the file (resources/stripe_sync/policy_file), secrets and addresses (settings).
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from billing_pipeline.stripe_sync.credit_split import Excess


class Collection(StrEnum):
    """How an invoice that this pipeline makes itself is paid: by the customer's payment method, or by what it is sent."""

    CHARGE_AUTOMATICALLY = "charge_automatically"
    SEND_INVOICE = "send_invoice"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncPolicy:
    """The decisions.

    `daily_push`: pending items follow the books while a period lasts; off where invoices in mid-period are frequent, which would
    take them. `concurrency`: customers worked on at once. `verify_every`: how old a look at Stripe may be before an account that
    has not changed is looked at again.

    True-up: of drafts made for one of `renewal_reasons`. A draft whose period is not whole is held until `hold_at_most` after
    it was made, then Stripe finalizes it as it is; one that is right is let go `release_after` from then. A draft is held as
    well when less than `safe_time` is left to it. One that is not right yet is tried again `retry_after` from then.

    Invoices of accounts without a subscription at Stripe are made here: `collection`, and `days_until_due` of those sent.
    Credited money that was paid already becomes `credit_excess`; the customer is mailed of it when `mail_credit_notes` says so.
    """

    daily_push: bool = True
    concurrency: int = 8
    verify_every: timedelta = timedelta(hours=20)
    renewal_reasons: frozenset[str] = frozenset({"subscription_cycle"})
    hold_at_most: timedelta = timedelta(hours=24)
    release_after: timedelta = timedelta(minutes=10)
    safe_time: timedelta = timedelta(minutes=20)
    retry_after: timedelta = timedelta(minutes=10)
    collection: Collection = Collection.CHARGE_AUTOMATICALLY
    days_until_due: int = 30
    credit_excess: Excess = Excess.BALANCE
    mail_credit_notes: bool = False
