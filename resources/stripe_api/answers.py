"""What an answer of Stripe's that is no success means: the SDK's exception -> worth another try, or one of our errors.

Not here: the errors themselves (errors), how long to wait (billing_pipeline/stripe_sync/backoff).
"""

from collections.abc import Mapping

import stripe

from resources.stripe_api.errors import (
    StripeDeniedError,
    StripeError,
    StripeKeyReusedError,
    StripeRefusedError,
    Trouble,
)


def trouble_of(error: stripe.StripeError) -> Trouble | None:
    """Return why the call is worth another try, None when it is not."""
    if isinstance(error, stripe.RateLimitError):
        return Trouble.RATE_LIMIT
    if isinstance(error, stripe.APIConnectionError):
        return Trouble.CONNECTION
    status = error.http_status or 0
    if status == 409:
        return Trouble.CONFLICT
    # An answer of 2xx that is not JSON broke on its way here. 501: what is not there is not there a second later.
    return Trouble.SERVER if (status >= 500 and status != 501) or 200 <= status < 300 else None


def lasting_error(operation: str, error: stripe.StripeError) -> StripeError:
    """Return the error of a call that is not worth another try."""
    status = error.http_status or 0
    details = _details(error)
    answer = error.user_message or "no reason given"
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        return StripeDeniedError(operation, status=status, answer=_without_key(answer))
    kind = StripeKeyReusedError if isinstance(error, stripe.IdempotencyError) else StripeRefusedError
    return kind(
        operation,
        status=status,
        code=str(details.get("code") or error.code or ""),
        param=str(details.get("param") or ""),
        answer=answer,
        request_id=error.request_id or "",
    )


def is_replayed(headers: Mapping[str, str] | None) -> bool:
    """Tell whether the answer is one that Stripe had stored for the idempotency key."""
    found = {name.lower(): value for name, value in (headers or {}).items()}
    return found.get("idempotent-replayed", "").lower() == "true"


def _details(error: stripe.StripeError) -> Mapping[str, object]:
    body = error.json_body
    details = body.get("error") if isinstance(body, dict) else None
    return details if isinstance(details, dict) else {}


def _without_key(answer: str) -> str:
    """Return Stripe's words without the (masked) key that they repeat: `Invalid API Key provided: sk_test_***abcd`."""
    return answer.partition(": sk_")[0].partition(": rk_")[0]
