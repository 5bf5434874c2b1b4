"""Write to Stripe without doing anything twice: intent, call, answer, read-back, for one customer under its lock.

Each step is committed before the next: `planned` before anything, `sent` before the call, `answered` after it, an end only by
what Stripe is seen to hold. Whatever a run that died left open is settled first: what is to be seen is confirmed; what is not to
be seen is sent again under its own key while Stripe remembers keys (20 of their 24 hours), so that a call which is still on its
way cannot add a second one; after that it is lost, for good. Not here: what to write (plan), whose turn it is (locked_customer).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import psycopg

from billing_pipeline.errors import BillingError
from resources.stripe_api.calls import Operation, StripeCall
from resources.stripe_api.errors import StripeDeniedError, StripeRefusedError, StripeUnavailableError
from resources.stripe_sync import intent_store
from resources.stripe_sync.intent_store import Doer, Intent, IntentState, Write
from resources.stripe_sync.requests import Effect, Held, effect_of

if TYPE_CHECKING:
    from resources.stripe_api.gateway import StripeGateway

# Stripe forgets a key 24 hours after its first use at the earliest.
KEY_LIFE = timedelta(hours=20)
# A list may be a moment behind the write: what is not to be seen is looked for once more.
SECOND_LOOK_SECONDS = 2.0
LOCK_WAIT = "10min"

_CREATES = frozenset({Operation.INVOICE_ITEMS_CREATE, Operation.INVOICES_CREATE, Operation.CREDIT_NOTES_CREATE})
# What may be there twice if it is done twice.
_ADDS = _CREATES | {Operation.INVOICES_ADD_LINES}
_NOT_EDITABLE = "invoice_not_editable"

Reached = Callable[[str], None]


class CustomerBusyError(BillingError):
    """Another run works on this customer, and did not finish in time."""


@contextmanager
def locked_customer(connection: psycopg.Connection, customer_id: str) -> Iterator[None]:
    """Hold the customer for this session, whatever transactions come and go inside the block. Ends with the process.

    Raises:
        CustomerBusyError: somebody else holds it for too long.
    """
    name = f"stripe/customer|{customer_id}"
    try:
        # One question, not two: it is asked for every customer.
        connection.execute(
            "select pg_advisory_lock(hashtextextended(%s, 0)) from set_config('lock_timeout', %s, false)",
            [name, LOCK_WAIT],
        )
    except psycopg.errors.LockNotAvailable:
        raise CustomerBusyError(
            f"customer {customer_id} is worked on by another run for more than {LOCK_WAIT}",
            bill="nothing of it was sent by this run; the other one goes on.",
            fix="nothing, unless it lasts: then look for a run that hangs, and end it.",
        ) from None
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", [name])


def nothing_reached(step: str) -> None:
    """Go on: in tests a process is killed here."""


@dataclass(slots=True, kw_only=True)
class Writer:
    """Writes of one customer. `connection` commits by itself; `clock` is the time by which keys age."""

    gateway: "StripeGateway"
    connection: psycopg.Connection
    doer: Doer
    clock: Callable[[], datetime]
    fresh: Callable[[], Held]
    """Reads what Stripe holds anew."""
    sleep: Callable[[float], None] = time.sleep
    reached: Reached = nothing_reached
    answered: list[Intent] = field(default_factory=list)
    """What was answered and is not confirmed yet."""
    writes: int = 0

    def settle_open(self, held: Held) -> bool:
        """Settle what earlier runs left open, and return whether anything was sent: what was read is old then.

        Raises:
            StripeUnavailableError, StripeDeniedError: nothing more can be done now.
        """
        sent = False
        self.answered.clear()
        for intent in intent_store.open_intents(self.connection, self.doer.customer_id):
            if intent.write.call.operation is Operation.METER_EVENTS_CREATE:
                # Not to be read back one by one: the meter writer's own.
                continue
            if intent.state is IntentState.PLANNED:
                self._end(intent, IntentState.ABANDONED, why="the run ended before it was sent")
                continue
            effect = effect_of(intent.write, held, stripe_id=intent.stripe_id)
            if effect is Effect.SEEN:
                self._end(intent, IntentState.CONFIRMED)
            elif effect in (Effect.GONE, Effect.PARTLY):
                self._end(intent, IntentState.SUPERSEDED, why=f"read back: {effect}")
            elif self._age(intent) >= KEY_LIFE:
                self._end(intent, IntentState.LOST, why="not to be seen after its key's life")
            elif intent.state is IntentState.SENT:
                self._send_again(intent)
                sent = True
            else:
                # Answered and not to be seen: `confirm` looks once more.
                self.answered.append(intent)
        return sent

    def settle_meter_events(self) -> tuple[str, ...]:
        """Settle meter events that earlier runs left open: one that may not have arrived is sent again as it is, under its key and
        its identifier, so that a newer one is newer for Stripe too. After the key's life it is lost, and the newer one says it all.
        Return the identifiers of those that Stripe has by now.

        Raises:
            StripeUnavailableError, StripeDeniedError: nothing more can be done now.
        """
        taken = []
        for intent in intent_store.open_intents(self.connection, self.doer.customer_id):
            if intent.write.call.operation is not Operation.METER_EVENTS_CREATE:
                continue
            if intent.state is IntentState.PLANNED:
                self._end(intent, IntentState.ABANDONED, why="the run ended before it was sent")
            elif intent.state is IntentState.ANSWERED:
                self._end(intent, IntentState.CONFIRMED)
                taken.append(intent.write.subject)
            elif self._age(intent) >= KEY_LIFE:
                self._end(intent, IntentState.LOST, why="a newer total says it")
            else:
                try:
                    self._send(intent)
                except StripeUnavailableError as error:
                    if not error.result_is_stored:
                        raise
                    self._end(intent, IntentState.SUPERSEDED, why="Stripe keeps a failure for its key")
        return (*taken, *self.confirm_meter_events())

    def confirm_meter_events(self) -> tuple[str, ...]:
        """Confirm meter events that were answered, which cannot be read back one by one, and return their identifiers."""
        events = [one for one in self.answered if one.write.call.operation is Operation.METER_EVENTS_CREATE]
        for intent in events:
            self._end(intent, IntentState.CONFIRMED)
        self.answered = [one for one in self.answered if one not in events]
        return tuple(intent.write.subject for intent in events)

    def send(self, writes: Sequence[Write]) -> tuple[str, ...]:
        """Write down all, then send one after the other; return what Stripe refused, in words.

        What Stripe has refused before is not sent again until a person says so; what is still open is left alone.

        Raises:
            StripeUnavailableError, StripeDeniedError: the rest was not sent.
        """
        held_back = {intent.write.subject for intent in self.answered}
        dead = intent_store.dead_digests(self.connection, [write.digest for write in writes])
        problems = [
            f"{write.call.operation} for {write.subject} was refused before and waits for `billing retry`"
            for write in writes
            if write.digest in dead
        ]
        wanted = [write for write in writes if write.digest not in dead and write.subject not in held_back]
        if not wanted:
            return tuple(problems)
        with self.connection.transaction():
            intents = intent_store.plan(self.connection, wanted, self.doer, now=self.clock())
        self.reached("planned")
        for intent in intents:
            try:
                problem = self._send(intent)
            except StripeUnavailableError as error:
                if not error.result_is_stored:
                    raise
                # A failure that Stripe keeps for this key: it stays open, and what is to be seen of it decides.
                continue
            if problem is not None:
                problems.append(problem)
        return tuple(problems)

    def send_setting(self, write: Write) -> None:
        """Send a write that sets a field of an object, and confirm it by the object that it is answered with.

        Raises:
            StripeUnavailableError, StripeDeniedError: see there.
        """
        with self.connection.transaction():
            (intent,) = intent_store.plan(self.connection, [write], self.doer, now=self.clock())
        self.reached("setting_planned")
        before = len(self.answered)
        self._send(intent)
        for done in self.answered[before:]:
            self._end(done, IntentState.CONFIRMED)
        del self.answered[before:]

    def confirm(self, held: Held) -> tuple[Held, tuple[str, ...]]:
        """Confirm what was answered and is to be seen; return what Stripe holds, and in words what is not to be seen of it.

        What is not to be seen is looked for a second time, in what is read a moment later.
        """
        waiting = self._confirm_seen(held, self.answered)
        if waiting:
            self.sleep(SECOND_LOOK_SECONDS)
            held = self.fresh()
            waiting = self._confirm_seen(held, waiting)
        self.answered = [intent for intent in waiting if intent.write.call.operation in _ADDS]
        for intent in waiting:
            if intent.write.call.operation not in _ADDS:
                # It was set, and says something else by now: it is planned anew.
                self._end(intent, IntentState.SUPERSEDED, why="read back: says something else")
        self.reached("confirmed")
        return held, tuple(
            f"{intent.write.call.operation} for {intent.write.subject} was answered and is not to be seen"
            for intent in self.answered
        )

    def _confirm_seen(self, held: Held, intents: Sequence[Intent]) -> list[Intent]:
        """Confirm those of which all is to be seen, and return those of which nothing is."""
        waiting = []
        with self.connection.transaction():
            for intent in intents:
                match effect_of(intent.write, held, stripe_id=intent.stripe_id):
                    case Effect.SEEN:
                        self._note(intent, IntentState.CONFIRMED)
                    case Effect.NOT_SEEN:
                        waiting.append(intent)
                    case effect:
                        self._note(intent, IntentState.SUPERSEDED, detail={"why": f"read back: {effect}"})
        return waiting

    def _send_again(self, intent: Intent) -> None:
        try:
            self._send(intent)
        except StripeUnavailableError as error:
            if not error.result_is_stored:
                raise
            # Stripe repeats a failure of its own for this key. What it did not do by now, it did not do.
            self.sleep(SECOND_LOOK_SECONDS)
            effect = effect_of(intent.write, self.fresh(), stripe_id=None)
            state = IntentState.CONFIRMED if effect is Effect.SEEN else IntentState.SUPERSEDED
            self._end(intent, state, why="Stripe keeps a failure for its key")

    def _send(self, intent: Intent) -> str | None:
        """Send one, and return what Stripe has against it."""
        call = intent.write.call
        # One statement, which commits by itself.
        intent = self._note(intent, IntentState.SENT)
        self.reached("sent")
        self.writes += 1
        try:
            answer = self.gateway.write(call, intent.key)
        except StripeRefusedError as error:
            return self._refused(intent, error)
        except StripeDeniedError as error:
            self._end(intent, IntentState.SUPERSEDED, why=error.what)
            raise
        self.reached("called")
        stripe_id = str(answer.body.get("id") or answer.body.get("identifier") or "") or None
        self.answered.append(
            self._note(
                intent,
                IntentState.ANSWERED,
                stripe_id=stripe_id,
                request_id=answer.request_id,
                detail={"replayed": True} if answer.replayed else None,
            )
        )
        self.reached("answered")
        return None

    def _refused(self, intent: Intent, error: StripeRefusedError) -> str | None:
        if intent.write.call.operation is Operation.METER_EVENTS_CREATE and error.param == "identifier":
            # The identifier is of this very value and time: Stripe has it.
            self.answered.append(intent)
            return None
        if _is_overtaken(intent.write.call, error):
            self._end(intent, IntentState.SUPERSEDED, why=f"{error.code or error.status}: {error.answer}")
            return None
        detail = {"status": error.status, "code": error.code, "param": error.param, "answer": error.answer}
        with self.connection.transaction():
            self._note(intent, IntentState.REFUSED, request_id=error.request_id, detail=detail)
        return error.what

    def _age(self, intent: Intent) -> timedelta:
        return self.clock() - (intent.sent_at or intent.planned_at)

    def _end(self, intent: Intent, state: IntentState, *, why: str | None = None) -> None:
        with self.connection.transaction():
            self._note(intent, state, detail={"why": why} if why else None)

    def _note(
        self,
        intent: Intent,
        state: IntentState,
        *,
        stripe_id: str | None = None,
        request_id: str | None = None,
        detail: dict[str, object] | None = None,
    ) -> Intent:
        return intent_store.note(
            self.connection,
            intent,
            state,
            run_id=self.doer.run_id,
            now=self.clock(),
            stripe_id=stripe_id,
            request_id=request_id,
            detail=detail,
        )


def _is_overtaken(call: StripeCall, error: StripeRefusedError) -> bool:
    """Tell whether what the call was to change is gone or final: no mistake, but something to plan anew."""
    if call.operation in (*_CREATES, Operation.METER_EVENTS_CREATE):
        return False
    return error.is_missing or error.code == _NOT_EDITABLE
