"""How long to wait before a call is tried again, and when to stop: (attempt, waited, chance) -> seconds or none. Pure.

Waits double from `first_seconds` up to `longest_seconds`, half of each at random, so that callers that failed together do
not come back together and no wait is shorter than the one before. The sum of waits is bounded. Not here: what is worth
another try (resources/stripe_api/errors).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits of one call. All figures are in seconds; `total_seconds` bounds the sum of the waits."""

    first_seconds: float = 0.5
    longest_seconds: float = 20.0
    total_seconds: float = 90.0

    def __post_init__(self) -> None:
        if not 0 < self.first_seconds <= self.longest_seconds or self.total_seconds < 0:
            raise ValueError(f"waits grow from above 0 to the longest, and their sum is not below 0: {self}")

    def wait_seconds(self, *, attempt: int, waited_seconds: float, chance: float) -> float | None:
        """Return how long to wait after failed `attempt` (from 1), None when the call has waited long enough.

        `chance` is in [0, 1). With 0.5 first: after attempts 1, 2, 3 between 0.25 and 0.5, 0.5 and 1, 1 and 2 seconds.
        """
        # 2 ** 64 is far beyond any longest wait, and a float takes it.
        ceiling = min(self.first_seconds * 2.0 ** min(attempt - 1, 64), self.longest_seconds)
        wait = ceiling * (0.5 + 0.5 * chance)
        return wait if waited_seconds + wait <= self.total_seconds else None
