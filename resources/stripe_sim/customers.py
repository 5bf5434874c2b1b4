"""Customers: made, changed, deleted; their balance and its transactions."""

from collections.abc import Mapping
from typing import Any

from resources.stripe_sim import subscription_invoices
from resources.stripe_sim.balances import move_balance
from resources.stripe_sim.calls import Call, Modelled, merged_metadata, modelled, only, unset_to_null
from resources.stripe_sim.lists import PAGED, PAGED_BY_TIME, listed
from resources.stripe_sim.money import lock_currency, read_currency
from resources.stripe_sim.refusals import missing
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World, changed_fields

KIND = "customer"
_TAKES = (
    "address balance business_name description email individual_name invoice_prefix invoice_settings metadata name "
    "next_invoice_sequence phone preferred_locales shipping tax_exempt"
)
_NO_SETTINGS: Mapping[str, Any] = {
    "custom_fields": None,
    "default_payment_method": None,
    "footer": None,
    "rendering_options": None,
}


def create(world: World, call: Call) -> Row:
    """Make a customer."""
    values = _values(call.params)
    if "test_clock" in values:
        world.get("test_helpers.test_clock", values["test_clock"], param="test_clock")
    settings = {**_NO_SETTINGS, **(values.pop("invoice_settings", None) or {})}
    number = world.counters["invoice_prefix"] = world.counters["invoice_prefix"] + 1
    row = world.make(
        KIND,
        **{
            "balance": 0,
            "delinquent": False,
            "invoice_prefix": f"SIM{number:05d}",
            "invoice_settings": settings,
            "next_invoice_sequence": 1,
            "preferred_locales": [],
            "tax_exempt": "none",
            **values,
            "metadata": merged_metadata(None, call.params.get("metadata")),
        },
    )
    world.emit("customer.created", row)
    return rendered(world, row)


def retrieve(world: World, call: Call) -> Row:
    """Return a customer; of a deleted one just that it is deleted, and no 404."""
    row = world.table(KIND).get(call.id)
    if row is None:
        raise missing(KIND, call.id)
    return _gone(row) if row.get("deleted") else rendered(world, row)


def update(world: World, call: Call) -> Row:
    """Change a customer."""
    row = world.get(KIND, call.id)
    before = dict(row)
    values = _values(call.params)
    if "invoice_settings" in values:
        values["invoice_settings"] = {**row["invoice_settings"], **values["invoice_settings"]}
    if "balance" in values:
        move_balance(world, row, values.pop("balance") - row["balance"], kind="adjustment")
    row |= values
    row["metadata"] = merged_metadata(row["metadata"], call.params.get("metadata"))
    world.save(row)
    world.emit("customer.updated", row, previous=changed_fields(before, row))
    return rendered(world, row)


def delete(world: World, call: Call) -> Row:
    """Delete a customer: subscriptions end at once, and what is pending stays for whoever looks."""
    row = world.get(KIND, call.id)
    for subscription in list(world.table("subscription").find(customer=row["id"])):
        if subscription["status"] not in subscription_invoices.ENDED:
            subscription_invoices.end(world, subscription)
    world.emit("customer.deleted", row)
    row["deleted"] = True
    world.save(row)
    return _gone(row)


def list_customers(world: World, call: Call) -> Row:
    """List customers that are not deleted."""
    by = {"email": call.params["email"]} if "email" in call.params else {}
    return listed(world, call, KIND, by=by, where=lambda row: not row.get("deleted"))


def create_balance_transaction(world: World, call: Call) -> Row:
    """Adjust a customer's balance by hand."""
    customer = world.get(KIND, call.id)
    lock_currency(world, customer, read_currency(call.params["currency"]))
    made = move_balance(
        world,
        customer,
        call.params["amount"],
        kind="adjustment",
        description=call.params.get("description"),
        metadata=merged_metadata(None, call.params.get("metadata")),
    )
    return rendered(world, made or {"object": "customer_balance_transaction"})


def list_balance_transactions(world: World, call: Call) -> Row:
    """List a customer's balance transactions."""
    world.get(KIND, call.id)
    url = f"/v1/customers/{call.id}/balance_transactions"
    return listed(world, call, "customer_balance_transaction", by={"customer": call.id}, url=url)


def _values(params: Mapping[str, Any]) -> dict[str, Any]:
    settings = params.get("invoice_settings")
    if isinstance(settings, Mapping):
        only(settings, "custom_fields default_payment_method footer", where="invoice_settings")
    return {name: unset_to_null(value) for name, value in params.items() if name not in ("metadata", "expand")}


def _gone(row: Row) -> Row:
    return {"id": row["id"], "object": KIND, "deleted": True}


OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/customers": modelled(create, f"{_TAKES} test_clock"),
    "GET /v1/customers": modelled(list_customers, f"{PAGED_BY_TIME} email"),
    "GET /v1/customers/{}": modelled(retrieve),
    "POST /v1/customers/{}": modelled(update, _TAKES),
    "DELETE /v1/customers/{}": modelled(delete),
    "POST /v1/customers/{}/balance_transactions": modelled(
        create_balance_transaction, "amount currency description metadata"
    ),
    "GET /v1/customers/{}/balance_transactions": modelled(list_balance_transactions, PAGED),
}
