"""Credit notes on final invoices: what remains due is reduced first, the excess is split exactly by who asks.

amount = pre_payment_amount + post_payment_amount; the first is the least of amount and the invoice's amount_remaining, the
second must be the sum of refund_amount, credit_amount (to the customer's balance) and out_of_band_amount.
"""

from collections.abc import Mapping
from typing import Any

from resources.stripe_sim import payments
from resources.stripe_sim.balances import move_balance
from resources.stripe_sim.calls import Call, Modelled, merged_metadata, modelled, only, unset_to_null
from resources.stripe_sim.lines import line_of
from resources.stripe_sim.lists import PAGED, PAGED_BY_TIME, listed, listed_rows
from resources.stripe_sim.money import check_amount
from resources.stripe_sim.refusals import invalid
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World, changed_fields

KIND = "credit_note"

_SPLITS = ("refund_amount", "credit_amount", "out_of_band_amount")
_TAKES = f"invoice amount lines memo metadata reason effective_at email_type {' '.join(_SPLITS)}"
_REFUNDABLE = frozenset({"open", "paid", "uncollectible"})


def create(world: World, call: Call) -> Row:
    """Issue a credit note.

    Raises:
        ApiError: the invoice is a draft or void, more is credited than is left, or the split is not exact.
    """
    fields = _checked(world, call.params)
    invoice = world.get("invoice", fields["invoice"])
    number = 1 + sum(1 for _ in world.table(KIND).find(invoice=invoice["id"]))
    refunded, credited = call.params.get("refund_amount", 0), call.params.get("credit_amount", 0)
    if refunded:
        made = payments.refund(world, invoice, refunded)
        refund = {"amount_refunded": refunded, "payment_record_refund": None, "refund": made["id"], "type": "refund"}
        fields["refunds"] = [refund]
    for line in fields["_lines"]:
        line["id"] = world.new_id("cnli")
    row = world.make(KIND, **fields, number=f"{invoice['number']}-CN-{number:02d}")
    row["pdf"] = f"https://credit-note.invalid/{row['id']}/pdf"
    if credited:
        customer = world.table("customer").get(invoice["customer"])
        assert customer is not None
        moved = move_balance(world, customer, -credited, kind="credit_note", credit_note=row["id"])
        row["customer_balance_transaction"] = moved and moved["id"]
    world.save(row)
    invoice["post_payment_credit_notes_amount"] += row["post_payment_amount"]
    world.emit("credit_note.created", row)
    _reduce(world, invoice, row["pre_payment_amount"])
    return rendered(world, row)


def preview(world: World, call: Call) -> Row:
    """Show what a credit note would be; nothing is issued."""
    row: Row = dict.fromkeys(("customer_balance_transaction", "customer_account", "shipping_cost", "voided_at"))
    row |= _checked(world, call.params)
    row |= {"id": "cn_preview", "object": KIND, "created": world.now, "livemode": False, "number": "", "pdf": ""}
    for place, line in enumerate(row["_lines"]):
        line["id"] = f"cnli_preview_{place}"
    return rendered(world, row)


def retrieve(world: World, call: Call) -> Row:
    """Return a credit note."""
    return rendered(world, world.get(KIND, call.id))


def update(world: World, call: Call) -> Row:
    """Change memo or metadata."""
    row = world.get(KIND, call.id)
    before = dict(row)
    if "memo" in call.params:
        row["memo"] = unset_to_null(call.params["memo"])
    row["metadata"] = merged_metadata(row["metadata"], call.params.get("metadata"))
    world.save(row)
    world.emit("credit_note.updated", row, previous=changed_fields(before, row))
    return rendered(world, row)


def void(world: World, call: Call) -> Row:
    """Void a credit note of an open invoice: what it took off is due again.

    Raises:
        ApiError: it is void, or the invoice is not open any more.
    """
    row = world.get(KIND, call.id)
    invoice = world.get("invoice", row["invoice"])
    if row["status"] != "issued" or invoice["status"] != "open":
        raise invalid("Only an issued credit note of an open invoice can be voided", param="id")
    row |= {"status": "void", "voided_at": world.now}
    world.save(row)
    world.emit("credit_note.voided", row)
    _reduce(world, invoice, -row["pre_payment_amount"])
    return rendered(world, row)


def list_notes(world: World, call: Call) -> Row:
    """List credit notes."""
    by = {name: call.params[name] for name in ("customer", "invoice") if name in call.params}
    return listed(world, call, KIND, by=by)


def list_lines(world: World, call: Call) -> Row:
    """List the lines of a credit note."""
    row = world.get(KIND, call.id)
    return listed_rows(call, row["_lines"], kind="credit note line", url=f"/v1/credit_notes/{row['id']}/lines")


def _checked(world: World, params: Mapping[str, Any]) -> Row:
    """Return the fields of a credit note that can be issued, having changed nothing."""
    invoice = world.get("invoice", params["invoice"], param="invoice")
    if invoice["status"] not in _REFUNDABLE:
        raise invalid(f"You cannot credit an invoice that is {invoice['status']}", param="invoice")
    lines = [_line(world, invoice, values, place) for place, values in enumerate(params.get("lines", ()))]
    if not lines and "amount" not in params:
        raise invalid("One of amount or lines must be provided", code="parameter_missing", param="amount")
    amount: int = sum(line["amount"] for line in lines) if lines else params["amount"]
    if lines and params.get("amount", amount) != amount:
        raise invalid(f"The lines come to {amount}, not to {params['amount']}", param="amount")
    check_amount(world, amount, invoice["currency"])
    left = invoice["total"] - sum(note["amount"] for note in _issued(world, invoice))
    if not 0 < amount <= left:
        raise invalid(f"A credit note of this invoice can be 1 to {left}, not {amount}", param="amount")
    pre = min(amount, invoice["amount_remaining"])
    _check_split(world, invoice, params, amount - pre)
    return {
        "amount": amount,
        "amount_shipping": 0,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": params.get("effective_at", world.now),
        "invoice": invoice["id"],
        "memo": params.get("memo"),
        "metadata": merged_metadata(None, params.get("metadata")),
        "out_of_band_amount": params.get("out_of_band_amount"),
        "post_payment_amount": amount - pre,
        "pre_payment_amount": pre,
        "pretax_credit_amounts": [],
        "reason": params.get("reason"),
        "refunds": [],
        "status": "issued",
        "subtotal": amount,
        "subtotal_excluding_tax": amount,
        "total": amount,
        "total_excluding_tax": amount,
        "total_taxes": [],
        "type": "mixed" if 0 < pre < amount else ("pre_payment" if pre else "post_payment"),
        "_lines": lines,
    }


def _check_split(world: World, invoice: Row, params: Mapping[str, Any], excess: int) -> None:
    if any(params.get(name, 0) < 0 for name in _SPLITS):
        raise invalid("An amount of a credit note cannot be negative", param="refund_amount")
    split = sum(params.get(name, 0) for name in _SPLITS)
    if split != excess:
        raise invalid(
            f"The sum of refund_amount, credit_amount and out_of_band_amount ({split}) must equal the credit note's amount "
            f"beyond what remains due of the invoice ({excess})",
            param="amount",
        )
    given_back = sum(refund["amount_refunded"] for note in _issued(world, invoice) for refund in note["refunds"])
    if params.get("refund_amount", 0) > invoice["amount_paid"] - given_back:
        raise invalid("More cannot be refunded than was paid", param="refund_amount")


def _line(world: World, invoice: Row, values: Mapping[str, Any], place: int) -> Row:
    name = f"lines[{place}]"
    only(values, "type amount quantity invoice_line_item description unit_amount metadata", where=name)
    quantity = values.get("quantity")
    unit: int | None = values.get("unit_amount")
    billed: Row | None = None
    if values["type"] == "invoice_line_item":
        billed = line_of(world, invoice["id"], values.get("invoice_line_item", ""))
        if billed is None:
            raise invalid("No such line of this invoice", code="resource_missing", param=f"{name}[invoice_line_item]")
        if "amount" not in values:
            raise invalid("Only lines with an amount are modelled", code="parameter_missing", param=f"{name}[amount]")
        amount = values["amount"]
        credited = sum(
            line["amount"]
            for note in _issued(world, invoice)
            for line in note["_lines"]
            if line["invoice_line_item"] == billed["id"]
        )
        if not 0 < amount <= billed["amount"] - credited:
            raise invalid(
                f"This line has {billed['amount'] - credited} left to be credited, not {amount}",
                param=f"{name}[amount]",
            )
    elif unit is None or not values.get("description"):
        raise invalid("A custom line needs description and unit_amount", code="parameter_missing", param=name)
    else:
        amount = unit * (quantity or 1)
    return {
        "id": "",
        "object": "credit_note_line_item",
        "amount": amount,
        "description": billed["description"] if billed is not None else values["description"],
        "discount_amount": 0,
        "discount_amounts": [],
        "invoice_line_item": None if billed is None else billed["id"],
        "livemode": False,
        "metadata": merged_metadata(None, values.get("metadata")),
        "pretax_credit_amounts": [],
        "quantity": quantity,
        "tax_rates": [],
        "taxes": [],
        "type": values["type"],
        "unit_amount": unit,
        "unit_amount_decimal": None if unit is None else str(unit),
    }


def _reduce(world: World, invoice: Row, amount: int) -> None:
    """Take an amount off what is due of an invoice (less than 0: put it back); one with nothing left is paid."""
    invoice["pre_payment_credit_notes_amount"] += amount
    invoice["amount_due"] -= amount
    invoice["amount_remaining"] -= amount
    world.save(invoice)
    world.emit("invoice.updated", invoice, previous={})
    if amount > 0 and invoice["amount_remaining"] == 0 and invoice["status"] == "open":
        payments.settle(world, invoice, invoice["amount_paid"])


def _issued(world: World, invoice: Row) -> list[Row]:
    return [note for note in world.table(KIND).find(invoice=invoice["id"]) if note["status"] == "issued"]


OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/credit_notes": modelled(create, _TAKES),
    "GET /v1/credit_notes": modelled(list_notes, f"{PAGED_BY_TIME} customer invoice"),
    "GET /v1/credit_notes/preview": modelled(preview, _TAKES),
    "GET /v1/credit_notes/{}": modelled(retrieve),
    "POST /v1/credit_notes/{}": modelled(update, "memo metadata"),
    "POST /v1/credit_notes/{}/void": modelled(void),
    "GET /v1/credit_notes/{}/lines": modelled(list_lines, PAGED),
}
