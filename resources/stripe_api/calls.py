"""A call to Stripe as a value: operation, ids in its path, parameters. What is printed by a dry run is what would be sent.

Parameters are plain: text, whole numbers, booleans, lists and mappings; decimals are written out (1E-7 becomes 0.0000001),
floats are refused. Answers come back as plain dictionaries with exact decimals. Not here: sending (gateway).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from billing_pipeline.errors import BillingError

Json = dict[str, Any]
LONGEST_KEY = 255
# Stripe takes up to 12 decimal places.
_MOST_PLACES = 12


class UnsendableValueError(BillingError):
    """A parameter cannot be written exactly."""


class Operation(StrEnum):
    """What is done to which resource; Stripe counts its rate for each of them apart."""

    CUSTOMERS_LIST = "customers.list"
    CUSTOMERS_RETRIEVE = "customers.retrieve"
    SUBSCRIPTIONS_LIST = "subscriptions.list"
    SUBSCRIPTIONS_RETRIEVE = "subscriptions.retrieve"
    SUBSCRIPTION_ITEMS_LIST = "subscription_items.list"
    PRICES_RETRIEVE = "prices.retrieve"
    INVOICES_LIST = "invoices.list"
    INVOICES_RETRIEVE = "invoices.retrieve"
    INVOICES_CREATE = "invoices.create"
    INVOICES_UPDATE = "invoices.update"
    INVOICES_LINES = "invoices.line_items.list"
    INVOICES_ADD_LINES = "invoices.add_lines"
    INVOICES_UPDATE_LINES = "invoices.update_lines"
    INVOICES_REMOVE_LINES = "invoices.remove_lines"
    INVOICE_ITEMS_LIST = "invoice_items.list"
    INVOICE_ITEMS_RETRIEVE = "invoice_items.retrieve"
    INVOICE_ITEMS_CREATE = "invoice_items.create"
    INVOICE_ITEMS_UPDATE = "invoice_items.update"
    INVOICE_ITEMS_DELETE = "invoice_items.delete"
    INVOICE_PAYMENTS_LIST = "invoice_payments.list"
    CREDIT_NOTES_LIST = "credit_notes.list"
    CREDIT_NOTES_RETRIEVE = "credit_notes.retrieve"
    CREDIT_NOTES_CREATE = "credit_notes.create"
    EVENTS_LIST = "events.list"
    EVENTS_RETRIEVE = "events.retrieve"
    METERS_LIST = "billing.meters.list"
    METERS_RETRIEVE = "billing.meters.retrieve"
    METER_EVENTS_CREATE = "billing.meter_events.create"
    METER_SUMMARIES_LIST = "billing.meters.event_summaries.list"
    V2_EVENTS_LIST = "v2.core.events.list"
    V2_EVENTS_RETRIEVE = "v2.core.events.retrieve"


_PATHS: Mapping[Operation, tuple[str, str]] = {
    Operation.CUSTOMERS_LIST: ("GET", "/v1/customers"),
    Operation.CUSTOMERS_RETRIEVE: ("GET", "/v1/customers/{}"),
    Operation.SUBSCRIPTIONS_LIST: ("GET", "/v1/subscriptions"),
    Operation.SUBSCRIPTIONS_RETRIEVE: ("GET", "/v1/subscriptions/{}"),
    Operation.SUBSCRIPTION_ITEMS_LIST: ("GET", "/v1/subscription_items"),
    Operation.PRICES_RETRIEVE: ("GET", "/v1/prices/{}"),
    Operation.INVOICES_LIST: ("GET", "/v1/invoices"),
    Operation.INVOICES_RETRIEVE: ("GET", "/v1/invoices/{}"),
    Operation.INVOICES_CREATE: ("POST", "/v1/invoices"),
    Operation.INVOICES_UPDATE: ("POST", "/v1/invoices/{}"),
    Operation.INVOICES_LINES: ("GET", "/v1/invoices/{}/lines"),
    Operation.INVOICES_ADD_LINES: ("POST", "/v1/invoices/{}/add_lines"),
    Operation.INVOICES_UPDATE_LINES: ("POST", "/v1/invoices/{}/update_lines"),
    Operation.INVOICES_REMOVE_LINES: ("POST", "/v1/invoices/{}/remove_lines"),
    Operation.INVOICE_ITEMS_LIST: ("GET", "/v1/invoiceitems"),
    Operation.INVOICE_ITEMS_RETRIEVE: ("GET", "/v1/invoiceitems/{}"),
    Operation.INVOICE_ITEMS_CREATE: ("POST", "/v1/invoiceitems"),
    Operation.INVOICE_ITEMS_UPDATE: ("POST", "/v1/invoiceitems/{}"),
    Operation.INVOICE_ITEMS_DELETE: ("DELETE", "/v1/invoiceitems/{}"),
    Operation.INVOICE_PAYMENTS_LIST: ("GET", "/v1/invoice_payments"),
    Operation.CREDIT_NOTES_LIST: ("GET", "/v1/credit_notes"),
    Operation.CREDIT_NOTES_RETRIEVE: ("GET", "/v1/credit_notes/{}"),
    Operation.CREDIT_NOTES_CREATE: ("POST", "/v1/credit_notes"),
    Operation.EVENTS_LIST: ("GET", "/v1/events"),
    Operation.EVENTS_RETRIEVE: ("GET", "/v1/events/{}"),
    Operation.METERS_LIST: ("GET", "/v1/billing/meters"),
    Operation.METERS_RETRIEVE: ("GET", "/v1/billing/meters/{}"),
    Operation.METER_EVENTS_CREATE: ("POST", "/v1/billing/meter_events"),
    Operation.METER_SUMMARIES_LIST: ("GET", "/v1/billing/meters/{}/event_summaries"),
    Operation.V2_EVENTS_LIST: ("GET", "/v2/core/events"),
    Operation.V2_EVENTS_RETRIEVE: ("GET", "/v2/core/events/{}"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """Under which Stripe remembers a write for a day: the same text is the same write."""

    text: str

    def __post_init__(self) -> None:
        if not self.text or len(self.text) > LONGEST_KEY or not self.text.isascii():
            raise ValueError(f"an idempotency key has 1 to {LONGEST_KEY} ASCII characters: {self.text!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeCall:
    """One call. `ids` fill the gaps of the operation's path, in order."""

    operation: Operation
    ids: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(not one for one in self.ids) or self._path.count("{}") != len(self.ids):
            raise ValueError(f"{self.operation} was given the ids {self.ids}")
        object.__setattr__(self, "params", sendable(self.params))

    @property
    def verb(self) -> str:
        """Return GET, POST or DELETE."""
        return _PATHS[self.operation][0]

    @property
    def is_write(self) -> bool:
        """Tell whether it may change anything at Stripe."""
        return self.verb != "GET"

    @property
    def path(self) -> str:
        """Return the path as Stripe's reference spells it."""
        return self._path.format(*self.ids)

    @property
    def _path(self) -> str:
        return _PATHS[self.operation][1]

    def __str__(self) -> str:
        """Return the call as one line: `POST /v1/invoiceitems {"amount": 1250, …}`."""
        text = f"{self.verb} {self.path}"
        return f"{text} {json.dumps(self.params, ensure_ascii=False)}" if self.params else text


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsMade:
    """How many calls left, every try counted."""

    reads: int = 0
    writes: int = 0


def sendable(value: Any) -> Any:
    """Return a parameter as it goes on the wire, decimals written out.

    Raises:
        UnsendableValueError: a float, a decimal that is no number or has more than 12 places, or another type.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case Decimal():
            return _plain_decimal(value)
        case Mapping():
            return {str(name): sendable(one) for name, one in value.items()}
        case Sequence():
            return [sendable(one) for one in value]
        case _:
            raise _unsendable(value, f"a {type(value).__name__} is not exact")


def plain(value: Any) -> Any:
    """Return an answer's value without floats: Stripe's summaries of meters come as such, and are read by their digits."""
    match value:
        case float():
            return Decimal(str(value))
        case dict():
            return {name: plain(one) for name, one in value.items()}
        case list():
            return [plain(one) for one in value]
        case _:
            return value


def _plain_decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise _unsendable(value, "it is no number")
    text = format(value, "f")
    whole, point, places = text.partition(".")
    places = places.rstrip("0")
    if len(places) > _MOST_PLACES:
        raise _unsendable(value, f"Stripe takes {_MOST_PLACES} decimal places")
    return f"{whole}{point}{places}" if places else whole


def _unsendable(value: object, problem: str) -> UnsendableValueError:
    return UnsendableValueError(
        f"{value!r} cannot be sent to Stripe: {problem}",
        bill="the call was not made.",
        fix="send a whole number of minor units, or a Decimal of at most 12 places.",
    )
