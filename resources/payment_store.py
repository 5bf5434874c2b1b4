"""Keep payments and what they come to: events of invoices -> who is in arrears, who is suspended. The only writer of both.

An event is kept once and for ever; state is computed from all events of the account by when they happened, so that order,
repetition and delay of delivery change nothing. Rating writes none of this, and payments touch neither balance nor quota.
`now` is the caller's. Not here: the rules (prepaid), arrears of the balance (prepaid_accounts), who reports payments.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from billing_pipeline.errors import BillingError
from billing_pipeline.periods import as_utc
from billing_pipeline.prepaid import (
    Payment,
    PaymentArrears,
    PaymentKind,
    SuspendState,
    payment_arrears,
    suspend_state,
)
from resources.database import Database

LOCK = "billing/payments"


class PaymentAccountUnknownError(BillingError):
    """A payment event of an account that the catalog does not hold."""


class PaymentEventConflictError(BillingError):
    """An event came again with another content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentEvent:
    """What happened to an invoice of an account. `billing_reason` says why the invoice was made: subscription_cycle, or
    subscription_update for a proration. `invoice_id`: which one it is (in_...); empty: nobody says, and a payment is for all."""

    event_id: str
    account_id: str
    kind: PaymentKind
    happened_at: datetime
    billing_reason: str = ""
    invoice_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentOutcome:
    """What an event came to. A duplicate has changed nothing."""

    is_duplicate: bool
    payments: PaymentArrears
    suspend_state: SuspendState


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspensionChange:
    """An account that was suspended, or is active again. `cause`: payment_arrears, balance_arrears or restored."""

    account_id: str
    suspend_state: SuspendState
    cause: str


@dataclass(frozen=True, slots=True)
class PaymentStore:
    """The payments of one database."""

    database: Database

    def record_payment_event(self, event: PaymentEvent, *, now: datetime) -> PaymentOutcome:
        """Keep `event`, and bring arrears and suspension of its account up to date; a duplicate changes nothing.

        Raises:
            PaymentAccountUnknownError: the catalog has no such account.
            PaymentEventConflictError: the event is known, with another content.
        """
        with self.database.transaction(LOCK) as connection:
            return record_payment_event(connection, event, now=now)

    def sweep_arrears(self, *, now: datetime) -> tuple[SuspensionChange, ...]:
        """Suspend every account that is 14 days in arrears, make active who is no more, and return the changes by account.

        Again, at the same time: nothing.
        """
        with self.database.transaction(LOCK) as connection:
            return _write_changes(connection, None, now)


def record_payment_event(connection: psycopg.Connection, event: PaymentEvent, *, now: datetime) -> PaymentOutcome:
    """Do what `PaymentStore.record_payment_event` does, inside of the caller's transaction, which holds `LOCK`."""
    is_new = _keep(connection, event, now)
    if is_new:
        _write_arrears(connection, event.account_id, now)
        _write_changes(connection, [event.account_id], now)
    standing = next(_standings(connection, [event.account_id]))
    return PaymentOutcome(
        is_duplicate=not is_new, payments=standing.payments, suspend_state=standing.suspend_state(now)
    )


def known_payment_events(connection: psycopg.Connection, event_ids: Sequence[str]) -> frozenset[str]:
    """Return which of these events are kept already."""
    rows = connection.execute("select event_id from billing.payment_event where event_id = any(%s)", [list(event_ids)])
    return frozenset(event_id for (event_id,) in rows)


def _keep(connection: psycopg.Connection, event: PaymentEvent, now: datetime) -> bool:
    """Write the event and return True, or False where it is known already."""
    if connection.execute("select from catalog.account where account_id = %s", [event.account_id]).fetchone() is None:
        raise PaymentAccountUnknownError(
            f"payment event {event.event_id!r} is about account {event.account_id!r}, which the catalog does not hold",
            bill="the event is not kept; nobody's arrears are changed",
            fix="add the account to accounts.toml and load the catalog, then let the event be sent again",
        )
    content = (
        event.account_id,
        event.kind.value,
        event.billing_reason,
        as_utc(event.happened_at),
        event.invoice_id,
    )
    row = connection.execute(
        "select account_id, kind, billing_reason, happened_at, invoice_id from billing.payment_event where event_id = %s",
        [event.event_id],
    ).fetchone()
    if row is not None and row != content:
        raise PaymentEventConflictError(
            f"payment event {event.event_id!r} came as {content[1]} of {content[0]} at {content[3].isoformat()} and is "
            f"kept as {row[1]} of {row[0]} at {row[3].isoformat()}",
            bill="the event that was kept first stands; nothing is changed",
            fix="find out which sender uses an id twice; a correction needs an id of its own",
        )
    if row is None:
        connection.execute(
            """
            insert into billing.payment_event
                (event_id, account_id, kind, billing_reason, happened_at, invoice_id, received_at)
            values (%s, %s, %s, %s, %s, %s, %s)
            """,
            [event.event_id, *content, as_utc(now)],
        )
    return row is None


def _write_arrears(connection: psycopg.Connection, account_id: str, now: datetime) -> None:
    rows = connection.execute(
        "select happened_at, event_id, kind, invoice_id from billing.payment_event where account_id = %s", [account_id]
    )
    found = payment_arrears(
        Payment(at=at, event_id=event_id, kind=PaymentKind(kind), invoice_id=invoice_id)
        for at, event_id, kind, invoice_id in rows
    )
    connection.execute(
        """
        insert into billing.payment_arrears_state (account_id, payment_arrears, arrears_since, last_paid_at, updated_at)
        values (%s, %s, %s, %s, %s)
        on conflict (account_id) do update set
            payment_arrears = excluded.payment_arrears,
            arrears_since = excluded.arrears_since,
            last_paid_at = excluded.last_paid_at,
            updated_at = excluded.updated_at
        """,
        [account_id, found.arrears_since is not None, found.arrears_since, found.last_paid_at, as_utc(now)],
    )


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is known of an account's arrears by both writers, and how it was found last."""

    account_id: str
    payments: PaymentArrears
    balance_arrears_since: datetime | None
    found_last: SuspendState

    def suspend_state(self, now: datetime) -> SuspendState:
        """Return what the rule says at `now`."""
        return suspend_state(payments=self.payments, balance_arrears_since=self.balance_arrears_since, now=now)

    def cause(self, now: datetime) -> str:
        """Return why the state of `now` is another than the one found last."""
        if self.suspend_state(now) is SuspendState.ACTIVE:
            return "restored"
        alone = suspend_state(payments=self.payments, balance_arrears_since=None, now=now)
        return "payment_arrears" if alone is SuspendState.SUSPENDED else "balance_arrears"


_STANDINGS = """
    with
    suspensions as (
        select distinct on (account_id) account_id, suspend_state
        from billing.suspension_change
        order by account_id, change_id desc
    )
    select
        account_id, payments.arrears_since, payments.last_paid_at, balances.balance_arrears_since,
        coalesce(suspend_state, 'active')
    from (
        select account_id from billing.payment_arrears_state
        union
        select account_id from billing.account_balance_state where balance_arrears
        union
        select account_id from suspensions where suspend_state = 'suspended'
        union
        select unnest(%(accounts)s::text[])
    ) as concerned
    left join billing.payment_arrears_state as payments using (account_id)
    left join billing.account_balance_state as balances using (account_id)
    left join suspensions using (account_id)
    where %(accounts)s::text[] is null or account_id = any(%(accounts)s::text[])
    order by account_id
"""


def _standings(connection: psycopg.Connection, accounts: Sequence[str] | None) -> Iterator[_Standing]:
    """Yield the accounts, or all that are or were in arrears."""
    rows = connection.execute(_STANDINGS, {"accounts": None if accounts is None else list(accounts)})
    for account_id, arrears_since, last_paid_at, balance_since, found_last in rows:
        payments = PaymentArrears(arrears_since=arrears_since, last_paid_at=last_paid_at)
        yield _Standing(account_id, payments, balance_since, SuspendState(found_last))


def _write_changes(
    connection: psycopg.Connection, accounts: Sequence[str] | None, now: datetime
) -> tuple[SuspensionChange, ...]:
    """Append a row for every account whose state is another than the one found last."""
    at = as_utc(now)
    changes = tuple(
        SuspensionChange(
            account_id=standing.account_id, suspend_state=standing.suspend_state(at), cause=standing.cause(at)
        )
        for standing in _standings(connection, accounts)
        if standing.suspend_state(at) is not standing.found_last
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into billing.suspension_change (account_id, suspend_state, cause, changed_at) values (%s, %s, %s, %s)",
            [(change.account_id, change.suspend_state.value, change.cause, at) for change in changes],
        )
    return changes
