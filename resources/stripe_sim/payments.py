"""Payments of invoices: an attempt succeeds unless the customer is set to decline; intents, charges and their records.

Payment methods are not modelled: whoever is not set to decline pays at once.
"""

from collections.abc import Mapping

from resources.stripe_sim.calls import Call, Modelled, modelled
from resources.stripe_sim.lists import PAGED_BY_TIME, listed
from resources.stripe_sim.refusals import ApiError, not_modelled
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World

RETRY_PAYMENT = "retry_payment"


def attempt(world: World, invoice: Row) -> bool:
    """Try to collect what remains of an open invoice; say whether it was paid."""
    amount = invoice["amount_remaining"]
    declined = invoice["customer"] in world.declining
    intent = world.make(
        "payment_intent",
        amount=amount,
        amount_capturable=0,
        amount_received=0 if declined else amount,
        capture_method="automatic",
        confirmation_method="automatic",
        currency=invoice["currency"],
        customer=invoice["customer"],
        description=f"Payment for Invoice {invoice['number']}",
        metadata={},
        payment_method_types=["card"],
        status="requires_payment_method" if declined else "succeeded",
        last_payment_error=_declined() if declined else None,
    )
    charge = _charge(world, invoice, intent, declined=declined)
    intent["latest_charge"] = charge["id"]
    world.save(intent)
    _record(world, invoice, intent, declined=declined)
    invoice["attempted"] = True
    invoice["attempt_count"] += 1
    if declined:
        _plan_retry(world, invoice)
        world.save(invoice)
        world.emit("invoice.payment_failed", invoice)
        return False
    settle(world, invoice, invoice["amount_paid"] + amount)
    return True


def settle(world: World, invoice: Row, amount_paid: int, *, off_stripe: bool = False) -> None:
    """Mark an invoice as paid."""
    invoice |= {
        "amount_paid": amount_paid,
        "amount_remaining": 0,
        "attempted": True,
        "auto_advance": False,
        "next_payment_attempt": None,
        "status": "paid",
    }
    if off_stripe:
        invoice["amount_paid_off_stripe"] = amount_paid
    invoice["status_transitions"] = {**invoice["status_transitions"], "paid_at": world.now}
    world.save(invoice)
    world.emit("invoice.paid", invoice)
    world.emit("invoice.payment_succeeded", invoice)


def refuse_payment() -> ApiError:
    """Return the answer to a payment that was asked for and declined: 402."""
    return ApiError(402, "Your card was declined.", code="card_declined", error_type="card_error")


def refund(world: World, invoice: Row, amount: int) -> Row:
    """Pay back of what an invoice was paid with."""
    payment = next((one for one in world.table("invoice_payment").find(invoice=invoice["id"], status="paid")), None)
    if payment is None:
        raise not_modelled("a refund of an invoice that was paid outside of Stripe")
    intent = world.get("payment_intent", payment["payment"]["payment_intent"])
    charge = world.get("charge", intent["latest_charge"])
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    world.save(charge)
    made = world.make(
        "refund",
        amount=amount,
        charge=charge["id"],
        currency=invoice["currency"],
        metadata={},
        payment_intent=intent["id"],
        status="succeeded",
    )
    world.emit("refund.created", made)
    return made


def _charge(world: World, invoice: Row, intent: Row, *, declined: bool) -> Row:
    amount = intent["amount"]
    return world.make(
        "charge",
        amount=amount,
        amount_captured=0 if declined else amount,
        amount_refunded=0,
        billing_details={"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
        captured=not declined,
        currency=invoice["currency"],
        customer=invoice["customer"],
        disputed=False,
        failure_code="card_declined" if declined else None,
        metadata={},
        paid=not declined,
        payment_intent=intent["id"],
        refunded=False,
        status="failed" if declined else "succeeded",
    )


def _record(world: World, invoice: Row, intent: Row, *, declined: bool) -> None:
    """Keep the one open payment of an invoice up to date, or add it."""
    found = next(iter(world.table("invoice_payment").find(invoice=invoice["id"], status="open")), None)
    if found is None:
        found = world.make(
            "invoice_payment",
            amount_requested=intent["amount"],
            currency=invoice["currency"],
            invoice=invoice["id"],
            is_default=True,
            status="open",
            status_transitions={"canceled_at": None, "paid_at": None},
            payment={},
        )
    found["payment"] = {"type": "payment_intent", "payment_intent": intent["id"]}
    if not declined:
        found |= {"amount_paid": intent["amount"], "status": "paid"}
        found["status_transitions"] = {"canceled_at": None, "paid_at": world.now}
    world.save(found)
    if not declined:
        world.emit("invoice_payment.paid", found)


def _plan_retry(world: World, invoice: Row) -> None:
    again = world.now + world.rules.payment_retry_seconds
    if not invoice["auto_advance"] or invoice["attempt_count"] >= world.rules.most_payment_attempts:
        invoice["next_payment_attempt"] = None
        return
    invoice["next_payment_attempt"] = again
    world.schedule(again, RETRY_PAYMENT, invoice["id"])


def _declined() -> Row:
    return {"type": "card_error", "code": "card_declined", "message": "Your card was declined."}


def _list(kind: str, by: tuple[str, ...]) -> Modelled:
    def run(world: World, call: Call) -> Row:
        found = {name: call.params[name] for name in by if name in call.params}
        return listed(world, call, kind, by=found)

    return modelled(run, f"{PAGED_BY_TIME} {' '.join(by)}")


def _retrieve(kind: str) -> Modelled:
    def run(world: World, call: Call) -> Row:
        return rendered(world, world.get(kind, call.id))

    return modelled(run)


OPERATIONS: Mapping[str, Modelled] = {
    "GET /v1/invoice_payments": _list("invoice_payment", ("invoice", "status")),
    "GET /v1/invoice_payments/{}": _retrieve("invoice_payment"),
    "GET /v1/payment_intents": _list("payment_intent", ("customer",)),
    "GET /v1/payment_intents/{}": _retrieve("payment_intent"),
    "GET /v1/charges": _list("charge", ("customer", "payment_intent")),
    "GET /v1/charges/{}": _retrieve("charge"),
    "GET /v1/refunds": _list("refund", ("charge", "payment_intent")),
    "GET /v1/refunds/{}": _retrieve("refund"),
}
