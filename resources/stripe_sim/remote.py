"""The stand-in from outside: its control API for tests and the demo. See control for what each call does."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import httpx

from billing_pipeline.errors import BillingError

_TIMEOUT_SECONDS = 300


class SimControlError(BillingError):
    """The stand-in refused what its control API was asked for, or is not there."""


class SimRemote:
    """The control API of a stand-in that listens at `url`."""

    def __init__(self, url: str) -> None:
        """Talk to the stand-in at `url`, as `http://127.0.0.1:12111`."""
        self.url = url.rstrip("/")
        self._client = httpx.Client(base_url=self.url, timeout=_TIMEOUT_SECONDS, trust_env=False)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @property
    def now(self) -> datetime:
        """What its virtual clock says."""
        return datetime.fromtimestamp(self.state()["now"], UTC)

    def state(self) -> dict[str, Any]:
        """Return clock, rules, counts of objects, faults."""
        found: dict[str, Any] = self._ask("GET", "state")
        return found

    def advance_to(self, instant: datetime) -> datetime:
        """Let the clock go on; renewals, finalizations and webhooks happen on the way. Return what it says then."""
        return datetime.fromtimestamp(self._ask("POST", "advance", {"to": int(instant.timestamp())})["now"], UTC)

    def advance(self, span: timedelta) -> datetime:
        """Let the clock go on by a span."""
        return datetime.fromtimestamp(self._ask("POST", "advance", {"by": int(span.total_seconds())})["now"], UTC)

    def reset(self, now: datetime) -> None:
        """Forget everything, and let the clock stand at `now`."""
        self._ask("POST", "reset", {"now": int(now.timestamp())})

    def populate(self, *, customers: int, price: str, account_prefix: str = "account-") -> Sequence[Mapping[str, str]]:
        """Make customers with a subscription each, and return (account, customer, subscription) of each."""
        wanted = {"customers": customers, "price": price, "account_prefix": account_prefix}
        made: Sequence[Mapping[str, str]] = self._ask("POST", "populate", wanted)
        return made

    def fault(
        self,
        fault: str,
        operation: str = ".*",
        *,
        times: int | None = 1,
        after: int = 0,
        until: datetime | None = None,
        seconds: float = 0,
    ) -> None:
        """Let the next requests go wrong; `operation` is a regular expression over `POST /v1/invoiceitems/{}` and the like."""
        script = {"fault": fault, "operation": operation, "times": times, "after": after, "seconds": seconds}
        if until is not None:
            script |= {"until": int(until.timestamp()), "times": None}
        self._ask("POST", "faults", script)

    def clear_faults(self) -> None:
        """Let everything go right again."""
        self._ask("POST", "faults", {"clear": True})

    def event_faults(self, **faults: int) -> None:
        """Let the next events be `doubled`, `redelivered`, `late` by `late_seconds`, or in `reversed_batches`."""
        self._ask("POST", "events", faults)

    def rules(self, **changes: Any) -> dict[str, Any]:
        """Change rules, and return all of them."""
        found: dict[str, Any] = self._ask("POST", "rules", changes)
        return found

    def decline(self, customer: str, *, declines: bool = True) -> None:
        """Let the payments of a customer fail, or succeed again."""
        self._ask("POST", "decline", {"customer": customer, "decline": declines})

    def log(self, after: int = 0) -> Sequence[Mapping[str, Any]]:
        """Return the requests behind the `after`-th."""
        found: Sequence[Mapping[str, Any]] = self._ask("GET", f"log?after={after}")
        return found

    def deliveries(self) -> Sequence[Mapping[str, Any]]:
        """Return the webhooks that were tried."""
        found: Sequence[Mapping[str, Any]] = self._ask("GET", "deliveries")
        return found

    def lines(self) -> Sequence[Mapping[str, Any]]:
        """Return every line of every invoice and every pending item, with status, ids, amount and metadata."""
        found: Sequence[Mapping[str, Any]] = self._ask("GET", "lines")
        return found

    def totals(self) -> Mapping[str, Any]:
        """Return per customer what is invoiced, pending and owed."""
        found: Mapping[str, Any] = self._ask("GET", "totals")
        return found

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            answer = self._client.request(method, f"/_sim/{path}", json=body)
        except httpx.HTTPError as error:
            raise SimControlError(
                f"the stand-in for Stripe at {self.url} does not answer: {error}",
                bill="nothing was changed",
                fix="start it with billing stripe-sim",
            ) from error
        if answer.status_code != httpx.codes.OK:
            raise SimControlError(
                f"the stand-in refused {method} /_sim/{path}: {answer.text}",
                bill="nothing was changed",
                fix="see control",
            )
        return answer.json()
