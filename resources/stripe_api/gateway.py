"""Calls to Stripe with pace and patience: StripeCall -> plain answer, or an error that says whether to try again.

429, 5xx, conflicts of one key, timeouts and broken connections are tried again with growing waits and the same idempotency
key, up to a total; a refused request never. When Stripe is down, one call finds out for all: others fail at once for a
while, instead of each waiting for itself. Reads follow every page. The key is in no message, log or repr. Not here: what to
write (billing_pipeline/stripe_sync), intents and read-back (resources/stripe_sync). See docs/stripe.md.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import stripe

from billing_pipeline.stripe_sync.backoff import Backoff
from resources.settings import Settings
from resources.stripe_api import sdk
from resources.stripe_api.answers import is_replayed, lasting_error, trouble_of
from resources.stripe_api.calls import CallsMade, IdempotencyKey, Json, Operation, StripeCall
from resources.stripe_api.errors import StripeError, StripeUnavailableError, Trouble
from resources.stripe_api.keys import STRIPE_ADDRESS, StripeMode, check_key, read_mode
from resources.stripe_api.limiter import Pace, RateLimiter, read_pace

TIMEOUT_SECONDS = 20.0
PAGE_SIZE = 100
# So long nobody asks again after a call gave up on a Stripe that does not answer.
DOWN_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a call, for the journal: `outcome` is `ok`, a `Trouble`, or the name of the error."""

    call: StripeCall
    number: int
    outcome: str
    idempotency_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a write came back with. `replayed`: Stripe had done it before, under this key."""

    body: Json
    request_id: str
    replayed: bool


class ReadOnlyGatewayError(RuntimeError):
    """A write was attempted through a gateway that only reads: a defect, not a condition."""


def _no_journal(attempt: Attempt) -> None:
    """Keep no journal."""


def utc_now() -> datetime:
    """Return the wall clock."""
    return datetime.now(UTC)


def open_gateway(settings: Settings, *, read_only: bool = False) -> "StripeGateway":
    """Return the gateway of an installation. Connects at its first call.

    Raises:
        StripeKeyError, PaceError: a variable is missing or wrong.
    """
    mode = read_mode(settings.stripe_mode)
    return StripeGateway(
        api_key=settings.stripe_api_key or "",
        mode=mode,
        base_url=settings.stripe_url,
        limiter=RateLimiter(read_pace(settings.stripe_calls_per_second, mode)),
        read_only=read_only,
    )


class StripeGateway:
    """One account at Stripe, or at a stand-in. Threads may share it."""

    def __init__(
        self,
        *,
        api_key: str,
        mode: StripeMode = StripeMode.TEST,
        base_url: str | None = None,
        limiter: RateLimiter | None = None,
        backoff: Backoff | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        read_only: bool = False,
        journal: Callable[[Attempt], None] = _no_journal,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`base_url` is a stand-in's address, None for Stripe. `clock` is monotonic seconds, `chance` in [0, 1).

        Raises:
            StripeKeyError: the key is missing, of the other mode, or would be shown to an address that must not see it.
        """
        addresses = {"api": (base_url or STRIPE_ADDRESS).rstrip("/")}
        if base_url:
            addresses |= dict.fromkeys(("connect", "files", "meter_events"), base_url.rstrip("/"))
        check_key(api_key, mode, addresses)
        self.mode = mode
        self.base_url = base_url
        self.read_only = read_only
        self.limiter = limiter or RateLimiter(Pace.of(mode), clock=clock, sleep=sleep)
        self.timeout_seconds = timeout_seconds
        self._client = sdk.open_client(api_key, base_addresses=addresses, timeout_seconds=timeout_seconds)
        self._backoff = backoff or Backoff()
        self._journal = journal
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._lock = threading.Lock()
        self._down_until: float | None = None
        self._server_time: datetime | None = None
        self._reads = self._writes = 0

    def __repr__(self) -> str:
        where = urlsplit(self.base_url).netloc if self.base_url else "Stripe"
        return f"{type(self).__name__}({self.mode} at {where})"

    @property
    def server_time(self) -> datetime | None:
        """Return the Date of the newest answer: with a stand-in its virtual clock. None before the first answer."""
        with self._lock:
            return self._server_time

    @property
    def calls_made(self) -> CallsMade:
        """Return how many calls have left so far."""
        with self._lock:
            return CallsMade(reads=self._reads, writes=self._writes)

    def read(self, call: StripeCall) -> Json:
        """Return one object.

        Raises:
            StripeRefusedError: it is not there (`is_missing`), or the request is wrong.
            StripeUnavailableError, StripeDeniedError: see there.
        """
        if call.is_write:
            raise ReadOnlyGatewayError(f"{call.operation} is not a read")
        return sdk.as_plain(self._patiently(call, None, partial(sdk.send, self._client, call, None)))

    def pages(self, call: StripeCall) -> Iterator[Json]:
        """Yield every object of a list, newest first; with `ending_before`, those after it, oldest first.

        Raises:
            StripeRefusedError, StripeUnavailableError, StripeDeniedError: see there; what was yielded before stands.
        """
        if call.operation is Operation.V2_EVENTS_LIST:
            yield from self._v2_pages(call)
            return
        upwards = "ending_before" in call.params
        params: dict[str, Any] = {"limit": PAGE_SIZE, **call.params}
        while True:
            page = self.read(StripeCall(operation=call.operation, ids=call.ids, params=params))
            # A page is newest first, also one that ends before an object.
            found: list[Json] = page["data"][::-1] if upwards else page["data"]
            yield from found
            if not page.get("has_more") or not found:
                return
            params["ending_before" if upwards else "starting_after"] = found[-1]["id"]

    def write(self, call: StripeCall, key: IdempotencyKey) -> Answer:
        """Make a write and return its answer; every try of it has the same key.

        Raises:
            StripeRefusedError: the request is wrong; it was sent once and will not pass.
            StripeUnavailableError: patience ended; `outcome_unknown` says whether it may have taken effect.
            StripeDeniedError: see there.
        """
        if not call.is_write or self.read_only:
            raise ReadOnlyGatewayError(
                f"{call.operation} through a gateway that {'only reads' if call.is_write else 'writes'}"
            )
        # DELETE ignores keys: what is gone is gone, and a second one finds nothing.
        text = key.text if call.verb == "POST" else None
        answer = self._patiently(call, text, partial(sdk.send, self._client, call, text))
        response = answer.last_response
        headers = dict(response.headers) if response is not None else {}
        return Answer(
            body=sdk.as_plain(answer),
            request_id=(response.request_id or "") if response is not None else "",
            replayed=is_replayed(headers),
        )

    def retrieve_customer(self, customer_id: str) -> Json:
        """Return a customer; a deleted one has `deleted: true`."""
        return self.read(StripeCall(operation=Operation.CUSTOMERS_RETRIEVE, ids=(customer_id,)))

    def retrieve_subscription(self, subscription_id: str) -> Json:
        """Return a subscription with its items."""
        return self.read(StripeCall(operation=Operation.SUBSCRIPTIONS_RETRIEVE, ids=(subscription_id,)))

    def retrieve_invoice(self, invoice_id: str) -> Json:
        """Return an invoice. Its embedded lines are the first ten only; see `list_lines`."""
        return self.read(StripeCall(operation=Operation.INVOICES_RETRIEVE, ids=(invoice_id,)))

    def list_customers(self, **params: Any) -> Iterator[Json]:
        """Yield customers; `params` as Stripe's list takes them."""
        return self.pages(StripeCall(operation=Operation.CUSTOMERS_LIST, params=params))

    def list_subscriptions(self, **params: Any) -> Iterator[Json]:
        """Yield subscriptions; `status="all"` includes ended ones."""
        return self.pages(StripeCall(operation=Operation.SUBSCRIPTIONS_LIST, params=params))

    def list_invoices(self, **params: Any) -> Iterator[Json]:
        """Yield invoices."""
        return self.pages(StripeCall(operation=Operation.INVOICES_LIST, params=params))

    def list_lines(self, invoice_id: str) -> Iterator[Json]:
        """Yield every line of an invoice."""
        return self.pages(StripeCall(operation=Operation.INVOICES_LINES, ids=(invoice_id,)))

    def list_invoice_items(self, **params: Any) -> Iterator[Json]:
        """Yield invoice items, of one customer, one invoice or all."""
        return self.pages(StripeCall(operation=Operation.INVOICE_ITEMS_LIST, params=params))

    def list_credit_notes(self, **params: Any) -> Iterator[Json]:
        """Yield credit notes."""
        return self.pages(StripeCall(operation=Operation.CREDIT_NOTES_LIST, params=params))

    def list_events(self, **params: Any) -> Iterator[Json]:
        """Yield events of the last 30 days; with `ending_before` those after an event, page by page upwards."""
        return self.pages(StripeCall(operation=Operation.EVENTS_LIST, params=params))

    def list_thin_events(self, **params: Any) -> Iterator[Json]:
        """Yield v2 events, among them the error reports of meters."""
        return self.pages(StripeCall(operation=Operation.V2_EVENTS_LIST, params=params))

    def _v2_pages(self, call: StripeCall) -> Iterator[Json]:
        page = self.read(call)
        while True:
            yield from page["data"]
            url = page.get("next_page_url")
            if not url:
                return
            page = sdk.as_plain(self._patiently(call, None, partial(sdk.send_page_url, self._client, url)))

    def _patiently(
        self, call: StripeCall, key: str | None, send: Callable[[], stripe.StripeObject]
    ) -> stripe.StripeObject:
        """Send until there is an answer, patience ends, or the request turns out wrong."""
        self._fail_while_down(call)
        attempt, waited, outcome_unknown = 0, 0.0, False
        while True:
            attempt += 1
            try:
                with self.limiter.turn(call.operation):
                    answer = send()
            except stripe.StripeError as error:
                self._note_time(error.headers)
                trouble = trouble_of(error)
                if trouble is None:
                    lasting = lasting_error(call.operation, error)
                    self._tell(call, attempt, type(lasting).__name__, key)
                    # Not `from error`: the SDK's exception holds the answer's headers and body.
                    raise lasting from None
                self._tell(call, attempt, trouble, key)
                outcome_unknown |= call.is_write and trouble is not Trouble.RATE_LIMIT
                stored = trouble is Trouble.SERVER and is_replayed(error.headers)
                wait = self._backoff.wait_seconds(attempt=attempt, waited_seconds=waited, chance=self._chance())
                if wait is None or stored:
                    raise self._given_up(call, trouble, error, outcome_unknown=outcome_unknown, stored=stored) from None
                self._sleep(wait)
                waited += wait
            else:
                response = answer.last_response
                self._note_time(dict(response.headers) if response is not None else {})
                self._tell(call, attempt, "ok", key)
                return answer

    def _given_up(
        self, call: StripeCall, trouble: Trouble, error: stripe.StripeError, *, outcome_unknown: bool, stored: bool
    ) -> StripeError:
        if trouble in (Trouble.SERVER, Trouble.CONNECTION) and not stored:
            with self._lock:
                self._down_until = self._clock() + DOWN_SECONDS
        status = f"status {error.http_status}" if error.http_status else "no connection, or no answer in time"
        return StripeUnavailableError(
            call.operation, trouble, status, outcome_unknown=outcome_unknown, result_is_stored=stored
        )

    def _fail_while_down(self, call: StripeCall) -> None:
        with self._lock:
            if self._down_until is None:
                return
            if self._clock() >= self._down_until:
                self._down_until = None
                return
        raise StripeUnavailableError(
            call.operation, Trouble.SERVER, "it did not answer a moment ago; not asked again yet", outcome_unknown=False
        )

    def _note_time(self, headers: Mapping[str, str] | None) -> None:
        found = {name.lower(): value for name, value in (headers or {}).items()}.get("date")
        if not found:
            return
        try:
            at = parsedate_to_datetime(found).astimezone(UTC)
        except ValueError:
            return
        with self._lock:
            self._server_time = at

    def _tell(self, call: StripeCall, number: int, outcome: str, key: str | None) -> None:
        with self._lock:
            self._reads += not call.is_write
            self._writes += call.is_write
        self._journal(Attempt(call=call, number=number, outcome=outcome, idempotency_key=key))
