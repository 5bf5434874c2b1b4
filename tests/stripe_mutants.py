"""Writers that are broken on purpose: a name, and what is put in the place of a part of the real one. See test_stripe_mutants.

Each is a mistake that others have made, or that is easily made here; `breaks` changes modules through the given patch, which is
undone afterwards. Not here: the scenarios that must find them out.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
import stripe._api_requestor

from billing_pipeline.stripe_sync import lines as held_lines
from billing_pipeline.stripe_sync import meter_events
from billing_pipeline.stripe_sync.lines import ACCOUNT_FIELD, KEY_FIELD, held_line
from billing_pipeline.stripe_sync.plan import CreateItem, Plan, UpdateItem
from resources.stripe_api import calls, gateway, sdk
from resources.stripe_api.answers import trouble_of
from resources.stripe_api.calls import IdempotencyKey
from resources.stripe_api.errors import Trouble
from resources.stripe_sync import account_sync, draft_target, intent_store, meter_writer, requests, true_up, writer
from resources.stripe_sync.charged import Standing
from resources.stripe_sync.held import HeldAtStripe
from resources.stripe_sync.intent_store import Intent, IntentState
from resources.stripe_sync.requests import Effect
from resources.stripe_sync.writer import Writer

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A broken writer."""

    name: str
    breaks: Callable[[Patch], None]


def sends_no_key(patch: Patch) -> None:
    original = stripe._api_requestor._APIRequestor.request_headers

    def without_key(*args: Any, **kwargs: Any) -> dict[str, str]:
        found = dict(original(*args, **kwargs))
        found.pop("Idempotency-Key", None)
        return found

    patch.setattr(stripe._api_requestor._APIRequestor, "request_headers", without_key)


def draws_a_key_for_each_attempt(patch: Patch) -> None:
    send = sdk.send
    patch.setattr(sdk, "send", lambda client, call, key: send(client, call, key and f"{key}:{uuid.uuid4().hex}"))


def draws_a_key_for_each_run(patch: Patch) -> None:
    send = Writer._send

    def with_another_key(self: Writer, intent: Intent) -> str | None:
        return send(self, replace(intent, key=IdempotencyKey(text=f"{intent.key.text}:{self.doer.run_id}")))

    patch.setattr(Writer, "_send", with_another_key)


def gives_one_key_to_all_requests_for_an_item(patch: Patch) -> None:
    send = sdk.send
    patch.setattr(sdk, "send", lambda client, call, key: send(client, call, key and ":".join(key.split(":")[:2])))


def writes_the_intent_after_the_call(patch: Patch) -> None:
    def send(self: Writer, writes: Any) -> tuple[str, ...]:
        for write in writes:
            intent = intent_store._intent(write, 1, self.doer, self.clock())
            answer = self.gateway.write(intent.write.call, intent.key)
            self.reached("called")
            with self.connection.transaction():
                (intent,) = intent_store.plan(self.connection, [write], self.doer, now=self.clock())
                self._note(intent, IntentState.SENT)
                self.answered.append(self._note(intent, IntentState.ANSWERED, stripe_id=answer.body["id"]))
        return ()

    patch.setattr(Writer, "send", send)


def trusts_its_keys_instead_of_reading_back(patch: Patch) -> None:
    patch.setattr(writer, "effect_of", lambda *_, **__: Effect.NOT_SEEN)
    patch.setattr(writer, "KEY_LIFE", timedelta(days=3650))


def believes_what_it_was_answered(patch: Patch) -> None:
    looked: set[str] = set()

    def once(original: Callable[..., Any], nothing: Callable[[Any], Any]) -> Callable[..., Any]:
        def look(self: Any, *args: Any) -> Any:
            if self.run_id in looked:
                return nothing(args)
            looked.add(self.run_id)
            return original(self, *args)

        return look

    def confirm(self: Writer, held: Any) -> Any:
        for intent in self.answered:
            self._end(intent, IntentState.CONFIRMED)
        self.answered = []
        return held, ()

    in_step = Plan(commands=(), unchanged=0, foreign=0)
    patch.setattr(Writer, "confirm", confirm)
    patch.setattr(
        account_sync.AccountSync, "_plan", once(account_sync.AccountSync._plan, lambda _: account_sync._Planned())
    )
    patch.setattr(true_up.TrueUp, "_planned", once(true_up.TrueUp._planned, lambda args: (args[1], in_step)))


def reads_embedded_lines_alone(patch: Patch) -> None:
    def lines(self: HeldAtStripe, invoice_id: str) -> Any:
        invoice = self.invoice(invoice_id) or {"lines": {"data": []}}
        return tuple(held_line(one, invoice_id) for one in invoice["lines"]["data"])

    patch.setattr(HeldAtStripe, "lines", lines)


def reads_the_first_page_alone(patch: Patch) -> None:
    patch.setattr(
        gateway.StripeGateway,
        "list_lines",
        lambda self, invoice_id: iter(
            self.read(
                calls.StripeCall(operation=calls.Operation.INVOICES_LINES, ids=(invoice_id,), params={"limit": 100})
            )["data"]
        ),
    )


def takes_lines_of_others_for_its_own(patch: Patch) -> None:
    def claimed(held: Mapping[str, Any]) -> Mapping[str, str]:
        metadata: Mapping[str, str] = held.get("metadata") or {}
        if (held.get("parent") or {}).get("subscription_item_details"):
            return metadata
        return {KEY_FIELD: held["id"], ACCOUNT_FIELD: "", **metadata}

    patch.setattr(held_lines, "_metadata", claimed)


def tries_refused_requests_again(patch: Patch) -> None:
    patch.setattr(gateway, "trouble_of", lambda error: trouble_of(error) or Trouble.SERVER)


def sends_dead_letters_in_every_run(patch: Patch) -> None:
    patch.setattr(intent_store, "dead_digests", lambda *_: frozenset())


def sends_amounts_as_floats(patch: Patch) -> None:
    sendable = calls.sendable
    patch.setattr(calls, "sendable", lambda value: value if isinstance(value, float) else sendable(value))
    says = requests._says
    patch.setattr(requests, "_says", lambda line: {**says(line), "amount": line.amount * 1.0})


def sends_amounts_with_exponents(patch: Patch) -> None:
    says = requests._says
    patch.setattr(requests, "_says", lambda line: {**says(line), "amount": f"{line.amount / 100:E}"})


def charges_what_an_invoice_has_taken_again(patch: Patch) -> None:
    standing_of = account_sync.standing_of

    def forgetful(*args: Any, **kwargs: Any) -> Standing:
        return replace(standing_of(*args, **kwargs), settled=(), charged=())

    patch.setattr(account_sync, "standing_of", forgetful)


def adds_an_item_for_what_is_new(patch: Patch) -> None:
    plan_pending = account_sync.plan_pending

    def increments(wanted: Any, held: Any, *, settled: Any) -> Plan:
        plan = plan_pending(wanted, held, settled=settled)
        amounts = {one.item_id: one.amount for one in held}
        commands = tuple(
            CreateItem(line=replace(one.line, amount=one.line.amount - amounts[one.item_id]))
            if isinstance(one, UpdateItem)
            else one
            for one in plan.commands
        )
        return replace(plan, commands=commands)

    patch.setattr(account_sync, "plan_pending", increments)


def lets_periods_go_that_are_not_whole(patch: Patch) -> None:
    patch.setattr(draft_target.Target, "why_kept", None)


def does_not_hold_drafts(patch: Patch) -> None:
    patch.setattr(true_up.holding, "hold", lambda _, invoice, until: true_up.holding.finalizes_at(invoice))


def dates_events_by_the_clock(patch: Patch) -> None:
    patch.setattr(
        meter_events, "_timestamp", lambda first, end, at, last: at if last is None or last < at else last + 1
    )


def dates_final_totals_at_the_end_of_the_period(patch: Patch) -> None:
    timestamp = meter_events._timestamp
    patch.setattr(
        meter_events, "_timestamp", lambda first, end, at, last: end if at >= end else timestamp(first, end, at, last)
    )


def dates_all_events_alike(patch: Patch) -> None:
    patch.setattr(meter_events, "_timestamp", lambda first, *_: first)


def sends_increments(patch: Patch) -> None:
    next_event = meter_writer.next_event

    def increment(total: Any, last: Any, *, now: Any) -> Any:
        event = next_event(total, last, now=now)
        return event and replace(event, value=event.value - (last.value if last is not None else 0))

    patch.setattr(meter_writer, "next_event", increment)


def mutant(breaks: Callable[[Patch], None]) -> Mutant:
    """Return a mutant that is called what it does."""
    return Mutant(name=breaks.__name__, breaks=breaks)
