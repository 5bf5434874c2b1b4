"""Intents: every write to Stripe as a row before it is a call, and what became of it, append-only. PostgreSQL.

planned -> sent -> answered -> confirmed; or abandoned (never sent), superseded (could not apply, or in part), lost (not to be
seen after its key's life), refused (a dead letter, until a person lets it be tried again). An intent has one idempotency key for
its life; the same request after it is settled is another intent with another key. So a write whose outcome is not known is
repeated under its key, and a write that is wanted once more is not mistaken for it.

Every function works in the caller's transaction; a step is true when that commits. Not here: when to send (writer).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

import psycopg
from psycopg.types.json import Jsonb

from billing_pipeline.errors import BillingError
from billing_pipeline.stripe_sync.lines import INTENT_FIELD
from resources.database import Database
from resources.stripe_api.calls import IdempotencyKey, Operation, StripeCall

# Made once with uuid4. Never change it: ids of intents are made from it.
_NAMESPACE = UUID("c7d1b0a2-52c7-4f0e-9a57-0d4e3f3f6b8e")


class IntentState(StrEnum):
    """Where an intent stands. `planned` is the intent's own row."""

    PLANNED = "planned"
    SENT = "sent"
    ANSWERED = "answered"
    CONFIRMED = "confirmed"
    ABANDONED = "abandoned"
    SUPERSEDED = "superseded"
    LOST = "lost"
    REFUSED = "refused"
    RETRIED = "retried"


_MAKES_ONE = frozenset({Operation.INVOICE_ITEMS_CREATE, Operation.INVOICES_CREATE, Operation.CREDIT_NOTES_CREATE})
_OPEN = frozenset({IntentState.PLANNED, IntentState.SENT, IntentState.ANSWERED})


class Purpose(StrEnum):
    """What called for a write."""

    DAILY = "daily"
    DEMAND = "demand"
    TRUE_UP = "true_up"
    CORRECTION = "correction"
    METER = "meter"


class NotADeadLetterError(BillingError):
    """There is nothing to let through under this id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A call to be made, and what it is about: an item's key, an invoice, a credit note. `meaning` stands for its parameters where
    two calls of other parameters are the same request."""

    subject: str
    call: StripeCall
    meaning: str = ""

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the request: the same digest, the same request."""
        parts = [str(self.call.operation), list(self.call.ids), self.meaning or self.call.params]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def marked(self, intent_id: UUID) -> "Write":
        """Return the write with the intent's id in the metadata of what it makes, by which its effect is known again."""
        params = dict(self.call.params)
        if self.call.operation in _MAKES_ONE:
            params["metadata"] = {**params["metadata"], INTENT_FIELD: intent_id.hex}
        elif self.call.operation is Operation.INVOICES_ADD_LINES:
            params["lines"] = [
                {**line, "metadata": {**line["metadata"], INTENT_FIELD: intent_id.hex}} for line in params["lines"]
            ]
        return replace(self, call=replace(self.call, params=params))


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A write, as it is sent, with its key and where it stands. `digest` is that of what was asked for, before it was marked.
    `sent_at` is when it was first sent, `stripe_id` what Stripe answered with."""

    intent_id: UUID
    write: Write
    digest: str
    key: IdempotencyKey
    account_id: str
    customer_id: str
    epoch: int
    planned_at: datetime
    state: IntentState = IntentState.PLANNED
    sent_at: datetime | None = None
    stripe_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Doer:
    """Who works: account, customer, run and purpose of the intents that it plans."""

    account_id: str
    customer_id: str
    run_id: str
    purpose: Purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A write that Stripe refused, with its reason, and the way to try it again: `billing retry <id>`."""

    intent_id: UUID
    account_id: str
    customer_id: str
    subject: str
    call: StripeCall
    key: str
    status: int
    code: str
    param: str
    answer: str
    request_id: str
    refused_at: datetime


def plan(connection: psycopg.Connection, writes: Sequence[Write], doer: Doer, *, now: datetime) -> tuple[Intent, ...]:
    """Write down what is going to be sent, in order, and return it with its keys."""
    settled = _settled_counts(connection, [write.digest for write in writes])
    intents = tuple(_intent(write, settled.get(write.digest, 0) + 1, doer, now) for write in writes)
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into stripe.intent (
                intent_id, idempotency_key, account_id, customer_id, subject, operation, target_ids, params,
                request_digest, epoch, purpose, run_id, planned_at
            ) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    intent.intent_id,
                    intent.key.text,
                    doer.account_id,
                    doer.customer_id,
                    intent.write.subject,
                    intent.write.call.operation,
                    list(intent.write.call.ids),
                    Jsonb(intent.write.call.params),
                    intent.digest,
                    intent.epoch,
                    doer.purpose,
                    doer.run_id,
                    now,
                )
                for intent in intents
            ],
        )
        cursor.executemany(
            "insert into stripe.intent_open (intent_id, customer_id, request_digest) values (%s, %s, %s)",
            [(intent.intent_id, doer.customer_id, intent.digest) for intent in intents],
        )
    return intents


def note(
    connection: psycopg.Connection,
    intent: Intent,
    state: IntentState,
    *,
    run_id: str,
    now: datetime,
    stripe_id: str | None = None,
    request_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> Intent:
    """Append a step and return the intent as it stands. An end takes it off the open ones, a refusal makes it a dead letter."""
    connection.execute(
        """
        insert into stripe.intent_state (intent_id, state_number, state, at, run_id, stripe_id, request_id, detail)
        select %(id)s, coalesce(max(state_number), 0) + 1, %(state)s, %(at)s, %(run)s, %(stripe_id)s, %(request_id)s, %(detail)s
        from stripe.intent_state
        where intent_id = %(id)s
        """,
        {
            "id": intent.intent_id,
            "state": state,
            "at": now,
            "run": run_id,
            "stripe_id": stripe_id,
            "request_id": request_id,
            "detail": Jsonb(dict(detail or {})),
        },
    )
    if state not in _OPEN:
        connection.execute("delete from stripe.intent_open where intent_id = %s", [intent.intent_id])
    if state is IntentState.REFUSED:
        connection.execute(
            "insert into stripe.intent_dead (intent_id, account_id, request_digest, refused_at) values (%s, %s, %s, %s)",
            [intent.intent_id, intent.account_id, intent.digest, now],
        )
    sent_at = intent.sent_at or (now if state is IntentState.SENT else None)
    return replace(intent, state=state, sent_at=sent_at, stripe_id=stripe_id or intent.stripe_id)


def open_intents(connection: psycopg.Connection, customer_id: str) -> tuple[Intent, ...]:
    """Return the customer's intents without an end, in the order they were planned: runs before this one left them."""
    return _read_open(connection, "intent_open.customer_id = %s", [customer_id])


def customers_with_open_intents(connection: psycopg.Connection) -> frozenset[str]:
    """Return the customers whose writes have an unknown outcome, or were never sent."""
    return frozenset(row[0] for row in connection.execute("select distinct customer_id from stripe.intent_open"))


def newest_number(connection: psycopg.Connection) -> int:
    """Return the number of the intent that was planned last, 0 for none."""
    row = connection.execute("select coalesce(max(intent_number), 0) from stripe.intent").fetchone()
    return 0 if row is None else int(row[0])


def written_since(connection: psycopg.Connection, customer_id: str, number: int) -> bool:
    """Tell whether anything was planned for the customer after that intent, or is open: what was read then may be old."""
    row = connection.execute(
        """
        select exists (select from stripe.intent where customer_id = %(customer)s and intent_number > %(number)s)
            or exists (select from stripe.intent_open where customer_id = %(customer)s)
        """,
        {"customer": customer_id, "number": number},
    ).fetchone()
    return row is not None and bool(row[0])


def dead_digests(connection: psycopg.Connection, digests: Iterable[str]) -> frozenset[str]:
    """Return those of the requests that Stripe has refused, and that nobody has let through again."""
    rows = connection.execute(
        "select distinct request_digest from stripe.intent_dead where request_digest = any(%s)", [list(digests)]
    )
    return frozenset(row[0] for row in rows)


def dead_letters(connection: psycopg.Connection, *, account_id: str | None = None) -> tuple[DeadLetter, ...]:
    """Return the refused writes that wait for a person, the newest first; of all accounts, or of one."""
    rows = connection.execute(
        """
        select
            intent.intent_id, intent.account_id, intent.customer_id, intent.subject, intent.operation, intent.target_ids,
            intent.params, intent.idempotency_key, refusal.detail, refusal.request_id, intent_dead.refused_at
        from stripe.intent_dead
        join stripe.intent using (intent_id)
        join stripe.intent_state as refusal on refusal.intent_id = intent.intent_id and refusal.state = 'refused'
        where %(account)s::text is null or intent_dead.account_id = %(account)s
        order by intent_dead.refused_at desc, intent.intent_id
        """,
        {"account": account_id},
    ).fetchall()
    return tuple(
        DeadLetter(
            intent_id=row[0],
            account_id=row[1],
            customer_id=row[2],
            subject=row[3],
            call=StripeCall(operation=Operation(row[4]), ids=tuple(row[5]), params=row[6]),
            key=row[7],
            status=int(row[8].get("status", 0)),
            code=row[8].get("code", ""),
            param=row[8].get("param", ""),
            answer=row[8].get("answer", ""),
            request_id=row[9] or "",
            refused_at=row[10],
        )
        for row in rows
    )


def retry(database: Database, intent_id: UUID, *, actor: str, reason: str, now: datetime) -> DeadLetter:
    """Let a dead letter be tried again: the next sync of its account plans it anew, under another key.

    Raises:
        NotADeadLetterError: no refused write has this id, or actor or reason is empty.
    """
    if not actor.strip() or not reason.strip():
        raise _not_dead(str(intent_id), "a retry names who decided it and why")
    with database.transaction(f"stripe/intent|{intent_id}") as connection:
        found = [one for one in dead_letters(connection) if one.intent_id == intent_id]
        if not found:
            raise _not_dead(str(intent_id), "no refused write has this id, or it was let through before")
        connection.execute("delete from stripe.intent_dead where intent_id = %s", [intent_id])
        connection.execute(
            """
            insert into stripe.intent_state (intent_id, state_number, state, at, run_id, actor, reason)
            select %(id)s, max(state_number) + 1, 'retried', %(at)s, '', %(actor)s, %(reason)s
            from stripe.intent_state
            where intent_id = %(id)s
            """,
            {"id": intent_id, "at": now, "actor": actor, "reason": reason},
        )
    return found[0]


def find_dead_letter(connection: psycopg.Connection, digits: str) -> UUID:
    """Return the id of the dead letter that begins with `digits`.

    Raises:
        NotADeadLetterError: none does, or more than one.
    """
    found = [one.intent_id for one in dead_letters(connection) if str(one.intent_id).startswith(digits.lower())]
    if len(found) != 1:
        raise _not_dead(digits, f"{len(found)} dead letters begin with it")
    return found[0]


def _intent(write: Write, epoch: int, doer: Doer, now: datetime) -> Intent:
    digest = write.digest
    key = IdempotencyKey(text=f"bp:{write.subject[:64]}:{write.call.operation}:{digest[:24]}:{epoch}")
    intent_id = uuid5(_NAMESPACE, key.text)
    return Intent(
        intent_id=intent_id,
        write=write.marked(intent_id),
        digest=digest,
        key=key,
        account_id=doer.account_id,
        customer_id=doer.customer_id,
        epoch=epoch,
        planned_at=now,
    )


def _settled_counts(connection: psycopg.Connection, digests: Sequence[str]) -> dict[str, int]:
    """Return how often each request was planned before. Those still open are never planned again before they are settled."""
    rows = connection.execute(
        "select request_digest, count(*) from stripe.intent where request_digest = any(%s) group by request_digest",
        [list(digests)],
    ).fetchall()
    return {digest: int(count) for digest, count in rows}


def _read_open(connection: psycopg.Connection, where: str, values: Sequence[object]) -> tuple[Intent, ...]:
    rows = connection.execute(
        f"""
        select
            intent.intent_id, intent.subject, intent.operation, intent.target_ids, intent.params, intent.idempotency_key,
            intent.account_id, intent.customer_id, intent.epoch, intent.planned_at,
            newest.state, first_sent.at, newest.stripe_id, intent.request_digest
        from stripe.intent_open
        join stripe.intent using (intent_id)
        left join lateral (
            select state, stripe_id
            from stripe.intent_state
            where intent_state.intent_id = intent.intent_id
            order by state_number desc
            limit 1
        ) as newest on true
        left join lateral (
            select min(at) as at
            from stripe.intent_state
            where intent_state.intent_id = intent.intent_id and state = 'sent'
        ) as first_sent on true
        where {where}
        order by intent.intent_number
        """.encode(),
        values,
    ).fetchall()
    return tuple(
        Intent(
            intent_id=row[0],
            write=Write(subject=row[1], call=StripeCall(operation=Operation(row[2]), ids=tuple(row[3]), params=row[4])),
            digest=row[13],
            key=IdempotencyKey(text=row[5]),
            account_id=row[6],
            customer_id=row[7],
            epoch=row[8],
            planned_at=row[9],
            state=IntentState(row[10] or IntentState.PLANNED),
            sent_at=row[11],
            stripe_id=row[12],
        )
        for row in rows
    )


def _not_dead(intent_id: str, problem: str) -> NotADeadLetterError:
    return NotADeadLetterError(
        f"{intent_id} was not let through: {problem}",
        bill="nothing changed.",
        fix="list the refused writes with `billing dead-letters`, and give the id of one, your name and a reason.",
    )
