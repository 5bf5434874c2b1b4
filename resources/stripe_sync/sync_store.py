"""How accounts and drafts stand with Stripe, our items there as last read, runs, findings. PostgreSQL; the caller's transaction.

What is written here is for people and for the next run; what may be charged is decided by reading Stripe, never by these rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import psycopg

from billing_pipeline.stripe_sync.lines import HeldItem
from resources.database import Database


class SyncState(StrEnum):
    """How an account stands with Stripe."""

    IN_STEP = "in_step"
    BEHIND = "behind"
    FAILED = "failed"
    UNLINKED = "unlinked"


class FindingKind(StrEnum):
    """What a person should see. docs/stripe.md says of each what to do."""

    ACCOUNT_FAILED = "account_failed"
    ACCOUNT_UNLINKED = "account_unlinked"
    NOTHING_COMPILED = "nothing_compiled"
    PERIOD_INCOMPLETE = "period_incomplete"
    NO_PERIOD = "no_period"
    HOLD_EXHAUSTED = "hold_exhausted"
    FINAL_BEFORE_TRUE_UP = "final_before_true_up"
    READ_BACK_DIFFERS = "read_back_differs"
    CREDIT_NOTE_FAILED = "credit_note_failed"
    METER_UNCONFIRMED = "meter_unconfirmed"
    METER_REFUSED = "meter_refused"
    METER_ERROR = "meter_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """An account's row. `wanted_digest` is of what Stripe was last seen to hold."""

    account_id: str
    customer_id: str | None
    state: SyncState
    wanted_digest: str | None
    synced_at: datetime | None
    verified_at: datetime | None
    behind_since: datetime | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCounts:
    """What a run came to."""

    accounts: int = 0
    in_step: int = 0
    failed: int = 0
    left_over: int = 0
    reads: int = 0
    writes: int = 0
    problem: str | None = None


def account_states(connection: psycopg.Connection, accounts: Sequence[str] | None = None) -> Mapping[str, AccountState]:
    """Return the rows of `accounts`, or of all that have one."""
    rows = connection.execute(
        """
        select account_id, customer_id, state, wanted_digest, synced_at, verified_at, behind_since, problem
        from stripe.sync_account
        where %(accounts)s::text[] is null or account_id = any(%(accounts)s)
        """,
        {"accounts": None if accounts is None else list(accounts)},
    ).fetchall()
    return {
        row[0]: AccountState(
            account_id=row[0],
            customer_id=row[1],
            state=SyncState(row[2]),
            wanted_digest=row[3],
            synced_at=row[4],
            verified_at=row[5],
            behind_since=row[6],
            problem=row[7],
        )
        for row in rows
    }


def put_in_step(
    connection: psycopg.Connection,
    account_id: str,
    customer_id: str,
    *,
    wanted_digest: str,
    began_at: datetime,
    verified_at: datetime,
    run_id: str,
) -> None:
    """Write that Stripe was seen, at `verified_at`, to hold what was wanted when the sync began."""
    connection.execute(
        """
        insert into stripe.sync_account (
            account_id, customer_id, state, wanted_digest, synced_at, verified_at, run_id, changed_at
        )
        values (%(account)s, %(customer)s, 'in_step', %(digest)s, %(began)s, %(verified)s, %(run)s, %(verified)s)
        on conflict (account_id) do update set
            customer_id = excluded.customer_id, state = 'in_step', wanted_digest = excluded.wanted_digest,
            synced_at = excluded.synced_at, verified_at = excluded.verified_at, behind_since = null, problem = null,
            run_id = excluded.run_id, changed_at = excluded.changed_at
        """,
        {
            "account": account_id,
            "customer": customer_id,
            "digest": wanted_digest,
            "began": began_at,
            "verified": verified_at,
            "run": run_id,
        },
    )


def put_not_in_step(
    connection: psycopg.Connection,
    account_id: str,
    customer_id: str | None,
    state: SyncState,
    *,
    problem: str,
    run_id: str,
    now: datetime,
) -> None:
    """Write that an account is behind, failed or has no customer, since when, and why."""
    connection.execute(
        """
        insert into stripe.sync_account (account_id, customer_id, state, behind_since, problem, run_id, changed_at)
        values (%(account)s, %(customer)s, %(state)s, %(now)s, %(problem)s, %(run)s, %(now)s)
        on conflict (account_id) do update set
            customer_id = coalesce(excluded.customer_id, sync_account.customer_id), state = excluded.state,
            behind_since = coalesce(sync_account.behind_since, excluded.behind_since), problem = excluded.problem,
            run_id = excluded.run_id, changed_at = excluded.changed_at
        """,
        {
            "account": account_id,
            "customer": customer_id,
            "state": state,
            "problem": problem,
            "run": run_id,
            "now": now,
        },
    )


def replace_items(
    connection: psycopg.Connection, account_id: str, customer_id: str, items: Iterable[HeldItem], *, now: datetime
) -> None:
    """Keep our items of a customer as they were read. Those of periods that are over stay, as long as Stripe shows them."""
    ours = [item for item in items if item.key is not None and item.item_id is not None]
    connection.execute(
        "delete from stripe.sync_item where customer_id = %s and (invoice_id is null or item_id = any(%s))",
        [customer_id, [item.item_id for item in ours]],
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into stripe.sync_item (
                item_id, item_key, account_id, customer_id, invoice_id, amount_stripe_minor, currency, read_at
            ) values (%s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    item.item_id,
                    item.key,
                    item.account_id or account_id,
                    customer_id,
                    item.invoice_id,
                    item.amount,
                    item.currency.upper(),
                    now,
                )
                for item in ours
            ],
        )


def known_item_ids(connection: psycopg.Connection, customer_id: str, *, now: datetime) -> tuple[str, ...]:
    """Return the items that a list which is late may not show: those that were pending when they were last read, those that an
    unfinished write was answered with, and those made since the account was last in step, of a day at most."""
    rows = connection.execute(
        """
        select item_id from stripe.sync_item where customer_id = %(customer)s and invoice_id is null
        union
        select intent_state.stripe_id
        from stripe.intent
        join stripe.intent_state using (intent_id)
        left join stripe.intent_open using (intent_id)
        left join stripe.sync_account on sync_account.account_id = intent.account_id
        where intent.customer_id = %(customer)s and intent.operation = 'invoice_items.create'
            and intent_state.stripe_id is not null
            and (
                intent_open.intent_id is not null
                or intent_state.at >= greatest(sync_account.verified_at, %(now)s - interval '1 day')
            )
        order by 1
        """,
        {"customer": customer_id, "now": now},
    ).fetchall()
    return tuple(row[0] for row in rows)


def customers_with_unconfirmed_totals(connection: psycopg.Connection) -> frozenset[str]:
    """Return the customers of whom a meter was told something that no summary has shown yet."""
    rows = connection.execute(
        "select distinct customer_id from stripe.sync_meter where state in ('sending', 'sent', 'unconfirmed')"
    )
    return frozenset(row[0] for row in rows)


def begin_run(database: Database, run_id: str, purpose: str, *, now: datetime) -> None:
    """Write that a run began; one that dies stays without an end."""
    with database.transaction() as connection:
        connection.execute(
            "insert into stripe.sync_run (run_id, purpose, started_at) values (%s, %s, %s)"
            " on conflict (run_id) do nothing",
            [run_id, purpose, now],
        )


def end_run(database: Database, run_id: str, counts: RunCounts, *, now: datetime) -> None:
    """Write what a run came to."""
    with database.transaction() as connection:
        connection.execute(
            """
            update stripe.sync_run
            set ended_at = %s, accounts = %s, in_step = %s, failed = %s, left_over = %s, reads = %s, writes = %s, problem = %s
            where run_id = %s
            """,
            [
                now,
                counts.accounts,
                counts.in_step,
                counts.failed,
                counts.left_over,
                counts.reads,
                counts.writes,
                counts.problem,
                run_id,
            ],
        )


def open_finding(
    connection: psycopg.Connection,
    kind: FindingKind,
    subject: str,
    message: str,
    *,
    account_id: str | None,
    now: datetime,
) -> None:
    """Show something to people, once while it lasts."""
    connection.execute(
        """
        insert into stripe.sync_finding (kind, subject, account_id, message, opened_at, seen_at)
        values (%(kind)s, %(subject)s, %(account)s, %(message)s, %(now)s, %(now)s)
        on conflict (kind, subject) where closed_at is null do update set
            message = excluded.message, seen_at = excluded.seen_at
        """,
        {"kind": kind, "subject": subject, "account": account_id, "message": message, "now": now},
    )


def close_finding(connection: psycopg.Connection, kind: FindingKind, subject: str, *, now: datetime) -> None:
    """Say that it is gone."""
    close_findings(connection, kind, [subject], now=now)


def close_findings(
    connection: psycopg.Connection, kind: FindingKind, subjects: Sequence[str], *, now: datetime
) -> None:
    """Say that they are gone."""
    connection.execute(
        "update stripe.sync_finding set closed_at = %s where kind = %s and subject = any(%s) and closed_at is null",
        [now, kind, list(subjects)],
    )


def close_findings_of_account(
    connection: psycopg.Connection, kind: FindingKind, account_id: str, *, now: datetime
) -> None:
    """Say that those of an account are gone."""
    connection.execute(
        "update stripe.sync_finding set closed_at = %s where kind = %s and account_id = %s and closed_at is null",
        [now, kind, account_id],
    )


def close_findings_of_subject(
    connection: psycopg.Connection, kinds: Sequence[FindingKind], subject: str, *, now: datetime
) -> None:
    """Say that those of some kinds about one subject are gone."""
    connection.execute(
        "update stripe.sync_finding set closed_at = %s where subject = %s and kind = any(%s) and closed_at is null",
        [now, subject, list(kinds)],
    )


def close_findings_in_step(connection: psycopg.Connection, account_id: str, *, now: datetime) -> None:
    """Say that an account is in step: that it failed is gone, and what its renewals lacked is on its next invoice."""
    connection.execute(
        """
        update stripe.sync_finding set closed_at = %(now)s
        where account_id = %(account)s and closed_at is null
            and ((kind = %(failed)s and subject = account_id) or kind = %(final)s)
        """,
        {
            "now": now,
            "account": account_id,
            "failed": FindingKind.ACCOUNT_FAILED,
            "final": FindingKind.FINAL_BEFORE_TRUE_UP,
        },
    )


def close_findings_but(
    connection: psycopg.Connection, kind: FindingKind, subjects: Sequence[str], *, now: datetime
) -> None:
    """Say that all of a kind are gone but those of `subjects`."""
    connection.execute(
        "update stripe.sync_finding set closed_at = %s where kind = %s and subject <> all(%s) and closed_at is null",
        [now, kind, list(subjects)],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that a person should see."""

    kind: FindingKind
    subject: str
    account_id: str | None
    message: str
    opened_at: datetime


def open_findings(connection: psycopg.Connection, *, account_id: str | None = None) -> tuple[Finding, ...]:
    """Return what is open, the oldest first; of all accounts, or of one."""
    rows = connection.execute(
        """
        select kind, subject, account_id, message, opened_at
        from stripe.sync_finding
        where closed_at is null and (%(account)s::text is null or account_id = %(account)s)
        order by opened_at, finding_id
        """,
        {"account": account_id},
    ).fetchall()
    return tuple(
        Finding(kind=FindingKind(row[0]), subject=row[1], account_id=row[2], message=row[3], opened_at=row[4])
        for row in rows
    )


class TrueUpState(StrEnum):
    """Where a draft stands."""

    WAITING = "waiting"
    RIGHT = "right"
    FINAL = "final"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueUpRow:
    """What was done about a draft."""

    invoice_id: str
    account_id: str
    customer_id: str
    state: TrueUpState
    compiled_id: UUID | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None
    hold_until: datetime | None = None
    wanted_digest: str | None = None
    total_stripe_minor: int | None = None
    problem: str | None = None
    verified_at: datetime | None = None


def put_true_up(connection: psycopg.Connection, row: TrueUpRow, *, run_id: str, now: datetime) -> None:
    """Write how a draft stands; the hold that was set stays known."""
    connection.execute(
        """
        insert into stripe.sync_true_up (
            invoice_id, account_id, customer_id, compiled_id, period_start, period_end, state, hold_until, wanted_digest,
            total_stripe_minor, problem, first_seen_at, verified_at, run_id, changed_at
        )
        values (
            %(invoice)s, %(account)s, %(customer)s, %(compiled)s, %(start)s, %(end)s, %(state)s, %(hold)s, %(digest)s,
            %(total)s, %(problem)s, %(now)s, %(verified)s, %(run)s, %(now)s
        )
        on conflict (invoice_id) do update set
            compiled_id = coalesce(excluded.compiled_id, sync_true_up.compiled_id),
            period_start = coalesce(excluded.period_start, sync_true_up.period_start),
            period_end = coalesce(excluded.period_end, sync_true_up.period_end),
            state = excluded.state,
            hold_until = coalesce(excluded.hold_until, sync_true_up.hold_until),
            wanted_digest = coalesce(excluded.wanted_digest, sync_true_up.wanted_digest),
            total_stripe_minor = coalesce(excluded.total_stripe_minor, sync_true_up.total_stripe_minor),
            problem = excluded.problem,
            verified_at = coalesce(excluded.verified_at, sync_true_up.verified_at),
            run_id = excluded.run_id,
            changed_at = excluded.changed_at
        """,
        {
            "invoice": row.invoice_id,
            "account": row.account_id,
            "customer": row.customer_id,
            "compiled": row.compiled_id,
            "start": row.period_start,
            "end": row.period_end,
            "state": row.state,
            "hold": row.hold_until,
            "digest": row.wanted_digest,
            "total": row.total_stripe_minor,
            "problem": row.problem,
            "verified": row.verified_at,
            "run": run_id,
            "now": now,
        },
    )
