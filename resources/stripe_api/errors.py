"""What went wrong with a call to Stripe: the SDK's exception -> one of four errors, each with what to do next.

Refused: the request itself is wrong, and is never sent again as it is. Unavailable: tried again until patience ended, and
the outcome may be unknown. Denied: the key may not do it, for nobody. Not here: waiting (gateway).
"""

from collections.abc import Mapping
from enum import StrEnum

import stripe

from billing_pipeline.errors import BillingError

_UNKNOWN = (
    "the call may or may not have taken effect; the next run reads back what Stripe holds before it writes again."
)
_MISSING = "resource_missing"


class Trouble(StrEnum):
    """Why a call was not answered; all of these pass by themselves."""

    RATE_LIMIT = "rate_limit"
    SERVER = "server"
    CONNECTION = "connection"
    CONFLICT = "conflict"


class StripeError(BillingError):
    """A call to Stripe failed. Its children say how."""


class StripeRefusedError(StripeError):
    """Stripe understood the request and refuses it: the same request will always be refused."""

    def __init__(self, operation: str, *, status: int, code: str, param: str, answer: str, request_id: str) -> None:
        where = f" for {param}" if param else ""
        super().__init__(
            f"Stripe refused {operation} ({status} {code or 'without a code'}{where}): {answer}",
            bill="this change is not at Stripe; others go on.",
            fix="correct what the message names, then `billing retry`; it is sent under a new idempotency key."
            + (f" Stripe's log knows it as {request_id}." if request_id else ""),
        )
        self.operation = operation
        self.status = status
        self.code = code
        self.param = param
        self.answer = answer
        self.request_id = request_id

    @property
    def is_missing(self) -> bool:
        """Tell whether the object is not there (any more)."""
        return self.code == _MISSING or self.status == 404


class StripeKeyReusedError(StripeRefusedError):
    """An idempotency key was used with other parameters: a defect of ours, caught by Stripe."""


class StripeDeniedError(StripeError):
    """The key is wrong, or may not do this (401, 403): nothing will work until a person changes it."""

    def __init__(self, operation: str, *, status: int, answer: str) -> None:
        super().__init__(
            f"Stripe does not let this key do {operation} ({status}): {answer}",
            bill="nothing was changed by this call; what is at Stripe stays as it is.",
            fix="check STRIPE_API_KEY; a restricted key needs write access to invoices, invoice items, credit notes and meters.",
        )
        self.operation = operation
        self.status = status


class StripeUnavailableError(StripeError):
    """Stripe did not answer, or asked to wait, for longer than the call's patience.

    `outcome_unknown`: it may have taken effect. `result_is_stored`: Stripe repeats its failure for this idempotency key.
    """

    def __init__(
        self, operation: str, trouble: Trouble, problem: str, *, outcome_unknown: bool, result_is_stored: bool = False
    ) -> None:
        super().__init__(
            f"Stripe did not do {operation}: {problem}",
            bill=_UNKNOWN if outcome_unknown else "nothing was changed by this call.",
            fix="nothing; the next run goes on where this one stopped. See status.stripe.com if it lasts.",
        )
        self.operation = operation
        self.trouble = trouble
        self.problem = problem
        self.outcome_unknown = outcome_unknown
        self.result_is_stored = result_is_stored


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
