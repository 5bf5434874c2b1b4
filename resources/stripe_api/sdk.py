"""stripe-python, with its traps closed: a client with a time limit and no retries of its own, and each operation's method.

The SDK would wait 80 seconds, retry beside our pace and limits (its waits are not counted by them), and write a telemetry
file. Its objects are no dictionaries: `to_dict` makes them some. Not here: when and how often (gateway).
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import stripe

from resources.stripe_api.calls import Json, Operation, StripeCall, plain

ReadTimeout = float
_CONNECT_TIMEOUT_SECONDS = 5.0
_Method = Callable[..., Any]


def open_client(
    api_key: str, *, base_addresses: Mapping[str, str], timeout_seconds: ReadTimeout
) -> stripe.StripeClient:
    """Return a client that makes each call once. Connects at the first call."""
    stripe.enable_telemetry = False
    return stripe.StripeClient(
        api_key,
        base_addresses=cast(Any, dict(base_addresses)),
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=(_CONNECT_TIMEOUT_SECONDS, timeout_seconds)),
    )


def send(client: stripe.StripeClient, call: StripeCall, idempotency_key: str | None) -> stripe.StripeObject:
    """Make the call once and return the SDK's object.

    Raises:
        stripe.StripeError: whatever Stripe, or the connection to it, says.
    """
    options = {"idempotency_key": idempotency_key} if idempotency_key else {}
    method = _method(client, call.operation)
    return cast(stripe.StripeObject, method(*call.ids, dict(call.params), options))


def send_page_url(client: stripe.StripeClient, url: str) -> stripe.StripeObject:
    """Return a further page of a v2 list, which names it by its address."""
    response = client.raw_request("get", url)
    return client.deserialize(response, api_mode="V2")


def as_plain(answer: stripe.StripeObject) -> Json:
    """Return the object as dictionaries and lists, its floats as exact decimals."""
    return cast(Json, plain(answer.to_dict()))


def _method(client: stripe.StripeClient, operation: Operation) -> _Method:
    """Return the SDK's method: `invoice_items.create` is `client.v1.invoice_items.create`."""
    names = operation.split(".")
    found: Any = client if names[0] == "v2" else client.v1
    for name in names:
        found = getattr(found, name)
    return cast(_Method, found)
