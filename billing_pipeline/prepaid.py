"""Prepaid balances: minute buckets x price -> what each takes from the balance; payments -> who is suspended. Pure.

Quota is spent in order of time, by (bucket start, env, node, account uuid, region, line). Amounts are exact, in major units,
negative where they lower the balance. PostgreSQL does the same for millions of buckets (prepaid_usage); `spend` is what
it is held to. Not here: lines and totals of a charge (rating), when a period begins (periods), keeping any of it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from uuid import NAMESPACE_OID, UUID, uuid5
from zoneinfo import ZoneInfo

from billing_pipeline.amounts import Money, exact_arithmetic
from billing_pipeline.catalog import MeteredBalance, Price, PriceVersion
from billing_pipeline.errors import BillingError
from billing_pipeline.ledger import Posting

BUCKET = timedelta(minutes=1)
SUSPENDS_AFTER = timedelta(days=14)
# Made once with uuid4. Never change it: ids of booked transactions are made from it.
_OPENING_NAMESPACE = UUID("5d8c3b0e-7a0f-4d39-9c55-2c1f8e64b7a3")
_ONE = Decimal(1)


class BucketOutsidePriceError(BillingError):
    """A minute bucket for which the prepaid price has no version."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Bucket:
    """A minute of one account on one node, all inbounds together. The fields are in the order in which quota is spent."""

    bucket_start: datetime
    env: str
    node: str
    account_uuid: str
    region: str = ""
    line: str = ""

    @property
    def entry_id(self) -> UUID:
        """Return the id of the bucket's first entry, a function of the bucket alone, so that a replay writes the same."""
        minute = self.bucket_start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        name = f"{minute}|{self.env}:{self.node}|{self.account_uuid}|{self.region}|{self.line}"
        return uuid5(NAMESPACE_OID, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a bucket took: `included_bytes` from the quota, `rated_bytes` at the price x `multiplier`; `amount` <= 0."""

    bucket: Bucket
    version: int
    included_bytes: int
    rated_bytes: int
    multiplier: Decimal
    amount: Decimal


def adjustment_id(bucket_id: UUID, revision: int) -> UUID:
    """Return the id of a bucket's entry: revision 1 is the bucket's own, those that follow are made from it."""
    return bucket_id if revision == 1 else uuid5(bucket_id, str(revision))


def spend(minutes: Iterable[tuple[Bucket, int]], price: Price) -> Iterator[Spent]:
    """Yield what each bucket of one billing period takes, in order of time. `minutes`: buckets with their bytes, in any order.

    Quota 100, price 0.5, multipliers 1.2 x 2.0, 150 bytes: 100 included, 50 x 0.5 x 2.4 = 60 from the balance. A version of
    the price with another quota counts the period's bytes so far against its own.

    Raises:
        BucketOutsidePriceError: no version is in force at a bucket.
    """
    used = 0
    for bucket, byte_count in sorted(minutes):
        version = _in_force(price, bucket.bucket_start)
        model = balance_terms(version)
        quota = model.included_quota_bytes
        included = min(quota, used + byte_count) - min(quota, used)
        used += byte_count
        rated = byte_count - included
        times = multiplier(model, region=bucket.region, line=bucket.line, at=bucket.bucket_start)
        with exact_arithmetic():
            amount = -rated * price_of_byte(version) * times
        yield Spent(
            bucket=bucket,
            version=version.version,
            included_bytes=included,
            rated_bytes=rated,
            multiplier=times,
            amount=amount,
        )


def multiplier(model: MeteredBalance, *, region: str, line: str, at: datetime) -> Decimal:
    """Return by how much the price is multiplied there and then: 1.2 x 2.0 = 2.4. What is missing, or 0, counts 1."""
    places = _or_one(model.region_multipliers.get(region)), _or_one(model.line_multipliers.get(line))
    with exact_arithmetic():
        return places[0] * places[1] * hour_multiplier(model, at)


def hour_multiplier(model: MeteredBalance, at: datetime) -> Decimal:
    """Return the multiplier of the local hour of `at`: peak or off-peak; 1 for a price without peak hours."""
    if model.peak is None:
        return _ONE
    hour = at.astimezone(ZoneInfo(model.peak.zone)).hour
    for first, end in model.peak.hours:
        if first <= hour < end if first < end else (hour >= first or hour < end):
            return _or_one(model.peak_multiplier)
    return _or_one(model.off_peak_multiplier)


def price_of_byte(version: PriceVersion) -> Decimal:
    """Return the exact price of one byte before multipliers: 0.05 per 10^9 bytes is 0.00000000005."""
    share = _ONE if version.conversion is None else version.conversion.share
    if not isinstance(share, Decimal):
        raise TypeError(f"the conversion of version {version.version} has no end in decimals")
    with exact_arithmetic():
        return balance_terms(version).unit_price * share


def balance_terms(version: PriceVersion) -> MeteredBalance:
    """Return what a version of a prepaid price asks; the catalog lets such a price have no version of another model."""
    if not isinstance(version.model, MeteredBalance):
        raise TypeError(f"version {version.version} is not prepaid")
    return version.model


class ThrottleState(StrEnum):
    """Whether an account is slowed down, because its balance is below the minimum of its price."""

    NORMAL = "normal"
    THROTTLED = "throttled"


class SuspendState(StrEnum):
    """Whether an account is cut off."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class PaymentKind(StrEnum):
    """What happened to an invoice."""

    PAYMENT_FAILED = "payment_failed"
    INVOICE_PAID = "invoice_paid"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Payment:
    """A payment event of one account; `at` is when it happened, not when it came. `invoice_id`: what was to be paid, empty where
    nobody said."""

    at: datetime
    event_id: str
    kind: PaymentKind
    invoice_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentArrears:
    """What an account's payments say: since when one is missing (None: none is), and when the last was made."""

    arrears_since: datetime | None = None
    last_paid_at: datetime | None = None


def payment_arrears(payments: Iterable[Payment]) -> PaymentArrears:
    """Return the state after `payments`, in any order: they count by when they happened.

    An invoice is in arrears from its first failure since it was last paid; the account from the earliest of these. Paying one
    invoice leaves the arrears of another: with A failed on the 1st and B on the 4th, paying B leaves the 1st, paying A the 4th.
    A payment of which nobody said for what is for all, and ends a failure of which nobody said of what. An invoice paid at the
    instant of a failure comes after it.
    """
    since: dict[str, datetime] = {}
    paid: datetime | None = None
    for payment in sorted(payments, key=lambda one: (one.at, one.kind is PaymentKind.INVOICE_PAID, one.event_id)):
        if payment.kind is PaymentKind.PAYMENT_FAILED:
            since.setdefault(payment.invoice_id, payment.at)
            continue
        paid = payment.at
        settled = since.keys() if not payment.invoice_id else {payment.invoice_id, ""}
        since = {invoice_id: at for invoice_id, at in since.items() if invoice_id not in settled}
    return PaymentArrears(arrears_since=min(since.values(), default=None), last_paid_at=paid)


def suspend_state(*, payments: PaymentArrears, balance_arrears_since: datetime | None, now: datetime) -> SuspendState:
    """Return whether 14 days in arrears, by payment or by balance, have passed at `now`: day 13 active, day 14 suspended.

    A payment restores: it ends the arrears of what it pays, and gives the balance 14 days from then to be brought above 0.
    """
    begun = [] if payments.arrears_since is None else [payments.arrears_since]
    if balance_arrears_since is not None:
        begun.append(max(balance_arrears_since, payments.last_paid_at or balance_arrears_since))
    is_over = any(now - at >= SUSPENDS_AFTER for at in begun)
    return SuspendState.SUSPENDED if is_over else SuspendState.ACTIVE


def opening_bucket(account_id: str, starts_at: datetime) -> Bucket:
    """Return what identifies the entry of the balance that an account begins with."""
    return Bucket(bucket_start=starts_at, env="", node="", account_uuid=account_id)


def opening_postings(*, entry_id: UUID, account_id: str, amount: Money) -> tuple[Posting, ...]:
    """Return the postings that put `amount` on an account's balance: prepaid:acme -10000, opening_balance:USD +10000.

    What we owe a customer is a credit: the balance is minus the sum of its account's postings.
    """
    if amount.minor_units == 0:
        return ()
    transaction_id = uuid5(_OPENING_NAMESPACE, f"{entry_id}|{amount.minor_units}|{amount.currency}")
    sides = ((f"prepaid:{account_id}", -amount), (f"opening_balance:{amount.currency}", amount))
    return tuple(
        Posting(
            transaction_id=transaction_id,
            posting_number=number,
            ledger_account=ledger_account,
            account_id=account_id,
            amount=side,
        )
        for number, (ledger_account, side) in enumerate(sides, 1)
    )


def _in_force(price: Price, at: datetime) -> PriceVersion:
    version = price.version_at(at)
    if version is None:
        raise BucketOutsidePriceError(
            f"price {price.price_id!r} has no prepaid version at {at.isoformat()}",
            bill="nothing is taken from the balance; what is booked stays",
            fix=f"add a version of {price.price_id!r} to prices.toml that is in force then, and load the catalog",
        )
    return version


def _or_one(found: Decimal | None) -> Decimal:
    return found if found is not None and found > 0 else _ONE
