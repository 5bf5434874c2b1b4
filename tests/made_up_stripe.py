"""A Stripe in memory that a test changes by hand: objects, the events that changes make, and reads that can fail.

It knows no rules of Stripe's: those are the stand-in's (resources/stripe_sim), and tests over sockets use that.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from resources.stripe_mirror.reads import CursorUnknownError, Document, StripeAwayError

START = datetime(2026, 4, 1, tzinfo=UTC)


def seconds(instant: datetime) -> int:
    return int(instant.timestamp())


@dataclass
class MadeUpStripe:
    """Objects by id, events oldest first. `now` is Stripe's time; `is_away` makes every read fail."""

    now: datetime = START
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    is_away: bool = False
    broken: set[str] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    page_size: int = 100
    _last: int = 0

    def tick(self, **delta: float) -> None:
        self.now += timedelta(**delta)

    # What happens at Stripe.

    def customer(self, name: str, **fields: Any) -> str:
        document = {
            "id": f"cus_{name}",
            "object": "customer",
            "created": seconds(self.now),
            "currency": "usd",
            "balance": 0,
            "delinquent": False,
            "name": "Jane Roe",
            "email": "jane@example.com",
            "metadata": {"bp_account": name, "nickname": "jane@example.com"},
            **fields,
        }
        return self._new("customer.created", document)

    def subscription(self, customer: str, name: str = "", **fields: Any) -> str:
        name = name or f"sub_{customer.removeprefix('cus_')}"
        item = {
            "id": f"si_{name}",
            "object": "subscription_item",
            "price": {"id": "price_1", "recurring": {"usage_type": "licensed"}},
            "quantity": 1,
            "current_period_start": seconds(self.now),
            "current_period_end": seconds(self.now + timedelta(days=30)),
            "metadata": {},
        }
        document = {
            "id": name,
            "object": "subscription",
            "customer": customer,
            "status": "active",
            "currency": "usd",
            "collection_method": "charge_automatically",
            "created": seconds(self.now),
            "start_date": seconds(self.now),
            "billing_cycle_anchor": seconds(self.now),
            "cancel_at_period_end": False,
            "latest_invoice": None,
            "metadata": {"bp_subscription": name.removeprefix("sub_")},
            "items": {"object": "list", "data": [item], "has_more": False},
            **fields,
        }
        return self._new("customer.subscription.created", document)

    def invoice(self, customer: str, name: str = "", **fields: Any) -> str:
        """Make a draft: a renewal of the customer's subscription unless told otherwise."""
        self._last += 1
        name = name or f"in_{self._last:04}"
        subscription = f"sub_{customer.removeprefix('cus_')}"
        parent = {"type": "subscription_details", "subscription_details": {"subscription": subscription}}
        document = {
            "id": name,
            "object": "invoice",
            "customer": customer,
            "customer_email": "jane@example.com",
            "status": "draft",
            "billing_reason": "subscription_cycle",
            "collection_method": "charge_automatically",
            "currency": "usd",
            "parent": parent,
            "subtotal": 5000,
            "total": 5000,
            "amount_due": 5000,
            "amount_paid": 0,
            "amount_remaining": 5000,
            "starting_balance": 0,
            "pre_payment_credit_notes_amount": 0,
            "post_payment_credit_notes_amount": 0,
            "attempt_count": 0,
            "auto_advance": True,
            "automatically_finalizes_at": seconds(self.now + timedelta(hours=1)),
            "period_start": seconds(self.now - timedelta(days=31)),
            "period_end": seconds(self.now),
            "created": seconds(self.now),
            "status_transitions": dict.fromkeys(("finalized_at", "paid_at", "voided_at", "marked_uncollectible_at")),
            "metadata": {},
            "lines": {"object": "list", "data": [self.line(f"il_{name}")], "has_more": False},
            **fields,
        }
        return self._new("invoice.created", document)

    def line(self, name: str, **fields: Any) -> dict[str, Any]:
        return {
            "id": name,
            "object": "line_item",
            "amount": 5000,
            "currency": "usd",
            "period": {"start": seconds(self.now), "end": seconds(self.now + timedelta(days=30))},
            "parent": {
                "type": "subscription_item_details",
                "subscription_item_details": {"subscription_item": "si_1", "proration": False, "subscription": "sub_1"},
            },
            "pricing": {"type": "price_details", "price_details": {"price": "price_1", "product": "prod_1"}},
            "metadata": {},
            **fields,
        }

    def finalize(self, invoice: str) -> None:
        self.change(invoice, "invoice.finalized", status="open", transition="finalized_at")

    def pay(self, invoice: str, **fields: Any) -> None:
        total = self.objects[invoice]["total"]
        paid = {"amount_paid": total, "amount_remaining": 0, "attempt_count": 1, **fields}
        self.change(invoice, "invoice.paid", status="paid", transition="paid_at", **paid)

    def fail_payment(self, invoice: str) -> None:
        attempts = self.objects[invoice]["attempt_count"] + 1
        self.change(invoice, "invoice.payment_failed", attempt_count=attempts)

    def void(self, invoice: str) -> None:
        self.change(invoice, "invoice.voided", status="void", transition="voided_at")

    def delete(self, object_id: str, event_type: str) -> None:
        """Delete a draft or a customer; a customer is still answered for, as deleted."""
        document = self.objects.pop(object_id)
        if event_type == "customer.deleted":
            self.objects[object_id] = {"id": object_id, "object": "customer", "deleted": True}
        self._tell(event_type, document)

    def change(self, object_id: str, event_type: str, *, transition: str = "", **fields: Any) -> None:
        document = self.objects[object_id]
        document.update(fields)
        if transition:
            document["status_transitions"] = {**document["status_transitions"], transition: seconds(self.now)}
        self._tell(event_type, document)

    def tell(self, object_id: str, event_type: str) -> dict[str, Any]:
        """Make an event without a change."""
        return self._tell(event_type, self.objects[object_id])

    def _new(self, event_type: str, document: dict[str, Any]) -> str:
        self.objects[document["id"]] = document
        self._tell(event_type, document)
        return str(document["id"])

    def _tell(self, event_type: str, document: Mapping[str, Any]) -> dict[str, Any]:
        event = {
            "id": f"evt_{len(self.events):05}",
            "object": "event",
            "type": event_type,
            "created": seconds(self.now),
            "livemode": False,
            "data": {"object": deepcopy(dict(document))},
        }
        self.events.append(event)
        return event

    # What Stripe answers.

    def server_time(self) -> datetime:
        self._call("server_time")
        return self.now

    def list_events(
        self, *, types: Sequence[str], created_from: datetime, starting_after: str | None
    ) -> Iterator[Document]:
        assert 0 < len(types) <= 20
        shown = [event for event in reversed(self.events) if event["created"] >= seconds(self.now - timedelta(days=30))]
        if starting_after is not None:
            ids = [event["id"] for event in shown]
            if starting_after not in ids:
                raise CursorUnknownError(f"no event {starting_after}", bill="", fix="")
            shown = shown[ids.index(starting_after) + 1 :]
        wanted = [one for one in shown if one["type"] in types and one["created"] >= seconds(created_from)]
        yield from self._pages("list_events", wanted)

    def list_core_events(self, *, types: Sequence[str], created_from: datetime) -> Iterator[Document]:
        wanted = [
            one
            for one in self.objects.values()
            if one["object"] == "v2.core.event"
            and one["type"] in types
            and datetime.fromisoformat(one["created"]) >= created_from
        ]
        return self._pages("list_core_events", wanted)

    def retrieve_core_event(self, event_id: str) -> Document | None:
        return self._one("retrieve_core_event", event_id)

    def retrieve_invoice(self, invoice_id: str) -> Document | None:
        return self._one("retrieve_invoice", invoice_id)

    def list_invoices(
        self, *, customer: str | None = None, status: str | None = None, created_from: datetime | None = None
    ) -> Iterator[Document]:
        return self._listed(
            "invoice",
            lambda one: (
                customer in (None, one["customer"])
                and status in (None, one["status"])
                and (created_from is None or one["created"] >= seconds(created_from))
            ),
        )

    def list_invoice_lines(self, invoice_id: str) -> Iterator[Document]:
        document = self._one("list_invoice_lines", invoice_id)
        return iter([] if document is None else document.get("all_lines", document["lines"]["data"]))

    def list_invoice_payments(self, invoice_id: str) -> Iterator[Document]:
        document = self._one("list_invoice_payments", invoice_id)
        return iter([] if document is None else document.get("all_payments", []))

    def list_pending_items(self) -> Iterator[Document]:
        return self._listed("invoiceitem", lambda one: one["invoice"] is None)

    def retrieve_customer(self, customer_id: str) -> Document | None:
        return self._one("retrieve_customer", customer_id)

    def list_customers(self) -> Iterator[Document]:
        return self._listed("customer", lambda one: not one.get("deleted"))

    def retrieve_subscription(self, subscription_id: str) -> Document | None:
        return self._one("retrieve_subscription", subscription_id)

    def list_subscriptions(self, *, customer: str | None = None) -> Iterator[Document]:
        return self._listed("subscription", lambda one: customer in (None, one["customer"]))

    def list_subscription_items(self, subscription_id: str) -> Iterator[Document]:
        document = self._one("list_subscription_items", subscription_id)
        return iter([] if document is None else document["items"]["data"])

    def retrieve_credit_note(self, credit_note_id: str) -> Document | None:
        return self._one("retrieve_credit_note", credit_note_id)

    def list_credit_notes(self, *, created_from: datetime | None = None) -> Iterator[Document]:
        return self._listed("credit_note", lambda one: True)

    def _one(self, call: str, object_id: str) -> Document | None:
        self._call(call)
        if object_id in self.broken:
            return {"id": object_id}
        found = self.objects.get(object_id)
        return None if found is None else deepcopy(found)

    def _listed(self, kind: str, fits: Any) -> Iterator[Document]:
        found = [one for one in reversed(list(self.objects.values())) if one["object"] == kind and fits(one)]
        return self._pages(f"list_{kind}s", found)

    def _pages(self, call: str, found: Sequence[Document]) -> Iterator[Document]:
        for at in range(0, max(len(found), 1), self.page_size):
            self._call(call)
            yield from deepcopy(list(found[at : at + self.page_size]))

    def _call(self, call: str) -> None:
        if self.is_away:
            raise StripeAwayError("Stripe is away", bill="", fix="")
        self.calls[call] += 1
