"""Idempotency keys: what was answered to a key is answered again, for 24 hours of the virtual clock.

Kept is the answer of whatever was executed, also a refusal or a server error; not what failed before it ran. Another
request with the same key is refused, a second one while the first still runs is a conflict.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from resources.stripe_sim.refusals import ApiError, invalid
from resources.stripe_sim.rules import Rules

ERROR_TYPE = "idempotency_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status and a body."""

    status: int
    body: bytes


@dataclass(slots=True, kw_only=True)
class _Held:
    digest: str
    at: int
    answer: Answer | None


class IdempotencyKeys:
    """The keys that are remembered."""

    def __init__(self) -> None:
        """Begin with none."""
        self._held: OrderedDict[str, _Held] = OrderedDict()

    def begin(self, key: str, request: bytes, *, now: int, rules: Rules) -> Answer | None:
        """Return the answer of an earlier request with this key; null if this one is to be executed, which is noted.

        Raises:
            ApiError: the key is too long, was used for another request (400), or its request still runs (409).
        """
        if len(key) > rules.longest_idempotency_key:
            raise invalid(f"An idempotency key can have up to {rules.longest_idempotency_key} characters")
        self._forget(now - rules.idempotency_seconds)
        digest = hashlib.sha256(request).hexdigest()
        held = self._held.get(key)
        if held is None:
            self._held[key] = _Held(digest=digest, at=now, answer=None)
            return None
        if held.digest != digest:
            raise ApiError(
                400,
                "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                f"Try using a key other than '{key}' if you meant to execute a different request.",
                error_type=ERROR_TYPE,
            )
        if held.answer is None:
            raise ApiError(
                409,
                "There is currently another in-progress request using this idempotency key",
                code="idempotency_key_in_use",
                error_type=ERROR_TYPE,
            )
        return held.answer

    def keep(self, key: str, answer: Answer) -> None:
        """Remember what was answered."""
        self._held[key].answer = answer

    def drop(self, key: str) -> None:
        """Forget a key whose request was not executed."""
        self._held.pop(key, None)

    def _forget(self, before: int) -> None:
        while self._held:
            key, oldest = next(iter(self._held.items()))
            if oldest.at > before:
                return
            del self._held[key]
