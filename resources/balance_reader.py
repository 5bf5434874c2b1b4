"""Read a prepaid account from PostgreSQL: usage and balance as of an instant, its minutes, its ledger. One read-only snapshot.

The reader role, and nothing but PostgreSQL: it works while nothing is written, and no metric reaches a figure. Bytes are
whole, balances exact in major units, instants UTC. `now` is the caller's. Not here: showing it (console).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row, kwargs_row

from billing_pipeline.amounts import Money, exact_text
from billing_pipeline.billing_schedule import charge_at, stretches
from billing_pipeline.catalog import Catalog, Price, PriceVersion, Subscription
from billing_pipeline.charges import ChargeKey
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import Window, as_utc
from billing_pipeline.prepaid import (
    BUCKET,
    PaymentArrears,
    SuspendState,
    ThrottleState,
    balance_terms,
    suspend_state,
)
from resources.catalog_store import current_catalog
from resources.database import Database

SOURCE_OF_TRUTH = "postgresql"
LEDGER_ROWS = 20
_NOTHING_SHOWN = "nothing is shown; what is booked stays as it is"


class NotPrepaidError(BillingError):
    """The account has no subscription, begun by then, that a balance pays for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceProfile:
    """What the account's prepaid price asks at an instant: one version of it."""

    subscription_id: str
    price_id: str
    version: int
    currency: str
    included_quota_bytes: int
    unit_price: Decimal
    unit: str
    region_multipliers: Mapping[str, Decimal]
    line_multipliers: Mapping[str, Decimal]
    peak_multiplier: Decimal
    off_peak_multiplier: Decimal
    minimum_balance: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountBalance:
    """What an account has used in the billing period of `now`, and what is left to it.

    `current_balance` is exact; `booked_balance` is that of the ledger, in which the charge of each period is rounded once.
    `arrears` are those of payment or of balance, since the earlier of them. `sync_delay_seconds` is how old the newest
    minute is for which traffic is known, None before the first.
    """

    account_id: str
    period: Window
    total_bytes: int
    uplink_bytes: int
    downlink_bytes: int
    current_balance: Decimal
    booked_balance: Money
    remaining_included_quota: int
    suspend_state: SuspendState
    throttle_state: ThrottleState
    payment_arrears_since: datetime | None
    balance_arrears_since: datetime | None
    last_bucket_at: datetime | None
    sync_delay_seconds: int | None
    profile: BalanceProfile

    @property
    def arrears_since(self) -> datetime | None:
        """Return since when the account is in arrears, None where it is in none."""
        return min(
            (at for at in (self.payment_arrears_since, self.balance_arrears_since) if at is not None), default=None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageMinute:
    """The traffic of one minute on one node, all inbounds together."""

    bucket_start: datetime
    env: str
    node: str
    account_uuid: str
    region: str
    line: str
    uplink_bytes: int
    downlink_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """An entry of the balance; `balance_after` is what was left after it, in order of minutes."""

    entry_id: UUID
    entry_type: str
    bucket_start: datetime
    bucket_end: datetime
    node: str
    rated_bytes: int
    included_bytes: int
    multiplier: Decimal
    amount_delta: Decimal
    balance_after: Decimal
    pricing_rule_version: str


@dataclass(frozen=True, slots=True)
class BalanceReader:
    """The prepaid accounts of one database, for reading."""

    database: Database

    def balance(self, account_id: str, *, now: datetime) -> AccountBalance:
        """Return the account as of `now`. A period of which nothing is booked yet has its whole quota.

        Raises:
            CatalogNotLoadedError: there is no catalog.
            UnknownEntryError: no such account.
            NotPrepaidError: no balance pays for anything of the account then.
        """
        at = as_utc(now)
        with self.database.reading() as connection:
            return _balance(connection, current_catalog(connection), account_id, at)

    def buckets(self, account_id: str, *, start: datetime, end: datetime) -> tuple[UsageMinute, ...]:
        """Return the account's minutes in `[start, end)`, in order of time.

        Raises:
            CatalogNotLoadedError, UnknownEntryError: as `balance`.
        """
        with self.database.reading() as connection:
            current_catalog(connection).account(account_id)
            with connection.cursor(row_factory=class_row(UsageMinute)) as cursor:
                rows = cursor.execute(
                    """
                    select bucket_start, env, node, account_uuid, region, line, sum(uplink_bytes)::bigint as uplink_bytes,
                        sum(downlink_bytes)::bigint as downlink_bytes
                    from usage.traffic_minute
                    where account_id = %s and bucket_start >= %s and bucket_start < %s
                    group by 1, 2, 3, 4, 5, 6
                    order by 1, 2, 3, 4, 5, 6
                    """,
                    [account_id, as_utc(start), as_utc(end)],
                )
                return tuple(rows)

    def billing(self, account_id: str, *, now: datetime) -> tuple[AccountBalance, tuple[LedgerRow, ...]]:
        """Return the account as of `now`, and the newest 20 entries of its balance, newest first; raises as `balance`."""
        at = as_utc(now)
        with self.database.reading() as connection:
            found = _balance(connection, current_catalog(connection), account_id, at)
            with connection.cursor(row_factory=kwargs_row(_ledger_row)) as cursor:
                values = {"account": account_id, "balance": found.current_balance, "rows": LEDGER_ROWS}
                return found, tuple(cursor.execute(_LEDGER, values))


def _ledger_row(*, rated_bytes: Decimal, **others: Any) -> LedgerRow:
    return LedgerRow(rated_bytes=int(rated_bytes), **others)


def balance_as_json(found: AccountBalance) -> Mapping[str, object]:
    """Return the fields by the names that the account's page has for them; exact numbers as text, instants as ISO 8601."""
    profile = found.profile
    return {
        "accountUuid": found.account_id,
        "periodStart": found.period.start.isoformat(),
        "periodEnd": found.period.end.isoformat(),
        "totalBytes": found.total_bytes,
        "uplinkBytes": found.uplink_bytes,
        "downlinkBytes": found.downlink_bytes,
        "sourceOfTruth": SOURCE_OF_TRUTH,
        "currentBalance": exact_text(found.current_balance),
        "bookedBalance": exact_text(found.booked_balance.major),
        "remainingIncludedQuota": found.remaining_included_quota,
        "suspendState": found.suspend_state.value,
        "throttleState": found.throttle_state.value,
        "arrears": found.arrears_since is not None,
        "arrearsSince": _iso(found.arrears_since),
        "lastBucketAt": _iso(found.last_bucket_at),
        "syncDelaySeconds": found.sync_delay_seconds,
        "billingProfile": {
            "subscription": profile.subscription_id,
            "pricingRuleVersion": f"{profile.price_id}:{profile.version}",
            "currency": profile.currency,
            "includedQuotaBytes": profile.included_quota_bytes,
            "unitPrice": exact_text(profile.unit_price),
            "unit": profile.unit,
            "regionMultipliers": {name: exact_text(by) for name, by in profile.region_multipliers.items()},
            "lineMultipliers": {name: exact_text(by) for name, by in profile.line_multipliers.items()},
            "peakMultiplier": exact_text(profile.peak_multiplier),
            "offPeakMultiplier": exact_text(profile.off_peak_multiplier),
            "minimumBalance": exact_text(profile.minimum_balance),
        },
    }


def ledger_as_json(rows: tuple[LedgerRow, ...]) -> list[Mapping[str, object]]:
    """Return ledger rows by the names that the account's page has for them."""
    return [
        {
            "id": str(row.entry_id),
            "entryType": row.entry_type,
            "bucketStart": row.bucket_start.isoformat(),
            "bucketEnd": row.bucket_end.isoformat(),
            "nodeId": row.node,
            "ratedBytes": row.rated_bytes,
            "includedBytes": row.included_bytes,
            "multiplier": exact_text(row.multiplier),
            "amountDelta": exact_text(row.amount_delta),
            "balanceAfter": exact_text(row.balance_after),
            "pricingRuleVersion": row.pricing_rule_version,
        }
        for row in rows
    ]


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _balance(connection: psycopg.Connection, catalog: Catalog, account_id: str, now: datetime) -> AccountBalance:
    account = catalog.account(account_id)
    subscription, price, ends_at = _prepaid_at(catalog, account_id, now)
    # Of what has ended: its last period.
    at = now if ends_at is None or now < ends_at else ends_at - timedelta(microseconds=1)
    charge = charge_at(catalog, subscription, price, at)
    if charge is None:
        raise AssertionError("a price is charged at the instants of its stretch")  # pragma: no cover
    period = charge.period.window
    version = price.version_at(at) or price.versions[-1]
    terms = balance_terms(version)
    key = ChargeKey(subscription_id=subscription.subscription_id, price_id=price.price_id, period=period)
    meter = catalog.meters[price.meter_id or ""]
    values = {
        "account": account_id,
        "charge": key.charge_id,
        "start": period.start,
        "end": period.end,
        "envs": sorted(meter.envs),
    }
    row = connection.execute(_ACCOUNT, values).fetchone()
    if row is None:
        raise AssertionError("a query without tables in its from clause gives a row")  # pragma: no cover
    uplink, downlink, balance, ledger, rated, payment_since, paid_at, balance_since, last_bucket, known_until = row
    payments = PaymentArrears(arrears_since=payment_since, last_paid_at=paid_at)
    exact = _opening(subscription, version, balance)
    return AccountBalance(
        account_id=account_id,
        period=period,
        total_bytes=int(uplink + downlink),
        uplink_bytes=int(uplink),
        downlink_bytes=int(downlink),
        current_balance=exact,
        booked_balance=Money(ledger, account.currency),
        remaining_included_quota=max(terms.included_quota_bytes - int(rated), 0),
        suspend_state=suspend_state(payments=payments, balance_arrears_since=balance_since, now=now),
        throttle_state=ThrottleState.THROTTLED if exact < terms.minimum_balance else ThrottleState.NORMAL,
        payment_arrears_since=payment_since,
        balance_arrears_since=balance_since,
        last_bucket_at=last_bucket,
        sync_delay_seconds=_delay(now, last_bucket, known_until),
        profile=_profile(subscription, price, version, meter.unit),
    )


def _opening(subscription: Subscription, version: PriceVersion, balance: Decimal | None) -> Decimal:
    """Return the balance; before anything is booked, what the account will begin with."""
    if balance is not None:
        return balance
    given = subscription.initial_balance
    return balance_terms(version).initial_balance if given is None else given


def _delay(now: datetime, last_bucket: datetime | None, known_until: datetime | None) -> int | None:
    """Return the age of what is known of traffic: a quiet account is not late while its exporters are read to the end."""
    known = [at for at in (None if last_bucket is None else last_bucket + BUCKET, known_until) if at is not None]
    return max((now - max(known)) // timedelta(seconds=1), 0) if known else None


def _prepaid_at(catalog: Catalog, account_id: str, now: datetime) -> tuple[Subscription, Price, datetime | None]:
    """Return the subscription that spends the account's balance at `now`, or did last, its prepaid price, and until when."""
    found = [
        (subscription, price, phases)
        for subscription in catalog.subscriptions_by_account.get(account_id, ())
        for price, phases in stretches(catalog, subscription)
        if price.is_prepaid and phases[0].starts_at <= now
    ]
    if not found:
        prepaid = sorted(
            {
                subscription.account_id
                for subscription in catalog.subscriptions.values()
                if any(price.is_prepaid for price in catalog.prices_of(subscription))
            }
        )
        near = get_close_matches(account_id, prepaid, n=3) or prepaid[:3]
        raise NotPrepaidError(
            f"account {account_id!r} has no prepaid subscription that has begun by {now.isoformat()}"
            + (f" (prepaid are {', '.join(near)})" if near else ""),
            bill=_NOTHING_SHOWN,
            fix=f"see what it pays by invoice: billing bill {account_id} {now:%Y-%m}",
        )
    subscription, price, phases = max(found, key=lambda one: (one[2][0].starts_at, one[0].subscription_id))
    return subscription, price, phases[-1].ends_at


def _profile(subscription: Subscription, price: Price, version: PriceVersion, meter_unit: str) -> BalanceProfile:
    terms = balance_terms(version)
    return BalanceProfile(
        subscription_id=subscription.subscription_id,
        price_id=price.price_id,
        version=version.version,
        currency=price.currency,
        included_quota_bytes=terms.included_quota_bytes,
        unit_price=terms.unit_price,
        unit=version.conversion.unit if version.conversion else meter_unit,
        region_multipliers=terms.region_multipliers,
        line_multipliers=terms.line_multipliers,
        peak_multiplier=terms.peak_multiplier,
        off_peak_multiplier=terms.off_peak_multiplier,
        minimum_balance=terms.minimum_balance,
    )


_ACCOUNT = """
    select
        (
            select coalesce(sum(uplink_bytes), 0) from usage.traffic_minute
            where account_id = %(account)s and bucket_start >= %(start)s and bucket_start < %(end)s
                and env = any(%(envs)s)
        ),
        (
            select coalesce(sum(downlink_bytes), 0) from usage.traffic_minute
            where account_id = %(account)s and bucket_start >= %(start)s and bucket_start < %(end)s
                and env = any(%(envs)s)
        ),
        (select exact_balance from billing.account_balance_state where account_id = %(account)s),
        (
            select coalesce(-sum(amount_minor), 0)::bigint from billing.ledger_posting
            where account_id = %(account)s and ledger_account = 'prepaid:' || %(account)s
        ),
        coalesce(
            (select rated_bytes + included_bytes from billing.prepaid_period where charge_id = %(charge)s), 0
        ),
        (select arrears_since from billing.payment_arrears_state where account_id = %(account)s),
        (select last_paid_at from billing.payment_arrears_state where account_id = %(account)s),
        (select balance_arrears_since from billing.account_balance_state where account_id = %(account)s),
        (select max(bucket_start) from usage.traffic_minute where account_id = %(account)s),
        -- of the source that is furthest behind; null while one of them was never read to the end
        (
            select case when count(*) = count(completed_until) then min(completed_until) end
            from core.traffic_sync_state
        )
"""

_LEDGER = """
    with
    of_account as (
        select newest.*
        from billing.prepaid_period as period
        cross join lateral (
            select * from billing.prepaid_entry as entry
            where entry.charge_id = period.charge_id
            order by bucket_start desc, env desc, node desc, account_uuid desc, region desc, line desc, revision desc
            limit %(rows)s
        ) as newest
        where period.account_id = %(account)s
        union all
        select * from billing.prepaid_entry where account_id = %(account)s and charge_id is null
    )
    select
        entry_id, entry_type, bucket_start, bucket_end, node, rated_bytes, included_bytes, multiplier, amount_delta,
        %(balance)s - coalesce(
            sum(amount_delta) over (
                order by
                    bucket_start desc, env desc, node desc, account_uuid desc, region desc, line desc, revision desc
                rows between unbounded preceding and 1 preceding
            ), 0
        ) as balance_after,
        pricing_rule_version
    from of_account
    order by bucket_start desc, env desc, node desc, account_uuid desc, region desc, line desc, revision desc
    limit %(rows)s
"""
