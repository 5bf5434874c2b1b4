"""Keep what accounts have: the balance they begin with, and what is left of balance and quota. In the booking's transaction.

An account begins once, with what its first prepaid subscription says, as an entry and a ledger transaction of its own.
What is left follows from its opening and its periods, whichever order they were booked in. Not here: what traffic takes
(prepaid_store), payments and suspension (payment_store).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import psycopg

from billing_pipeline.amounts import to_money
from billing_pipeline.billing_schedule import stretches
from billing_pipeline.catalog import Catalog
from billing_pipeline.periods import RequestedDays
from billing_pipeline.prepaid import Bucket, adjustment_id, balance_terms, opening_bucket, opening_postings
from resources.prepaid_usage import RatedBalances


@dataclass(frozen=True, slots=True, kw_only=True)
class BookingRun:
    """Which run books, for which days, with which catalog."""

    days: RequestedDays
    catalog: Catalog
    run_id: str
    code_version: str


@dataclass(frozen=True, slots=True)
class _Opening:
    """The balance that an account begins with, by its first prepaid subscription."""

    account_id: str
    currency: str
    bucket: Bucket
    amount: Decimal
    pricing_rule_version: str
    event_day: date


def append_openings(connection: psycopg.Connection, balances: RatedBalances, run: BookingRun) -> int:
    """Append and post what accounts begin with, where the books lack it: once per account, not per subscription."""
    openings = _openings(balances, run)
    booked: Mapping[str, tuple[Decimal, int]] = {
        account_id: (amount, revision)
        for account_id, amount, revision in connection.execute(
            """
            select account_id, sum(amount_delta), max(revision)
            from billing.prepaid_entry
            where charge_id is null and account_id = any(%s)
            group by account_id
            """,
            [list(openings)],
        )
    }
    appended = 0
    for account_id, opening in openings.items():
        amount, revision = booked.get(account_id, (Decimal(0), 0))
        if opening.amount != amount:
            _append_opening(connection, opening, opening.amount - amount, revision + 1, run)
            appended += 1
    return appended


def _openings(balances: RatedBalances, run: BookingRun) -> Mapping[str, _Opening]:
    found: dict[str, _Opening] = {}
    for period in balances.periods.values():
        account_id = period.slot.subscription.account_id
        day = run.days.newest_in(period.slot.period.window)
        if account_id in found:
            continue
        first = min(
            (
                (phases[0].starts_at, subscription.subscription_id, subscription, price)
                for subscription in run.catalog.subscriptions_by_account[account_id]
                for price, phases in stretches(run.catalog, subscription)
                if price.is_prepaid
            ),
            key=lambda one: one[:2],
        )
        starts_at, _, subscription, price = first
        version = price.version_at(starts_at) or period.version
        amount = subscription.initial_balance
        found[account_id] = _Opening(
            account_id=account_id,
            currency=price.currency,
            bucket=opening_bucket(account_id, starts_at),
            amount=balance_terms(version).initial_balance if amount is None else amount,
            pricing_rule_version=f"{price.price_id}:{version.version}",
            event_day=day,
        )
    return found


def _append_opening(
    connection: psycopg.Connection, opening: _Opening, amount: Decimal, revision: int, run: BookingRun
) -> None:
    bucket_id = opening.bucket.entry_id
    entry_id = adjustment_id(bucket_id, revision)
    connection.execute(
        """
        insert into billing.prepaid_entry (
            entry_id, bucket_id, revision, entry_type, bucket_start, bucket_end, env, node, account_uuid, region, line,
            account_id, charge_id, rated_bytes, included_bytes, multiplier, amount_delta, pricing_rule_version,
            catalog_sha256, code_version, event_day, run_id
        )
        values (%s, %s, %s, %s, %s, %s, '', '', %s, '', '', %s, null, 0, 0, 1, %s, %s, %s, %s, %s, %s)
        """,
        [
            entry_id,
            bucket_id,
            revision,
            "initial_balance" if revision == 1 else "adjustment",
            opening.bucket.bucket_start,
            opening.bucket.bucket_start,
            opening.bucket.account_uuid,
            opening.account_id,
            amount,
            opening.pricing_rule_version,
            run.catalog.sha256,
            run.code_version,
            opening.event_day,
            run.run_id,
        ],
    )
    # What begins is whole minor units (the catalog refuses others), so rounding changes nothing here.
    money = to_money(amount, opening.currency)
    rows = [
        (
            posting.transaction_id,
            posting.posting_number,
            posting.ledger_account,
            posting.account_id,
            posting.amount.minor_units,
            posting.amount.currency,
            entry_id,
            opening.event_day,
        )
        for posting in opening_postings(entry_id=entry_id, account_id=opening.account_id, amount=money)
    ]
    connection.execute(
        """
        insert into billing.ledger_posting
            (transaction_id, posting_number, ledger_account, account_id, amount_minor, currency, prepaid_entry_id,
             event_day)
        select * from unnest(%s::uuid[], %s::smallint[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::uuid[],
            %s::date[])
        """,
        [list(column) for column in zip(*rows, strict=True)],
    )


_STATE_COLUMNS = (
    "account_id",
    "currency",
    "charge_id",
    "period_start",
    "period_end",
    "pricing_rule_version",
    "remaining_included_quota",
    "initial_balance",
    "exact_balance",
    "balance_arrears",
    "balance_arrears_since",
    "throttle_state",
    "last_rated_bucket_at",
)
_BALANCES = f"""
    insert into billing.account_balance_state as state ({", ".join(_STATE_COLUMNS)})
    with
    opened as (
        select account_id, coalesce(sum(amount_delta), 0) as initial_balance
        from unnest(%(accounts)s::text[]) as wanted (account_id)
        left join (select account_id, amount_delta from billing.prepaid_entry where charge_id is null) as opening
            using (account_id)
        group by account_id
    ),
    spent as (
        select
            period.*,
            initial_balance,
            initial_balance - sum(exact_amount) over to_date as balance_after,
            initial_balance - sum(exact_amount) over (partition by account_id) as exact_balance,
            max(last_rated_bucket_at) over (partition by account_id) as last_bucket_at,
            row_number() over (partition by account_id order by period_start desc, charge_id desc) as age
        from billing.prepaid_period as period
        join opened using (account_id)
        window to_date as (partition by account_id order by period_start, charge_id)
    ),
    -- the period in which the balance went below 0: nothing but the opening ever raises it
    crossed as (
        select distinct on (account_id) account_id, charge_id, balance_after + exact_amount as balance_before
        from spent
        where balance_after < 0
        order by account_id, period_start, charge_id
    ),
    standing as (
        select crossed.account_id, balance_before, bucket_end, bucket_start, env, node, account_uuid, region, line,
            sum(amount_delta) as amount
        from crossed
        join billing.prepaid_entry as entry using (charge_id)
        group by 1, 2, 3, 4, 5, 6, 7, 8, 9
    ),
    running as (
        select account_id, bucket_end,
            balance_before + sum(amount) over (
                partition by account_id
                order by
                    bucket_start, env collate "C", node collate "C", account_uuid collate "C", region collate "C",
                    line collate "C"
                rows unbounded preceding
            ) as balance
        from standing
    ),
    arrears as (
        select account_id, min(bucket_end) as since
        from running
        where balance < 0
        group by account_id
    )
    select
        account_id, currency, charge_id, period_start, period_end, pricing_rule_version, remaining_included_quota,
        initial_balance, exact_balance, exact_balance < 0, arrears.since,
        case when exact_balance < minimum_balance then 'throttled' else 'normal' end,
        last_bucket_at
    from spent
    left join arrears using (account_id)
    where age = 1
    on conflict (account_id) do update set
        ({", ".join(_STATE_COLUMNS)}, effective_at) = ({", ".join(f"excluded.{name}" for name in _STATE_COLUMNS)}, now())
    where ({", ".join(f"state.{name}" for name in _STATE_COLUMNS)})
        is distinct from ({", ".join(f"excluded.{name}" for name in _STATE_COLUMNS)})
"""


def write_balances(connection: psycopg.Connection, balances: RatedBalances) -> None:
    """Write what is left to the accounts of this run, from all their periods; quota is the newest one's.

    An account without any period has no balance any more: its entries came to 0, and what it began with is not spent.
    """
    accounts = sorted(
        {period.slot.subscription.account_id for period in balances.periods.values()}
        | {account_id for account_id, _ in balances.gone.values()}
    )
    connection.execute(_BALANCES.encode(), {"accounts": accounts})
    connection.execute(
        """
        delete from billing.account_balance_state as state
        where account_id = any(%s)
            and not exists (select from billing.prepaid_period as period where period.account_id = state.account_id)
        """,
        [accounts],
    )
