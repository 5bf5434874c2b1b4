"""The kinds of objects that the stand-in keeps: prefix of the ids, address of the list, what lists are filtered by.

Fields that the SDK declares as optional are null in a new object, so that every answer has what the SDK's classes name.
"""

from collections.abc import Callable, Hashable, Mapping
from functools import cache
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from resources.stripe_sim.tables import Kind, Row

# Stripe leaves these out unless they are expanded.
_LEFT_OUT = frozenset(
    {
        "deleted",
        "payments",
        "confirmation_secret",
        "sources",
        "subscriptions",
        "tax_ids",
        "cash_balance",
        "tax",
        "tiers",
        "currency_options",
        "refunds",
        "secret",
        "invoice_credit_balance",
        "account",
        "context",
    }
)


def _field(name: str) -> Callable[[Row], Hashable]:
    return lambda row: row.get(name)


def subscription_of(invoice: Row) -> str | None:
    """Return the subscription that an invoice belongs to."""
    parent = invoice["parent"]
    found: str | None = parent and parent["subscription_details"]["subscription"]
    return found


def _kind(name: str, prefix: str, url: str, *by: str, **indexes: Callable[[Row], Hashable]) -> Kind:
    return Kind(name=name, prefix=prefix, url=url, indexes={**{one: _field(one) for one in by}, **indexes})


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        _kind("customer", "cus", "/v1/customers", "email"),
        _kind("product", "prod", "/v1/products", "active"),
        _kind("price", "price", "/v1/prices", "active", "product", "lookup_key", "currency", "type"),
        _kind("subscription", "sub", "/v1/subscriptions", "customer", "status", "collection_method"),
        _kind("subscription_item", "si", "/v1/subscription_items", "subscription", price=lambda row: row["price"]),
        _kind(
            "invoiceitem", "ii", "/v1/invoiceitems", "customer", "invoice", pending=lambda row: row["invoice"] is None
        ),
        _kind(
            "invoice",
            "in",
            "/v1/invoices",
            "customer",
            "status",
            "collection_method",
            subscription=subscription_of,
        ),
        _kind("credit_note", "cn", "/v1/credit_notes", "customer", "invoice"),
        _kind("customer_balance_transaction", "cbtxn", "", "customer"),
        _kind("invoice_payment", "inpay", "/v1/invoice_payments", "invoice", "status"),
        _kind("payment_intent", "pi", "/v1/payment_intents", "customer"),
        _kind("charge", "ch", "/v1/charges", "customer", "payment_intent"),
        _kind("refund", "re", "/v1/refunds", "charge", "payment_intent"),
        _kind("event", "evt", "/v1/events", "type"),
        _kind("v2.core.event", "evt_v2", "/v2/core/events", "type"),
        _kind("webhook_endpoint", "we", "/v1/webhook_endpoints", "status"),
        _kind("test_helpers.test_clock", "clock", "/v1/test_helpers/test_clocks"),
        _kind("billing.meter", "mtr", "/v1/billing/meters", "status", "event_name"),
    )
}


@cache
def sdk_class(name: str) -> type:
    """Return the SDK's class of a kind of object."""
    classes = import_module("stripe._object_classes")
    found = classes.get_object_class("V2" if name.startswith("v2.") else "V1", name)
    assert isinstance(found, type)
    return found


def left_out() -> frozenset[str]:
    """Return the fields that are only there when they are expanded."""
    return _LEFT_OUT


@cache
def nullable_fields(name: str) -> tuple[str, ...]:
    """Return the fields that are null in a new object of that kind."""
    fields = sdk_class(name).__annotations__.items()
    return tuple(field for field, hint in fields if _is_optional(hint) and field not in _LEFT_OUT)


@cache
def api_version() -> str:
    """Return the API's version that the installed SDK pins."""
    version = import_module("stripe._api_version")._ApiVersion.CURRENT
    assert isinstance(version, str)
    return version


def _is_optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)
