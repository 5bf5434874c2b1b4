"""Read what is booked: an account's bill of a period, and one charge with all its revisions, arithmetic and postings.

Read-only, one snapshot. Amounts are `Money`, instants aware UTC. Not here: the usage rows behind a charge (lineage_reader),
showing any of it (console).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from functools import reduce
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import Subscription
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.books import slot_of
from billing_pipeline.meters import MeterSource
from billing_pipeline.periods import BillingAnchor, Window, as_utc
from resources.database import Database
from resources.subscriptions.reader import account_subscriptions, prices_in_advance

_NOTHING_SHOWN = "nothing is shown; what is booked stays as it is"
_MONTH = re.compile(r"(\d{4})-(\d{2})")
_CHARGE_PREFIX = re.compile(r"[0-9a-f]{4,32}")


class UnknownAccountError(BillingError):
    """No account of that id is loaded."""


class BillPeriodError(BillingError):
    """What names a period is neither a month nor an instant."""


class ChargeNotFoundError(BillingError):
    """No charge begins with that text, or several do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedCharge:
    """The newest revision of a charge. `quantity` is in `unit` before included units; `lines` are its arithmetic as
    `RatedLine.as_text` spells it; `group` maps dimensions to values, empty without groups; `event_day` was booked last.
    `source` is what the meter measures, None of a fee without a meter."""

    charge_id: UUID
    revision: int
    account_id: str
    subscription_id: str
    plan_id: str
    price_id: str
    meter_id: str | None
    source: MeterSource | None
    group: Mapping[str, str]
    period: Window
    quantity: Decimal
    unit: str
    exact_amount: Decimal
    amount: Money
    lines: tuple[Mapping[str, str | int | None], ...]
    event_day: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """The charges of an account whose periods were asked for, and their sum (of the rounded charges).

    `asked_for` is the month or instant. Charges come by subscription, period, price and group; those of 0 without
    quantity, which were reversed, are left out. `subscriptions` are the account's in that time.
    """

    account_id: str
    account_name: str
    time_zone: str
    asked_for: str
    charges: tuple[BookedCharge, ...]
    total: Money
    subscriptions: tuple[Subscription, ...] = ()

    @property
    def line_groups(self) -> tuple[tuple[MeterSource | None, tuple[BookedCharge, ...], Money], ...]:
        """Return (what was used, its charges, their sum), requests first and fees (None) last; the sums add up to `total`."""
        found = []
        for source in (*MeterSource, None):
            charges = tuple(charge for charge in self.charges if charge.source is source)
            if charges:
                amounts = (charge.amount for charge in charges)
                found.append((source, charges, reduce(Money.__add__, amounts, Money(0, self.total.currency))))
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One revision of a charge: its total to date, and what it added to the books."""

    revision: int
    quantity: Decimal
    exact_amount: Decimal
    amount: Money
    delta: Money
    lines: tuple[Mapping[str, str | int | None], ...]
    catalog_sha256: str
    code_version: str
    event_day: date
    run_id: str
    booked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedPosting:
    """One posting of the ledger for a revision."""

    transaction_id: UUID
    revision: int
    ledger_account: str
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeExplanation:
    """A charge as it is booked now, how it came there (oldest first), and its postings."""

    charge: BookedCharge
    revisions: tuple[Revision, ...]
    postings: tuple[BookedPosting, ...]


@dataclass(frozen=True, slots=True)
class ChargeReader:
    """The charges and the ledger of one database, for reading."""

    database: Database

    def bill(self, account_id: str, period: str | datetime) -> Bill:
        """Return the account's bill: what falls due in the billing periods that begin in a month of its zone (`2026-03`), or in
        those that contain an instant. A period ends with what is due then: June's bill has June's usage, and July's fee
        where that is due in advance.

        Raises:
            UnknownAccountError: no such account is loaded.
            BillPeriodError: `period` is neither.
        """
        with self.database.reading() as connection:
            name, time_zone, currency = _account(connection, account_id)
            if isinstance(period, datetime):
                at = as_utc(period)
                asked_for, asked = period.isoformat(), Window(at, at + _INSTANT)
            else:
                asked_for, asked = period, _month(period, time_zone)
            subscriptions = account_subscriptions(connection, account_id)
            in_advance = prices_in_advance(connection)
            found = _newest(
                connection,
                "account_id = %(account_id)s and period_start < %(end)s and period_end > %(start)s",
                # A period that contains the instant, or begins in the month, ends within as much again.
                {"account_id": account_id, "start": asked.start, "end": asked.end + _LONGEST_PERIOD},
            )
        is_month = not isinstance(period, datetime)
        charges = tuple(
            charge
            for charge in found
            if _is_in(asked, _due_in(charge, subscriptions, charge.price_id in in_advance), begins=is_month)
        )
        shown = tuple(charge for charge in charges if charge.amount.minor_units or charge.quantity)
        return Bill(
            account_id=account_id,
            account_name=name,
            time_zone=time_zone,
            asked_for=asked_for,
            charges=shown,
            total=reduce(Money.__add__, (charge.amount for charge in shown), Money(0, currency)),
            subscriptions=tuple(subscriptions.values()),
        )

    def explain(self, charge_id: str) -> ChargeExplanation:
        """Return the charge whose id begins with `charge_id` (four digits at least), with everything booked for it.

        Raises:
            ChargeNotFoundError: none does, or several do.
        """
        digits = charge_id.strip().lower().replace("-", "")
        if not _CHARGE_PREFIX.fullmatch(digits):
            raise _not_found(
                f"{charge_id!r} is not the beginning of a charge's id", "give its first 4 to 32 hex digits"
            )
        span = {"low": UUID(digits.ljust(32, "0")), "high": UUID(digits.ljust(32, "f"))}
        with self.database.reading() as connection:
            found = _newest(connection, "charge_id between %(low)s and %(high)s", span)
            if not found:
                raise _not_found(f"no charge's id begins with {charge_id!r}", "take an id from the bill of the account")
            if len(found) > 1:
                some = ", ".join(str(charge.charge_id) for charge in found[:5])
                raise _not_found(f"{len(found)} charges' ids begin with {charge_id!r}: {some}", "give more digits")
            charge = found[0]
            return ChargeExplanation(
                charge=charge,
                revisions=_revisions(connection, charge.charge_id),
                postings=_postings(connection, charge.charge_id),
            )


_INSTANT = timedelta(microseconds=1)
_LONGEST_PERIOD = timedelta(days=32)


def _due_in(charge: BookedCharge, subscriptions: Mapping[str, Subscription], is_in_advance: bool) -> Window:
    """Return the billing period in which a charge falls due: the one whose invoice has it."""
    due_at = charge.period.start if is_in_advance else charge.period.end
    slot = slot_of(charge.subscription_id, due_at=due_at, period=charge.period, subscriptions=subscriptions)
    return slot.period


def _is_in(asked: Window, period: Window, *, begins: bool) -> bool:
    return period.start in asked if begins else asked.start in period


def _month(period: str, time_zone: str) -> Window:
    match = _MONTH.fullmatch(period)
    if match is None or not 1 <= int(match[2]) <= 12 or not 1 <= int(match[1]) < 9999:
        raise BillPeriodError(
            f"{period!r} is not a billing period",
            bill=_NOTHING_SHOWN,
            fix="write the month in which it begins, such as 2026-03, or an instant inside it",
        )
    first = datetime(int(match[1]), int(match[2]), 1, tzinfo=ZoneInfo(time_zone)).astimezone(UTC)
    return BillingAnchor(zone=time_zone).period_containing(first)


def _account(connection: psycopg.Connection, account_id: str) -> tuple[str, str, str]:
    query = "select name, time_zone, currency from catalog.account where account_id = %s"
    row = connection.execute(query, [account_id]).fetchone()
    if row is None:
        ids = [found for (found,) in connection.execute("select account_id from catalog.account")]
        near = get_close_matches(account_id, ids, n=3)
        raise UnknownAccountError(
            f"there is no account {account_id!r}" + (f" (close: {', '.join(near)})" if near else ""),
            bill=_NOTHING_SHOWN,
            fix="take an id of accounts.toml; if it is new there, load the catalog",
        )
    name, time_zone, currency = row
    return name, time_zone, currency


def _newest(connection: psycopg.Connection, condition: str, parameters: Mapping[str, object]) -> list[BookedCharge]:
    query = f"""
        with newest as (
            select distinct on (charge_id) *
            from billing.charge_revision
            where {condition}
            order by charge_id, revision desc
        )
        select
            charge_id, revision, account_id, subscription_id, plan_id, price_id, meter_id, group_key, period_start,
            period_end, quantity, unit, exact_amount, amount_minor, currency, lines, event_day,
            (
                select coalesce(content ->> 'source', 'api_requests')
                from catalog.entry
                where kind = 'meter' and entry_id = newest.meter_id
                order by version desc
                limit 1
            )
        from newest
        order by subscription_id, period_start, price_id, group_key, charge_id
    """
    return [
        BookedCharge(
            charge_id=row[0],
            revision=row[1],
            account_id=row[2],
            subscription_id=row[3],
            plan_id=row[4],
            price_id=row[5],
            meter_id=row[6],
            source=None if row[17] is None else MeterSource(row[17]),
            group=json.loads(row[7]) if row[7] else {},
            period=Window(row[8], row[9]),
            quantity=row[10],
            unit=row[11],
            exact_amount=row[12],
            amount=Money(row[13], row[14]),
            lines=_lines(row[15]),
            event_day=row[16],
        )
        for row in connection.execute(query.encode(), parameters)
    ]


def _lines(lines: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, str | int | None], ...]:
    return tuple(lines)


def _revisions(connection: psycopg.Connection, charge_id: UUID) -> tuple[Revision, ...]:
    rows = connection.execute(
        """
        select
            revision, quantity, exact_amount, amount_minor, delta_minor, currency, lines, catalog_sha256, code_version,
            event_day, run_id, booked_at
        from billing.charge_revision
        where charge_id = %s
        order by revision
        """,
        [charge_id],
    )
    return tuple(
        Revision(
            revision=row[0],
            quantity=row[1],
            exact_amount=row[2],
            amount=Money(row[3], row[5]),
            delta=Money(row[4], row[5]),
            lines=_lines(row[6]),
            catalog_sha256=row[7],
            code_version=row[8],
            event_day=row[9],
            run_id=row[10],
            booked_at=row[11],
        )
        for row in rows
    )


def _postings(connection: psycopg.Connection, charge_id: UUID) -> tuple[BookedPosting, ...]:
    rows = connection.execute(
        """
        select transaction_id, revision, ledger_account, amount_minor, currency
        from billing.ledger_posting
        where charge_id = %(charge)s and account_id = any(array(
            select account_id from billing.charge_revision where charge_id = %(charge)s
        ))
        order by revision, posting_number
        """,
        {"charge": charge_id},
    )
    return tuple(
        BookedPosting(
            transaction_id=transaction_id,
            revision=revision,
            ledger_account=ledger_account,
            amount=Money(amount_minor, currency),
        )
        for transaction_id, revision, ledger_account, amount_minor, currency in rows
    )


def _not_found(what: str, fix: str) -> ChargeNotFoundError:
    return ChargeNotFoundError(what, bill=_NOTHING_SHOWN, fix=fix)
