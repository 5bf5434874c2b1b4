"""Rate limits: requests in a second, of one operation and in all. What is refused counts for nothing."""

from collections import deque
from collections.abc import Hashable

from resources.stripe_sim.refusals import ApiError

REASON_HEADER = "Stripe-Rate-Limited-Reason"


class RateLimits:
    """The requests of the last second."""

    def __init__(self) -> None:
        """Begin with none."""
        self._seen: dict[Hashable, deque[float]] = {}

    def admit(self, operation: str, *, now: float, operation_rate: int, global_rate: int) -> None:
        """Count a request.

        Raises:
            ApiError: 429, there were too many in the second before `now`.
        """
        checks = ((operation, operation_rate, "endpoint-rate"), (None, global_rate, "global-rate"))
        for name, rate, reason in checks:
            if rate > 0 and len(self._within(name, now)) >= rate:
                raise refuse(reason)
        for name, rate, _ in checks:
            if rate > 0:
                self._within(name, now).append(now)

    def _within(self, name: Hashable, now: float) -> deque[float]:
        seen = self._seen.setdefault(name, deque())
        while seen and seen[0] <= now - 1:
            seen.popleft()
        return seen


def refuse(reason: str) -> ApiError:
    """Return a 429."""
    return ApiError(
        429,
        "Request rate limit exceeded.",
        code="rate_limit",
        headers={REASON_HEADER: reason},
    )
