"""What the stand-in answers when it refuses: status, type, code, message, parameter, as Stripe's errors have them.

The texts of most messages are ours: callers may rely on status, type, code and param, never on a message.
"""

from collections.abc import Mapping
from typing import Any

INVALID_REQUEST = "invalid_request_error"
NOT_MODELLED_STATUS = 501


class ApiError(Exception):
    """An answer that is no 2xx. Raised by an operation before it has changed anything."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        error_type: str = INVALID_REQUEST,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Keep what the client is told."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.error_type = error_type
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        """Return the body of the answer."""
        error: dict[str, Any] = {"message": self.message, "type": self.error_type}
        if self.code is not None:
            error["code"] = self.code
            error["doc_url"] = f"https://stripe.com/docs/error-codes/{self.code.replace('_', '-')}"
        if self.param is not None:
            error["param"] = self.param
        return {"error": error}


def invalid(message: str, *, code: str | None = None, param: str | None = None) -> ApiError:
    """Return the refusal of a request that cannot be right: 400."""
    return ApiError(400, message, code=code, param=param)


def missing(kind: str, object_id: str, *, param: str = "id") -> ApiError:
    """Return the refusal that follows from an id that names nothing: 404 in the path, 400 in a parameter."""
    status = 404 if param == "id" else 400
    return ApiError(status, f"No such {kind}: '{object_id}'", code="resource_missing", param=param)


def not_modelled(what: str) -> ApiError:
    """Return the refusal of what Stripe takes and the stand-in does not have: 501, never a made-up 200."""
    return ApiError(
        NOT_MODELLED_STATUS,
        f"the stand-in does not model {what}; Stripe's own API may well take it",
        code="not_modelled",
        error_type="api_error",
        headers={"Stripe-Should-Retry": "false"},
    )
