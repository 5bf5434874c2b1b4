"""Do several fetches at once and keep their order: what Stripe needs to answer is waited for together, at the limits' own pace.

Not here: the pace (resources/stripe_api/limiter), what is fetched (fetching).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

# As many as the gateway lets be under way at once by default.
AT_ONCE = 8

_One = TypeVar("_One")
_Result = TypeVar("_Result")


def side_by_side(
    work: Callable[[_One], _Result], ones: Iterable[_One], *, at_once: int = AT_ONCE
) -> Iterator[tuple[_One, _Result]]:
    """Yield each of `ones` with what `work` made of it, in their order; no more than `at_once` are taken ahead of who reads.

    What `work` raises for one is raised when its turn comes: what was before it has been yielded.
    """
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        ahead: deque[tuple[_One, Future[_Result]]] = deque()
        try:
            for one in ones:
                ahead.append((one, pool.submit(work, one)))
                if len(ahead) >= at_once:
                    first, found = ahead.popleft()
                    yield first, found.result()
            while ahead:
                first, found = ahead.popleft()
                yield first, found.result()
        finally:
            for _, left in ahead:
                left.cancel()
