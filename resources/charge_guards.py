"""Judge charges and ledger against usage, inside the transaction that booked them: facts of PostgreSQL -> verdicts.

One query for all days per guard. Not here: what a verdict says (checks), writing it (guard_store).
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import date
from decimal import Decimal

import psycopg

from billing_pipeline.amounts import exact_text
from billing_pipeline.checks import (
    Subject,
    Verdict,
    VerdictStatus,
    charges_equal_usage,
    equal,
    ledger_balances,
    ledger_equals_charges,
)
from billing_pipeline.periods import RequestedDays, Window
from resources.booking_scope import BookingScope
from resources.rated_totals import RatedTotals

_LISTED = 10

_ByDay = dict[date, dict[str, int]]


def judge(
    connection: psycopg.Connection, rated_to_date: RatedTotals, *, scope: BookingScope, asset: str, digest: str
) -> tuple[Verdict, ...]:
    """Return the verdicts of every requested day, read from what this transaction sees. `digest` is that of what was rated."""
    days = scope.days
    rated = _rated_minor(rated_to_date)
    waiting = _waiting(rated_to_date)
    booked = _booked_minor(connection, scope)
    charged, posted, unbalanced = _ledger(connection, days)
    orphans = _usage_without_subscription(connection, days)
    wrong, uncut = _quantities_apart(rated_to_date), _uncut_rows(rated_to_date)
    verdicts = []
    for day in days.days:
        subject = Subject(asset=asset, partition_key=day.isoformat(), inputs_digest=digest)
        verdicts += [
            charges_equal_usage(subject, rated_minor=rated[day], booked_minor=booked[day]),
            ledger_balances(subject, unbalanced=unbalanced[day]),
            ledger_equals_charges(subject, charged_minor=charged[day], posted_minor=posted[day]),
            _usage_is_rated_once(subject, wrong[day]),
            _usage_ends_with_its_period(subject, uncut[day]),
            _usage_has_a_subscription(subject, orphans[day]),
            _changes_are_decided(subject, waiting[day]),
        ]
    return tuple(verdicts)


def _rated_minor(rated: RatedTotals) -> _ByDay:
    """Return what charges come to by day and currency, without what is put off and so is not to be in the books."""
    found: _ByDay = defaultdict(dict)
    for day in rated.days.days:
        found[day] = dict(rated.rated_minor(day))
    for revision in rated.put_off:
        day = rated.days.newest_in(revision.charge.key.period)
        _add(found[day], revision.delta.currency, -revision.delta.minor_units)
    return _without_zeros(found)


def _waiting(rated: RatedTotals) -> dict[date, dict[str, int]]:
    """Return by day and account how many charges wait for a person."""
    found: dict[date, dict[str, int]] = defaultdict(dict)
    for revision in rated.waiting:
        _add(found[rated.days.newest_in(revision.charge.key.period)], revision.charge.account_id, 1)
    return found


def _booked_minor(connection: psycopg.Connection, scope: BookingScope) -> _ByDay:
    found: _ByDay = defaultdict(dict)
    days = scope.days
    rows = connection.execute(
        """
        select
            period_start, period_end, currency,
            case when price_id = any(%(in_advance)s) then price_id else '' end as price,
            case when subscription_id = any(%(by_subscription)s) then subscription_id else '' end as subscription,
            sum(delta_minor)::bigint
        from billing.charge_revision
        where period_start < %(end)s and period_end > %(start)s
        group by period_start, period_end, currency, price, subscription
        """,
        {
            "start": scope.span.start,
            "end": scope.span.end,
            "in_advance": list(scope.in_advance),
            "by_subscription": list(scope.by_subscription),
        },
    )
    for period_start, period_end, currency, price_id, subscription_id, amount_minor in rows:
        period = Window(period_start, period_end)
        if scope.concerns(subscription_id, price_id, period):
            _add(found[days.newest_in(period)], currency, amount_minor)
    return _without_zeros(found)


def _ledger(connection: psycopg.Connection, days: RequestedDays) -> tuple[_ByDay, _ByDay, dict[date, list[str]]]:
    """Return charged and posted minor units by day and currency, and the transactions that do not sum to zero."""
    charged: _ByDay = defaultdict(dict)
    posted: _ByDay = defaultdict(dict)
    unbalanced: dict[date, list[str]] = defaultdict(list)
    wanted = [list(days.days)]
    for day, currency, amount_minor in connection.execute(
        """
        select event_day, currency, sum(delta_minor)::bigint
        from billing.charge_revision
        where event_day = any(%s)
        group by event_day, currency
        """,
        wanted,
    ):
        charged[day][currency] = amount_minor
    for day, currency, amount_minor in connection.execute(
        """
        select event_day, currency, sum(amount_minor)::bigint
        from billing.ledger_posting
        where event_day = any(%s) and charge_id is not null and not starts_with(ledger_account, 'revenue:')
        group by event_day, currency
        """,
        wanted,
    ):
        posted[day][currency] = amount_minor
    for day, transaction_id in connection.execute(
        """
        select min(event_day), transaction_id::text
        from billing.ledger_posting
        where event_day = any(%s)
        group by transaction_id, currency
        having sum(amount_minor) <> 0
        """,
        wanted,
    ):
        unbalanced[day].append(transaction_id)
    return _without_zeros(charged), _without_zeros(posted), unbalanced


def _usage_without_subscription(connection: psycopg.Connection, days: RequestedDays) -> dict[date, dict[str, int]]:
    """Return usage rows by day and account for which no subscription is in force."""
    found: dict[date, dict[str, int]] = defaultdict(dict)
    rows = connection.execute(
        """
        select event_day, account_id, count(*)
        from usage.metered as metered
        where event_day = any(%s) and not exists (
            select
            from catalog.subscription_phase as phase
            where phase.account_id = metered.account_id and phase.status <> 'paused'
                and phase.starts_at <= metered.period_start
                and (phase.ends_at is null or metered.period_start < phase.ends_at)
        )
        group by event_day, account_id
        """,
        [list(days.days)],
    )
    for day, account_id, count in rows:
        found[day][account_id] = count
    return found


def _quantities_apart(usage: RatedTotals) -> dict[date, list[str]]:
    found: dict[date, list[str]] = defaultdict(list)
    for period, meter_id in usage.in_usage.keys() | usage.in_charges.keys():
        expected = usage.in_usage.get((period, meter_id), Decimal(0))
        actual = usage.in_charges.get((period, meter_id), Decimal(0))
        if expected != actual:
            found[usage.days.newest_in(period)].append(
                f"{meter_id} {period.start.isoformat()}: {exact_text(expected)} used, {exact_text(actual)} rated"
            )
    return found


def _uncut_rows(usage: RatedTotals) -> dict[date, int]:
    found: dict[date, int] = defaultdict(int)
    for period, count in usage.uncut_rows.items():
        found[usage.days.newest_in(period)] += count
    return found


def _usage_is_rated_once(subject: Subject, wrong: list[str]) -> Verdict:
    return equal(
        subject,
        guard="usage_is_rated_once",
        expected="every unit of a period in one charge",
        actual="; ".join(sorted(wrong)[:_LISTED]) or "every unit of a period in one charge",
        passed="Quantities in the charges equal the quantities of usage in their periods.",
        held=f"{len(wrong)} periods have usage that is in no charge, or in two (see actual). For the bill: nothing of this "
        "run is booked. To fix: look for price versions that overlap or leave a gap, and load the catalog.",
    )


def _usage_ends_with_its_period(subject: Subject, uncut_rows: int) -> Verdict:
    return Verdict(
        asset=subject.asset,
        partition_key=subject.partition_key,
        guard="usage_ends_with_its_period",
        status=VerdictStatus.WARNED if uncut_rows else VerdictStatus.PASSED,
        expected="0 usage rows",
        actual=f"{uncut_rows} usage rows",
        message=f"{uncut_rows} usage rows cross the end of a billing period: they were built before the catalog set it. For "
        "the bill: a part of an hour is in the period before, until then. To fix: build the usage days at the ends of these "
        "periods again; the next booking moves it."
        if uncut_rows
        else "No usage row crosses the end of a billing period or of a price version.",
        inputs_digest=subject.inputs_digest,
    )


def _usage_has_a_subscription(subject: Subject, rows_by_account: Mapping[str, int]) -> Verdict:
    largest = sorted(rows_by_account.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{account_id} {count}" for account_id, count in largest[:_LISTED])
    more = f" and {len(largest) - _LISTED} more" if len(largest) > _LISTED else ""
    return Verdict(
        asset=subject.asset,
        partition_key=subject.partition_key,
        guard="usage_has_a_subscription",
        status=VerdictStatus.WARNED if largest else VerdictStatus.PASSED,
        expected="0 accounts",
        actual=f"{len(largest)} accounts",
        message=f"Accounts with usage rows of this day and no subscription then, or a paused one: {shown}{more}. For the bill: "
        "nobody is charged for them. To fix: add a subscription that starts before, or a change that resumes it, load the "
        "catalog, and book the day again."
        if largest
        else "All usage of the day belongs to a subscription.",
        inputs_digest=subject.inputs_digest,
    )


def _changes_are_decided(subject: Subject, charges_by_account: Mapping[str, int]) -> Verdict:
    largest = sorted(charges_by_account.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{account_id} {count}" for account_id, count in largest[:_LISTED])
    return Verdict(
        asset=subject.asset,
        partition_key=subject.partition_key,
        guard="changes_are_decided",
        status=VerdictStatus.WARNED if largest else VerdictStatus.PASSED,
        expected="0 charges",
        actual=f"{sum(charges_by_account.values())} charges",
        message=f"Charges of final invoices that would change by more than the threshold, by account: {shown}. For the bill: they "
        "stay as they are booked. To fix: look at `billing proposals`, and approve or reject each."
        if largest
        else "No change of a final invoice waits for a person.",
        inputs_digest=subject.inputs_digest,
    )


def _add(amounts: dict[str, int], currency: str, amount_minor: int) -> None:
    amounts[currency] = amounts.get(currency, 0) + amount_minor


def _without_zeros(by_day: _ByDay) -> _ByDay:
    found: _ByDay = defaultdict(dict)
    for day, amounts in by_day.items():
        found[day] = {currency: amount for currency, amount in amounts.items() if amount}
    return found
