"""What an installation decides about Stripe (catalog/stripe.toml), as values. Pure.

Not here: reading the file (resources/stripe_sync/policy_file), secrets and addresses (settings).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum

from billing_pipeline.stripe_sync.credit_split import Excess

# What divides an hour, the hour, and the day.
INTERVALS = (5, 10, 15, 20, 30, 60, 1440)


class Collection(StrEnum):
    """How an invoice that this pipeline makes itself is paid: by the customer's payment method, or by what it is sent."""

    CHARGE_AUTOMATICALLY = "charge_automatically"
    SEND_INVOICE = "send_invoice"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterRoute:
    """A price whose usage is told to a meter at Stripe. `multiply` makes the price's quantity whole units of the meter: GB-months
    x 1000 are MB-months."""

    price_id: str
    event_name: str
    multiply: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncPolicy:
    """The decisions.

    `daily_push`: pending items follow the books while a period lasts; off where invoices in mid-period are frequent, which would
    take them. `every_minutes`: how often the schedule syncs what has changed. `concurrency`: customers worked on at once.
    `verify_every`: how old a look at Stripe may be before an account that has not changed is looked at again.

    True-up: of drafts made for one of `renewal_reasons`. A draft whose period is not whole is held until `hold_at_most` after
    it was made, then Stripe finalizes it as it is; one that is right is let go `release_after` from then. A draft is held as
    well when less than `safe_time` is left to it. One that is not right yet is tried again `retry_after` from then.

    Invoices of accounts without a subscription at Stripe are made here: `collection`, and `days_until_due` of those sent.
    Credited money that was paid already becomes `credit_excess`; the customer is mailed of it when `mail_credit_notes` says so.
    `meters` by price id, for prices of `billing_mode` stripe_meter; what no summary shows `confirm_meters_within` is told of.
    """

    daily_push: bool = True
    every_minutes: int = 60
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
    meters: Mapping[str, MeterRoute] = field(default_factory=dict, hash=False)
    confirm_meters_within: timedelta = timedelta(hours=1)
