"""A command as the call that does it, and whether Stripe can be seen to hold what a call was for. No I/O.

`Write` is what is sent; `effect_of` reads it back: a call of a run that died is judged by its own parameters against what
Stripe holds now. Not here: which commands (billing_pipeline/stripe_sync/plan), sending (writer).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

from billing_pipeline.stripe_sync.lines import INTENT_FIELD, KEY_FIELD, HeldItem, WantedLine
from billing_pipeline.stripe_sync.plan import (
    AddLines,
    Command,
    CreateItem,
    DeleteItem,
    RemoveLines,
    UpdateItem,
    UpdateLines,
)
from resources.stripe_api.calls import Json, Operation, StripeCall
from resources.stripe_sync.intent_store import Write


class Effect(StrEnum):
    """What is to be seen of a call: all of it, a part, nothing. `gone`: what it was to change is not there, or final."""

    SEEN = "seen"
    PARTLY = "partly"
    NOT_SEEN = "not_seen"
    GONE = "gone"


class Held(Protocol):
    """What Stripe holds of one customer, read when it is asked for."""

    def items(self) -> tuple[HeldItem, ...]:
        """Return the invoice items of ours and of others."""
        ...

    def lines(self, invoice_id: str) -> tuple[HeldItem, ...]:
        """Return all lines of an invoice, none where it does not exist."""
        ...

    def invoice(self, invoice_id: str) -> Json | None:
        """Return an invoice, None where it does not exist."""
        ...

    def own_invoices(self) -> tuple[Json, ...]:
        """Return the customer's invoices that this pipeline made."""
        ...

    def credit_notes(self, invoice_id: str) -> tuple[Json, ...]:
        """Return the credit notes of an invoice."""
        ...


def write_of(command: Command, *, customer_id: str, subscription_id: str | None) -> Write:
    """Return the call that does `command`. `subscription_id`: whose next invoice takes a new pending item, None: any."""
    match command:
        case CreateItem(line=line):
            params: dict[str, Any] = {"customer": customer_id, "currency": line.currency, **_says(line)}
            if subscription_id is not None:
                params["subscription"] = subscription_id
            return Write(subject=line.key, call=StripeCall(operation=Operation.INVOICE_ITEMS_CREATE, params=params))
        case UpdateItem(item_id=item_id, line=line):
            call = StripeCall(operation=Operation.INVOICE_ITEMS_UPDATE, ids=(item_id,), params=_says(line))
            return Write(subject=line.key, call=call)
        case DeleteItem(item_id=item_id, key=key):
            return Write(subject=key, call=StripeCall(operation=Operation.INVOICE_ITEMS_DELETE, ids=(item_id,)))
        case AddLines(invoice_id=invoice_id, lines=lines):
            return _lines_write(Operation.INVOICES_ADD_LINES, invoice_id, [_says(line) for line in lines])
        case UpdateLines(invoice_id=invoice_id, lines=changes):
            changed = [{"id": line_id, **_says(line)} for line_id, line in changes]
            return _lines_write(Operation.INVOICES_UPDATE_LINES, invoice_id, changed)
        case RemoveLines(invoice_id=invoice_id, lines=removed):
            gone = [{"id": line_id, "behavior": "delete"} for line_id, _ in removed]
            return _lines_write(Operation.INVOICES_REMOVE_LINES, invoice_id, gone)


def effect_of(write: Write, held: Held, *, stripe_id: str | None) -> Effect:
    """Return what is to be seen of a call at Stripe. `stripe_id`: the object that it was answered with, where it was."""
    call = write.call
    match call.operation:
        case Operation.INVOICE_ITEMS_CREATE:
            return _effect_of_create(write, held, stripe_id)
        case Operation.INVOICE_ITEMS_UPDATE:
            (item_id,) = call.ids
            found = next((item for item in held.items() if item.item_id == item_id), None)
            if found is None:
                return Effect.GONE
            return Effect.SEEN if found.says == _said(call.params) else Effect.NOT_SEEN
        case Operation.INVOICE_ITEMS_DELETE:
            return Effect.NOT_SEEN if any(item.item_id == call.ids[0] for item in held.items()) else Effect.SEEN
        case Operation.INVOICES_ADD_LINES | Operation.INVOICES_UPDATE_LINES | Operation.INVOICES_REMOVE_LINES:
            return _effect_on_lines(call, held)
        case Operation.INVOICES_UPDATE:
            invoice = held.invoice(call.ids[0])
            if invoice is None:
                return Effect.GONE
            same = all(invoice.get(name) == value for name, value in call.params.items())
            return Effect.SEEN if same else Effect.GONE
        case Operation.INVOICES_CREATE:
            made = [one["metadata"] for one in held.own_invoices()]
            return Effect.SEEN if call.params["metadata"] in made else Effect.NOT_SEEN
        case Operation.CREDIT_NOTES_CREATE:
            notes = [one["metadata"] for one in held.credit_notes(call.params["invoice"])]
            return Effect.SEEN if call.params["metadata"] in notes else Effect.NOT_SEEN
        case _:
            raise ValueError(f"{call.operation} is not read back here")


def _effect_of_create(write: Write, held: Held, stripe_id: str | None) -> Effect:
    """Judge by the mark of the intent, whatever became of the item since: it was made, by this very write."""
    mark = write.call.params["metadata"][INTENT_FIELD]
    if any(item.intent == mark for item in held.items()):
        return Effect.SEEN
    # Known by its id and not there: somebody deleted it.
    return Effect.NOT_SEEN if stripe_id is None else Effect.GONE


def _effect_on_lines(call: StripeCall, held: Held) -> Effect:
    (invoice_id,) = call.ids
    lines = held.lines(invoice_id)
    by_id = {line.line_id: line for line in lines}
    marks = {(line.key, line.intent) for line in lines}
    match call.operation:
        case Operation.INVOICES_ADD_LINES:
            made = [one["metadata"] for one in call.params["lines"]]
            seen = [(one[KEY_FIELD], one[INTENT_FIELD]) in marks for one in made]
        case Operation.INVOICES_UPDATE_LINES:
            seen = [one["id"] in by_id and by_id[one["id"]].says == _said(one) for one in call.params["lines"]]
        case _:
            seen = [one["id"] not in by_id for one in call.params["lines"]]
    if all(seen):
        return Effect.SEEN
    if any(seen):
        return Effect.PARTLY
    invoice = held.invoice(invoice_id)
    # Of one that is no draft any more it cannot apply. Whether it did shows in the amounts, which are planned anew.
    return Effect.NOT_SEEN if invoice is not None and invoice["status"] == "draft" else Effect.GONE


def _lines_write(operation: Operation, invoice_id: str, lines: list[dict[str, Any]]) -> Write:
    return Write(subject=invoice_id, call=StripeCall(operation=operation, ids=(invoice_id,), params={"lines": lines}))


def _says(line: WantedLine) -> dict[str, Any]:
    return {
        "amount": line.amount,
        "description": line.description,
        "period": {"start": line.period_start, "end": line.period_end},
        "metadata": dict(line.metadata),
    }


def _said(params: Mapping[str, Any]) -> tuple[int, str, int, int]:
    return params["amount"], params["description"], params["period"]["start"], params["period"]["end"]
