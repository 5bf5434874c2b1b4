"""The operations that add, change and remove many lines of a draft in one call, and one line at a time.

The line's amount and the item's are one: a change of a line goes to its invoice item. Lines of subscription items can have
a new description, period or metadata (which is replaced there, and merged on invoice items); their amount is Stripe's.
"""

from collections.abc import Callable, Mapping
from typing import Any

from resources.stripe_sim import invoice_items, lines
from resources.stripe_sim.calls import Call, Modelled, merged_metadata, modelled, only, unset_to_null
from resources.stripe_sim.refusals import ApiError, invalid, missing
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.totals import count_totals
from resources.stripe_sim.world import World

_LINE = "amount description discountable metadata period price_data pricing quantity quantity_decimal"
_OF_SUBSCRIPTION_LINES = frozenset({"description", "period", "metadata", "id"})


def add_lines(world: World, call: Call) -> Row:
    """Add lines: new items, or pending ones that are named.

    Raises:
        ApiError: it is no draft, has no room, or a line cannot be.
    """
    invoice, given = _draft(world, call), call.params["lines"]
    invoice_items.check_room(world, invoice, len(given))
    customer = world.get("customer", invoice["customer"])

    def check(values: Mapping[str, Any], name: str) -> None:
        only(values, f"{_LINE} invoice_item", where=name)
        if "invoice_item" in values:
            if len(values) > 1:
                raise invalid("A line that names an invoice_item takes nothing else", param=name)
            invoice_items.unassigned_item(world, values["invoice_item"], customer["id"], param=f"{name}[invoice_item]")
        elif "price_data" not in values:
            invoice_items.check_new(world, customer, values, invoice=invoice)

    def add(values: Mapping[str, Any], name: str) -> None:
        if "invoice_item" in values:
            item = invoice_items.unassigned_item(world, values["invoice_item"], customer["id"], param=name)
        else:
            item = invoice_items.new_item(world, customer, values, invoice=invoice)
            world.emit("invoiceitem.created", item)
        lines.add_item(world, invoice, item)

    return _each(world, call, invoice, check, add)


def update_lines(world: World, call: Call) -> Row:
    """Change lines.

    Raises:
        ApiError: it is no draft, or a line does not exist or cannot be so.
    """
    invoice = _draft(world, call)

    def check(values: Mapping[str, Any], name: str) -> None:
        only(values, f"{_LINE} id", where=name)
        line = _line(world, invoice, values["id"], param=f"{name}[id]")
        _check_change(world, line, values, name)

    def change(values: Mapping[str, Any], name: str) -> None:
        set_line(world, _line(world, invoice, values["id"], param=f"{name}[id]"), values)

    return _each(world, call, invoice, check, change)


def remove_lines(world: World, call: Call) -> Row:
    """Remove lines: their items are deleted, or pending again.

    Raises:
        ApiError: it is no draft, or a line does not exist or is a subscription's.
    """
    invoice = _draft(world, call)

    def check(values: Mapping[str, Any], name: str) -> None:
        line = _line(world, invoice, values["id"], param=f"{name}[id]")
        if "_item" not in line:
            raise invalid("A line of a subscription item cannot be removed", param=f"{name}[id]")

    def remove(values: Mapping[str, Any], name: str) -> None:
        line = _line(world, invoice, values["id"], param=f"{name}[id]")
        item = lines.invoice_item_of(world, line)
        assert item is not None
        lines.drop(world, invoice["id"], line)
        if values["behavior"] == "delete":
            invoice_items.remove(world, item)
        else:
            item["invoice"] = None
            world.save(item)

    return _each(world, call, invoice, check, remove)


def update_line(world: World, call: Call) -> Row:
    """Change one line of a draft."""
    invoice = _draft(world, call)
    line = _line(world, invoice, call.ids[1], param="id")
    _check_change(world, line, call.params, "")
    set_line(world, line, call.params)
    count_totals(world, invoice)
    world.emit("invoice.updated", invoice, previous={})
    return rendered(world, line)


def set_line(world: World, line: Row, values: Mapping[str, Any]) -> None:
    """Set values of a line, and of its invoice item."""
    item = lines.invoice_item_of(world, line)
    if item is not None:
        invoice_items.set_values(world, item, values)
        lines.copy_item(line, item)
        return
    if "description" in values:
        line["description"] = unset_to_null(values["description"])
    if "period" in values:
        line["period"] = dict(values["period"])
    if "metadata" in values:
        line["metadata"] = merged_metadata(None, values["metadata"])
    world.changes += 1


def _each(
    world: World,
    call: Call,
    invoice: Row,
    check: Callable[[Mapping[str, Any], str], None],
    change: Callable[[Mapping[str, Any], str], None],
) -> Row:
    """Check and change line by line; all or none where the rules say that such a call is atomic."""
    given = call.params["lines"]
    most = world.rules.most_lines_a_call
    if 0 < most < len(given):
        raise invalid(f"At most {most} lines can be sent in one call", param="lines")
    named = [values.get("id", values.get("invoice_item")) for values in given]
    for place, name in enumerate(named):
        if name is not None and name in named[:place]:
            raise invalid(f"{name} is named twice", param=f"lines[{place}]")
    refused: ApiError | None = None
    if world.rules.lines_call_is_atomic:
        for place, values in enumerate(given):
            check(values, f"lines[{place}]")
    for place, values in enumerate(given):
        try:
            check(values, f"lines[{place}]")
            change(values, f"lines[{place}]")
        except ApiError as error:
            refused = error
            break
    if "invoice_metadata" in call.params:
        invoice["metadata"] = merged_metadata(invoice["metadata"], call.params["invoice_metadata"])
    count_totals(world, invoice)
    world.emit("invoice.updated", invoice, previous={})
    if refused is not None:
        raise refused
    return rendered(world, invoice)


def _draft(world: World, call: Call) -> Row:
    invoice = world.get("invoice", call.id)
    if invoice["status"] != "draft":
        raise invalid("Invoice is no longer editable", code="invoice_not_editable", param="invoice")
    return invoice


def _line(world: World, invoice: Row, line_id: str, *, param: str) -> Row:
    line = lines.line_of(world, invoice["id"], line_id)
    if line is None:
        raise missing("line item", line_id, param=param)
    return line


def _check_change(world: World, line: Row, values: Mapping[str, Any], name: str) -> None:
    if "_item" not in line:
        fixed = sorted(set(values) - _OF_SUBSCRIPTION_LINES - {"expand"})
        if fixed:
            param = f"{name}[{fixed[0]}]" if name else fixed[0]
            raise invalid(f"You cannot change {fixed[0]} of a subscription item's line", param=param)
        return
    item = lines.invoice_item_of(world, line)
    assert item is not None
    if "price_data" not in values:
        invoice_items.checked_change(world, item, values)


OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/invoices/{}/add_lines": modelled(add_lines, "lines invoice_metadata"),
    "POST /v1/invoices/{}/update_lines": modelled(update_lines, "lines invoice_metadata"),
    "POST /v1/invoices/{}/remove_lines": modelled(remove_lines, "lines invoice_metadata"),
    "POST /v1/invoices/{}/lines/{}": modelled(update_line, _LINE),
}
