"""Book what traffic takes from prepaid balances: rated buckets -> entries, periods, balances, in the booking's transaction.

Entries are appended: the difference between what a bucket takes and what is booked of it, nothing where they are equal. Runs
in the transaction that books the charges, on the temporary tables that rating left there. Not here: rating (prepaid_usage),
charges and their postings (charge_store), payments (payment_store). See docs/adr/0004-charges-converge.md.
"""

import psycopg

from billing_pipeline.prepaid import BUCKET, Bucket, adjustment_id, balance_terms
from resources.prepaid_accounts import BookingRun, append_openings, write_balances
from resources.prepaid_usage import BalancePeriod, RatedBalances

_ROWS_PER_FETCH = 20_000


def book_balances(connection: psycopg.Connection, balances: RatedBalances, run: BookingRun) -> int:
    """Append what the buckets of `balances` lack in the books, bring periods and balances up to date, and return the
    number of entries appended. Again: 0."""
    if not balances.periods and not balances.gone:
        return 0
    appended = _append_entries(connection, balances, run)
    _write_periods(connection, balances)
    appended += append_openings(connection, balances, run)
    write_balances(connection, balances)
    return appended


def _append_entries(connection: psycopg.Connection, balances: RatedBalances, run: BookingRun) -> int:
    connection.execute(_DIFFERENCE)
    _send_ids(connection)
    _send_charge_days(connection, balances, run)
    return connection.execute(
        _APPEND,
        {
            "catalog_sha256": run.catalog.sha256,
            "code_version": run.code_version,
            "run_id": run.run_id,
            "bucket": BUCKET,
        },
    ).rowcount


_DIFFERENCE = """
    create temporary table prepaid_difference on commit drop as
    with
    booked as (
        select
            bucket_start, env, node, account_uuid, region, line, charge_id, account_id,
            sum(rated_bytes) as rated_bytes,
            sum(included_bytes)::bigint as included_bytes,
            sum(amount_delta) as amount,
            (array_agg(multiplier order by revision desc))[1] as multiplier,
            (array_agg(pricing_rule_version order by revision desc))[1] as pricing_rule_version
        from billing.prepaid_entry
        join prepaid_scope using (charge_id)
        group by 1, 2, 3, 4, 5, 6, 7, 8
    ),
    apart as (
        select
            bucket_start, env, node, account_uuid, region, line, charge_id,
            coalesce(target.account_id, booked.account_id) as account_id,
            coalesce(target.rated_bytes, 0) - coalesce(booked.rated_bytes, 0) as rated_bytes,
            coalesce(target.included_bytes, 0) - coalesce(booked.included_bytes, 0) as included_bytes,
            coalesce(target.amount, 0) - coalesce(booked.amount, 0) as amount,
            coalesce(target.multiplier, booked.multiplier) as multiplier,
            coalesce(target.price_id || ':' || target.version, booked.pricing_rule_version) as pricing_rule_version,
            -- another multiplier or version of a bucket is kept also where it changes no amount
            target.multiplier <> booked.multiplier
            or target.price_id || ':' || target.version <> booked.pricing_rule_version as is_rated_otherwise
        from prepaid_target as target
        full join booked using (bucket_start, env, node, account_uuid, region, line, charge_id)
    ),
    numbered as (
        select
            apart.*,
            row_number() over (partition by bucket_start, env, node, account_uuid, region, line order by charge_id) as place
        from apart
        where rated_bytes <> 0 or included_bytes <> 0 or amount <> 0 or is_rated_otherwise
    )
    select
        row_number() over () as number,
        numbered.*,
        (place + coalesce(newest.revision, 0))::integer as revision
    from numbered
    left join lateral (
        select max(revision) as revision
        from billing.prepaid_entry as entry
        where (entry.bucket_start, entry.account_uuid, entry.node, entry.env, entry.region, entry.line)
            = (numbered.bucket_start, numbered.account_uuid, numbered.node, numbered.env, numbered.region, numbered.line)
    ) as newest on true
"""

_APPEND = """
    insert into billing.prepaid_entry (
        entry_id, bucket_id, revision, entry_type, bucket_start, bucket_end, env, node, account_uuid, region, line,
        account_id, charge_id, rated_bytes, included_bytes, multiplier, amount_delta, pricing_rule_version,
        catalog_sha256, code_version, event_day, run_id
    )
    select
        entry_id, bucket_id, revision, case when revision = 1 then 'traffic_charge' else 'adjustment' end,
        bucket_start, bucket_start + %(bucket)s, env, node, account_uuid, region, line, account_id, charge_id,
        rated_bytes, included_bytes, multiplier, amount, pricing_rule_version, %(catalog_sha256)s, %(code_version)s,
        event_day, %(run_id)s
    from prepaid_difference
    join prepaid_id using (number)
    join prepaid_charge_day using (charge_id)
"""


def _send_ids(connection: psycopg.Connection) -> None:
    """Write the ids of the entries to append: SHA-1 of the bucket's text, for which PostgreSQL has no function of its own."""
    connection.execute(
        "create temporary table prepaid_id (number bigint, bucket_id uuid, entry_id uuid) on commit drop"
    )
    with connection.cursor(name="prepaid_ids") as reading, connection.cursor() as writing:
        reading.execute(
            "select number, revision, bucket_start, env, node, account_uuid, region, line from prepaid_difference"
        )
        while rows := reading.fetchmany(_ROWS_PER_FETCH):
            with writing.copy("copy prepaid_id from stdin") as copy:
                for number, revision, bucket_start, env, node, account_uuid, region, line in rows:
                    bucket_id = Bucket(
                        bucket_start=bucket_start,
                        env=env,
                        node=node,
                        account_uuid=account_uuid,
                        region=region,
                        line=line,
                    ).entry_id
                    copy.write_row((number, bucket_id, adjustment_id(bucket_id, revision)))
    connection.execute("analyze prepaid_difference; analyze prepaid_id")


def _send_charge_days(connection: psycopg.Connection, balances: RatedBalances, run: BookingRun) -> None:
    """Write the event day that each charge's entries count for: the newest requested one in its period, as its revision."""
    connection.execute("create temporary table prepaid_charge_day (charge_id uuid, event_day date) on commit drop")
    with connection.cursor() as cursor, cursor.copy("copy prepaid_charge_day from stdin") as copy:
        for charge_id, period in balances.periods.items():
            copy.write_row((charge_id, run.days.newest_in(period.slot.period.window)))
        for charge_id, (_, window) in balances.gone.items():
            copy.write_row((charge_id, run.days.newest_in(window)))


_PERIOD_COLUMNS = (
    "charge_id",
    "account_id",
    "subscription_id",
    "price_id",
    "currency",
    "period_start",
    "period_end",
    "rated_bytes",
    "included_bytes",
    "exact_amount",
    "pricing_rule_version",
    "remaining_included_quota",
    "minimum_balance",
    "last_rated_bucket_at",
)
_NEW = ", ".join(f"excluded.{name}" for name in _PERIOD_COLUMNS)
_OLD = ", ".join(f"period.{name}" for name in _PERIOD_COLUMNS)
_PERIODS = f"""
    insert into billing.prepaid_period as period select * from prepaid_period_now
    on conflict (charge_id) do update set ({", ".join(_PERIOD_COLUMNS)}) = ({_NEW})
    where ({_OLD}) is distinct from ({_NEW})
"""


def _write_periods(connection: psycopg.Connection, balances: RatedBalances) -> None:
    """Write the periods as they are rated now, from the entries' sums; those that are none any more go."""
    connection.execute("create temporary table prepaid_period_now (like billing.prepaid_period) on commit drop")
    with connection.cursor() as cursor, cursor.copy("copy prepaid_period_now from stdin") as copy:
        for charge_id, period in balances.periods.items():
            copy.write_row((charge_id, *_period_row(period)))
    connection.execute(_PERIODS.encode())
    connection.execute("delete from billing.prepaid_period where charge_id = any(%s)", [list(balances.gone)])


def _period_row(period: BalancePeriod) -> tuple[object, ...]:
    slot, model = period.slot, balance_terms(period.version)
    return (
        slot.subscription.account_id,
        slot.subscription.subscription_id,
        slot.price.price_id,
        slot.price.currency,
        slot.period.window.start,
        slot.period.window.end,
        period.byte_count - period.included_bytes,
        period.included_bytes,
        period.charge.rated.exact,
        f"{slot.price.price_id}:{period.version.version}",
        max(model.included_quota_bytes - period.byte_count, 0),
        model.minimum_balance,
        period.last_bucket_at,
    )
