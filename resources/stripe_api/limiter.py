"""Keep below Stripe's rates: a call asks, and is let go when its operation and all together have room in the last second.

Stripe counts each operation (25 a second unless it grants more) and everything together (100 live, 25 in a sandbox, of
which at most 80 % are used here: other programs share the account). Threads share one limiter. Not here: what is done when
Stripe says 429 all the same (gateway).
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from billing_pipeline.errors import BillingError
from resources.stripe_api.keys import StripeMode

# A little more than the second that Stripe counts in: calls that leave apart may arrive closer together.
WINDOW_SECONDS = 1.02
SHARE_OF_OVERALL = 0.8
STRIPE_OVERALL_PER_SECOND = {StripeMode.LIVE: 100, StripeMode.TEST: 25}
STRIPE_PER_OPERATION_PER_SECOND = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Calls a second, and how many may be under way at once."""

    per_operation: int
    overall: int
    in_flight: int = 8

    def __post_init__(self) -> None:
        if min(self.per_operation, self.overall, self.in_flight) < 1:
            raise ValueError(f"a pace lets through one call at least: {self}")

    @classmethod
    def of(cls, mode: StripeMode) -> "Pace":
        """Return what Stripe allows by default: 25 and 80 a second live, 20 in a sandbox."""
        overall = int(STRIPE_OVERALL_PER_SECOND[mode] * SHARE_OF_OVERALL)
        return cls(per_operation=min(STRIPE_PER_OPERATION_PER_SECOND, overall), overall=overall)


class PaceError(BillingError):
    """The configured limit is no number of calls."""


def read_pace(calls_per_second: str | None, mode: StripeMode) -> Pace:
    """Return the pace with the limit that BILLING_STRIPE_CALLS_PER_SECOND sets for each operation, or Stripe's own.

    Raises:
        PaceError: it is no whole number from 1 to 10,000.
    """
    usual = Pace.of(mode)
    if calls_per_second is None:
        return usual
    if not (calls_per_second.isascii() and calls_per_second.isdigit() and 1 <= int(calls_per_second) <= 10_000):
        raise PaceError(
            f"BILLING_STRIPE_CALLS_PER_SECOND is {calls_per_second!r}",
            bill="nothing was sent to Stripe.",
            fix=f"set it to what Stripe grants each operation of your account, or unset it for {usual.per_operation}.",
        )
    # Whoever was granted more for one operation was granted more for all of them together.
    return Pace(per_operation=int(calls_per_second), overall=max(int(calls_per_second), usual.overall))


class RateLimiter:
    """Lets calls go at a pace. `clock` is monotonic seconds, `sleep` waits so many seconds."""

    def __init__(
        self,
        pace: Pace,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.pace = pace
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(pace.in_flight)
        self._overall: deque[float] = deque()
        self._by_operation: dict[str, deque[float]] = defaultdict(deque)

    @contextmanager
    def turn(self, operation: str) -> Iterator[None]:
        """Wait until a call of `operation` may leave, and count it as under way inside the block."""
        with self._slots:
            while (wait := self._wait_seconds(operation)) > 0:
                self._sleep(wait)
            yield

    def _wait_seconds(self, operation: str) -> float:
        """Return 0 and count the call, or how long until there may be room."""
        with self._lock:
            now = self._clock()
            waits = (
                _until_room(self._overall, self.pace.overall, now),
                _until_room(self._by_operation[operation], self.pace.per_operation, now),
            )
            if max(waits) > 0:
                return max(waits)
            self._overall.append(now)
            self._by_operation[operation].append(now)
            return 0.0


def _until_room(calls: deque[float], limit: int, now: float) -> float:
    while calls and calls[0] <= now - WINDOW_SECONDS:
        calls.popleft()
    # Never less than a tick, so that a rounded difference of clocks does not spin.
    return max(calls[-limit] + WINDOW_SECONDS - now, 0.001) if len(calls) >= limit else 0.0
