"""Rate traffic that a prepaid balance pays for: (catalog, scope) -> what every minute bucket of the periods takes.

One statement goes through the minutes of whole billing periods in order of time: quota first, then price x multipliers, exact.
Its result stays in PostgreSQL, in temporary tables of the caller's transaction: `prepaid_target` (a row for each bucket)
and `prepaid_scope` (the charges concerned). Charges come back as values. Not here: booking the difference (prepaid_store).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg

from billing_pipeline.billing_schedule import scheduled_charges
from billing_pipeline.catalog import Catalog, Meter, Price, PriceVersion, Subscription
from billing_pipeline.charges import Charge, ChargeKey
from billing_pipeline.periods import BillingPeriod, Window
from billing_pipeline.prepaid import balance_terms, hour_multiplier, price_of_byte
from billing_pipeline.rating import BalanceUsage, rate_balance, versions_in
from resources.booking_scope import BookingScope
from resources.charge_usage import UsageToDate

# Every zone's hours begin on one of these of UTC; so do price versions, on whole hours.
_GRID = timedelta(minutes=15)
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class BalanceSlot:
    """The prepaid price of one subscription in one billing period, with its versions there."""

    subscription: Subscription
    price: Price
    meter: Meter
    period: BillingPeriod
    plan_id: str
    versions: tuple[tuple[PriceVersion, Window], ...]

    @property
    def key(self) -> ChargeKey:
        """Return what makes its charge itself."""
        return ChargeKey(
            subscription_id=self.subscription.subscription_id,
            price_id=self.price.price_id,
            period=self.period.window,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancePeriod:
    """A slot with what its buckets come to. `version` is the one at the last bucket, or at the period's begin."""

    slot: BalanceSlot
    charge: Charge
    version: PriceVersion
    byte_count: int
    included_bytes: int
    last_bucket_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedBalances:
    """The prepaid periods that contain requested days, by charge id, and the booked ones that are none any more.

    `in_usage` are the bytes of the periods, added up without regard to prices, by (period, meter id).
    """

    periods: Mapping[UUID, BalancePeriod] = field(default_factory=dict)
    gone: Mapping[UUID, tuple[str, Window]] = field(default_factory=dict)
    in_usage: Mapping[tuple[Window, str], Decimal] = field(default_factory=dict)

    def of_accounts(self, accounts: Collection[str]) -> Mapping[UUID, Charge]:
        """Return the charges of these accounts."""
        if not self.periods:
            return {}
        wanted = frozenset(accounts)
        found = {charge_id: period.charge for charge_id, period in self.periods.items()}
        return {charge_id: charge for charge_id, charge in found.items() if charge.account_id in wanted}

    def added_to(self, usage: UsageToDate) -> UsageToDate:
        """Return `usage` with the prepaid charges and quantities among its own."""
        if not self.periods:
            return usage
        in_usage = defaultdict(Decimal, usage.in_usage)
        in_charges = defaultdict(Decimal, usage.in_charges)
        for key, quantity in self.in_usage.items():
            in_usage[key] += quantity
        for period in self.periods.values():
            slot = period.slot
            in_charges[slot.period.window, slot.meter.meter_id] += period.byte_count
        charges = {charge_id: period.charge for charge_id, period in self.periods.items()}
        return replace(
            usage, charges={**usage.charges, **charges}, in_usage=dict(in_usage), in_charges=dict(in_charges)
        )


def rate_balances(connection: psycopg.Connection, catalog: Catalog, scope: BookingScope) -> RatedBalances:
    """Return every prepaid period that `scope` concerns, rated from all its minutes; leave the buckets in `prepaid_target`.

    Without a prepaid price in the catalog, and none booked, there is nothing to do, and no temporary table.

    Raises:
        NoPriceVersionError: a part of a period has no version.
    """
    slots = {slot.key.charge_id: slot for slot in _slots(catalog, scope)}
    gone = _gone(connection, scope, slots)
    if not slots and not gone:
        return RatedBalances()
    _send_slots(connection, slots, gone)
    _send_tariffs(connection, slots.values())
    connection.execute(_RATED)
    connection.execute(_RATE)
    connection.execute("analyze prepaid_target")
    in_usage: dict[tuple[Window, str], Decimal] = defaultdict(Decimal)
    for charge_id, quantity in connection.execute("select charge_id, byte_count from prepaid_in_usage"):
        slot = slots[charge_id]
        in_usage[slot.period.window, slot.meter.meter_id] += quantity
    periods = dict(_periods(connection, slots))
    return RatedBalances(periods=periods, gone=gone, in_usage=in_usage)


def _slots(catalog: Catalog, scope: BookingScope) -> Iterator[BalanceSlot]:
    for subscription in catalog.subscriptions.values():
        if not any(price.is_prepaid for price in catalog.prices_of(subscription)):
            continue
        for charge in scheduled_charges(catalog, subscription, scope.reach(subscription.subscription_id)):
            price, period = charge.price, charge.period
            if price.is_prepaid and scope.concerns(subscription.subscription_id, price.price_id, period.window):
                meter = catalog.meters[price.meter_id or ""]
                versions = tuple(versions_in(price, period.window))
                yield BalanceSlot(subscription, price, meter, period, charge.plan_id, versions)


def _gone(
    connection: psycopg.Connection, scope: BookingScope, slots: Mapping[UUID, BalanceSlot]
) -> dict[UUID, tuple[str, Window]]:
    """Return account and period of charges that were booked in this scope and are not rated any more."""
    rows = connection.execute(
        """
        select charge_id, account_id, subscription_id, price_id, period_start, period_end
        from billing.prepaid_period
        where period_start < %(end)s and period_end > %(start)s
        """,
        {"start": scope.span.start, "end": scope.span.end},
    )
    return {
        charge_id: (account_id, Window(start, end))
        for charge_id, account_id, subscription_id, price_id, start, end in rows
        if charge_id not in slots and scope.concerns(subscription_id, price_id, Window(start, end))
    }


def _send_slots(
    connection: psycopg.Connection, slots: Mapping[UUID, BalanceSlot], gone: Mapping[UUID, tuple[str, Window]]
) -> None:
    connection.execute(
        """
        create temporary table prepaid_scope (charge_id uuid primary key) on commit drop;
        create temporary table prepaid_slot (
            charge_id uuid, account_id text, price_id text, field text, envs text[], period_start timestamptz,
            period_end timestamptz
        ) on commit drop;
        """
    )
    with connection.cursor() as cursor:
        with cursor.copy("copy prepaid_scope from stdin") as copy:
            for charge_id in (*slots, *gone):
                copy.write_row((charge_id,))
        with cursor.copy("copy prepaid_slot from stdin") as copy:
            for charge_id, slot in slots.items():
                window = slot.period.window
                head = (charge_id, slot.subscription.account_id, slot.price.price_id, slot.meter.field)
                copy.write_row((*head, sorted(slot.meter.envs), window.start, window.end))
    connection.execute("analyze prepaid_scope; analyze prepaid_slot")


def _send_tariffs(connection: psycopg.Connection, slots: Iterable[BalanceSlot]) -> None:
    """Write what each price asks in every quarter of an hour, and its multipliers of regions and lines."""
    connection.execute(
        """
        create temporary table prepaid_tariff (
            price_id text, quarter timestamptz, version integer, quota_bytes numeric, price_of_byte numeric,
            multiplier numeric
        ) on commit drop;
        create temporary table prepaid_place (
            price_id text, version integer, kind text, name text, multiplier numeric
        ) on commit drop;
        """
    )
    spans: dict[str, Window] = {}
    prices: dict[str, Price] = {}
    for slot in slots:
        price_id, window = slot.price.price_id, slot.period.window
        known = spans.get(price_id, window)
        spans[price_id] = Window(min(known.start, window.start), max(known.end, window.end))
        prices[price_id] = slot.price
    with connection.cursor() as cursor:
        with cursor.copy("copy prepaid_tariff from stdin") as copy:
            for price_id, span in spans.items():
                for row in _tariff(prices[price_id], span):
                    copy.write_row((price_id, *row))
        with cursor.copy("copy prepaid_place from stdin") as copy:
            for price_id, price in prices.items():
                for place in _places(price):
                    copy.write_row((price_id, *place))
    connection.execute("analyze prepaid_tariff; analyze prepaid_place")


def _tariff(price: Price, span: Window) -> Iterator[tuple[datetime, int, int, Decimal, Decimal]]:
    quarter = span.start - (span.start - _BEGINNING) % _GRID
    while quarter < span.end:
        version = price.version_at(max(quarter, span.start))
        if version is not None:
            terms = balance_terms(version)
            times = hour_multiplier(terms, quarter)
            yield quarter, version.version, terms.included_quota_bytes, price_of_byte(version), times
        quarter += _GRID


def _places(price: Price) -> Iterator[tuple[int, str, str, Decimal]]:
    for version in price.versions:
        terms = balance_terms(version)
        for kind, found in (("region", terms.region_multipliers), ("line", terms.line_multipliers)):
            yield from ((version.version, kind, name, by) for name, by in found.items() if by > 0)


_RATED = """
    create temporary table prepaid_target (
        charge_id uuid, account_id text, price_id text, version integer, bucket_start timestamptz, env text, node text,
        account_uuid text, region text, line text, rated_bytes numeric, included_bytes bigint, multiplier numeric,
        amount numeric
    ) on commit drop;
    create temporary table prepaid_in_usage (charge_id uuid, byte_count numeric) on commit drop;
"""

# One statement, so that a usage day that is replaced meanwhile is seen by all of it, or by none.
_RATE = """
    with
    minutes as (
        select
            charge_id, prepaid_slot.account_id, price_id, bucket_start, env, node, account_uuid, region, line,
            case field
                when 'uplink_bytes' then uplink_bytes::numeric
                when 'downlink_bytes' then downlink_bytes::numeric
                else uplink_bytes::numeric + downlink_bytes::numeric
            end as byte_count
        from prepaid_slot
        join usage.traffic_minute as minute
            on minute.account_id = prepaid_slot.account_id
            and bucket_start >= period_start
            and bucket_start < period_end
            and env = any(envs)
    ),
    -- The same bytes by another way: without buckets, tariffs and order, for the guard.
    in_usage as (
        insert into prepaid_in_usage select charge_id, sum(byte_count) from minutes group by charge_id
    ),
    buckets as (
        select
            charge_id, account_id, price_id, bucket_start, env, node, account_uuid, region, line,
            sum(byte_count) as byte_count
        from minutes
        group by 1, 2, 3, 4, 5, 6, 7, 8, 9
    ),
    counted as (
        select
            buckets.*,
            sum(byte_count) over (
                partition by charge_id
                order by
                    bucket_start, env collate "C", node collate "C", account_uuid collate "C", region collate "C",
                    line collate "C"
                rows unbounded preceding
            ) as upto
        from buckets
        where byte_count > 0
    ),
    priced as (
        select
            counted.charge_id, counted.account_id, counted.price_id, tariff.version, bucket_start, env, node,
            account_uuid, region, line, byte_count,
            least(quota_bytes, upto) - least(quota_bytes, upto - byte_count) as included_bytes,
            price_of_byte,
            tariff.multiplier * coalesce(regions.multiplier, 1) * coalesce(lines.multiplier, 1) as multiplier
        from counted
        join prepaid_tariff as tariff
            on tariff.price_id = counted.price_id
            and tariff.quarter = date_bin('15 minutes', bucket_start, 'epoch')
        left join prepaid_place as regions
            on regions.price_id = counted.price_id and regions.version = tariff.version
            and regions.kind = 'region' and regions.name = region
        left join prepaid_place as lines
            on lines.price_id = counted.price_id and lines.version = tariff.version
            and lines.kind = 'line' and lines.name = line
    )
    insert into prepaid_target
    select
        charge_id, account_id, price_id, version, bucket_start, env, node, account_uuid, region, line,
        byte_count - included_bytes as rated_bytes,
        included_bytes::bigint as included_bytes,
        multiplier,
        -(byte_count - included_bytes) * price_of_byte * multiplier as amount
    from priced
"""

_CLASSES = """
    select charge_id, version, multiplier, sum(rated_bytes), sum(included_bytes), max(bucket_start)
    from prepaid_target
    group by charge_id, version, multiplier
    order by charge_id, version, multiplier
"""


def _periods(connection: psycopg.Connection, slots: Mapping[UUID, BalanceSlot]) -> Iterator[tuple[UUID, BalancePeriod]]:
    """Yield every slot with its charge: a line for each version and multiplier."""
    used: dict[UUID, list[BalanceUsage]] = defaultdict(list)
    last: dict[UUID, datetime] = {}
    for charge_id, number, multiplier, rated, included, last_at in connection.execute(_CLASSES):
        version = next(one for one, _ in slots[charge_id].versions if one.version == number)
        used[charge_id].append(
            BalanceUsage(version=version, multiplier=multiplier, quantity=rated + included, included=included)
        )
        last[charge_id] = max(last_at, last.get(charge_id, last_at))
    for charge_id, slot in slots.items():
        usage = used.get(charge_id, [])
        last_at = last.get(charge_id)
        charge = Charge(
            key=slot.key,
            account_id=slot.subscription.account_id,
            plan_id=slot.plan_id,
            meter_id=slot.meter.meter_id,
            currency=slot.price.currency,
            rated=rate_balance(price=slot.price, unit=slot.meter.unit, usage=usage),
        )
        in_force = None if last_at is None else slot.price.version_at(last_at)
        yield (
            charge_id,
            BalancePeriod(
                slot=slot,
                charge=charge,
                version=in_force or slot.versions[0][0],
                byte_count=int(sum(part.quantity for part in usage)),
                included_bytes=int(sum(part.included for part in usage)),
                last_bucket_at=last_at,
            ),
        )
