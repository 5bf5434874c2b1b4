"""What went wrong with a call to Stripe, as errors, each with what to do next. Without the SDK, which takes long to import.

Refused: the request itself is wrong, and is never sent again as it is. Unavailable: tried again until patience ended, and
the outcome may be unknown. Denied: the key may not do it, for nobody. Not here: which answer means which (answers), waiting.
"""

from enum import StrEnum

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
