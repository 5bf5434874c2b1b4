"""A month of one customer at Stripe's sandbox, or at a stand-in: the same calls, the same clock of Stripe's, cleaned up after.

Everything is made under a test clock and deleted with it; prices and meters, which Stripe keeps for ever, are made inactive. What
Stripe's documentation leaves open is asked on the way, and the answers are kept for whoever ran it. Only keys of a sandbox are
taken. Not here: what must be true of the month (test_stripe_sandbox).
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import stripe

from billing_pipeline.periods import Window
from billing_pipeline.stripe_sync.policy import SyncPolicy
from resources.stripe_api import sdk
from resources.stripe_api.gateway import StripeGateway
from resources.stripe_api.keys import STRIPE_ADDRESS, StripeMode, check_key
from resources.stripe_api.limiter import Pace, RateLimiter
from resources.stripe_mirror.feed import Relisting
from resources.stripe_mirror.gateway_reads import GatewayReads
from resources.stripe_mirror.invoice_life import StoredInvoiceLife
from resources.stripe_mirror.relist import Relister
from resources.stripe_mirror.settle import Settler
from resources.stripe_sync.sync_run import StripeSync, SyncReport
from resources.stripe_sync.true_up_run import StripeTrueUp, TrueUpReport
from tests.invoicing_world import InvoicingWorld

ACCOUNT = "acme"
_READY_WITHIN_SECONDS = 600.0
_POLL_SECONDS = 2.0


@dataclass
class Sandbox:
    """One trial. `url` None is Stripe. `answers`: question -> what was seen, in the order asked."""

    books: InvoicingWorld
    api_key: str
    url: str | None
    period: Window
    poll_seconds: float = _POLL_SECONDS
    answers: dict[str, str] = field(default_factory=dict)
    now: datetime = field(init=False)
    client: stripe.StripeClient = field(init=False)
    gateway: StripeGateway = field(init=False)
    clock_id: str = ""
    customer: str = ""
    subscription: str = ""
    _made: list[Callable[[], object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        address = self.url or STRIPE_ADDRESS
        addresses = {"api": address, "meter_events": self.url} if self.url else {"api": address}
        check_key(self.api_key, StripeMode.TEST, addresses)
        pace = Pace.of(StripeMode.TEST) if self.url is None else Pace(per_operation=10_000, overall=10_000)
        self.now = self.period.start
        self.client = sdk.open_client(self.api_key, base_addresses=addresses, timeout_seconds=60)
        self.gateway = StripeGateway(api_key=self.api_key, base_url=self.url, limiter=RateLimiter(pace))

    # A month ----------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make a clock that stands at the begin of the period, a customer and a subscription of nothing."""
        v1, mark = self.client.v1, uuid.uuid4().hex[:8]
        self.clock_id = v1.test_helpers.test_clocks.create(
            {"frozen_time": _seconds(self.now), "name": f"billing {mark}"}
        ).id
        self._made.append(lambda: v1.test_helpers.test_clocks.delete(self.clock_id))
        price = v1.prices.create(
            {
                "currency": "usd",
                "unit_amount": 0,
                "recurring": {"interval": "month"},
                "product_data": {"name": f"billing_pipeline trial {mark}"},
            }
        )
        self._made.append(lambda: v1.prices.update(price.id, {"active": False}))
        self.customer = v1.customers.create({"test_clock": self.clock_id, "metadata": {"bp_account": ACCOUNT}}).id
        self.subscription = v1.subscriptions.create(
            {
                "customer": self.customer,
                "items": [{"price": price.id}],
                "collection_method": "send_invoice",
                "days_until_due": 30,
                "metadata": {"bp_subscription": f"s_{ACCOUNT}"},
            }
        ).id
        self.mirror()

    def advance_to(self, instant: datetime) -> None:
        """Move Stripe's clock on, and wait until Stripe has done what was due on the way."""
        clocks = self.client.v1.test_helpers.test_clocks
        clocks.advance(self.clock_id, {"frozen_time": _seconds(instant)})
        began = time.monotonic()
        while (status := clocks.retrieve(self.clock_id).status) != "ready":
            if status != "advancing" or time.monotonic() - began > _READY_WITHIN_SECONDS:
                raise AssertionError(f"the test clock is {status}")
            time.sleep(self.poll_seconds)
        self.now = self.books.now = instant

    def mirror(self) -> None:
        """List everything of the sandbox into the mirror."""
        settler = Settler(
            database=self.books.database, clock=lambda: self.now, life=StoredInvoiceLife(self.books.invoices)
        )
        reads = GatewayReads(self.gateway)
        Relister(database=self.books.database, reads=reads, clock=lambda: self.now, settler=settler).relist(
            Relisting(reason="a trial asks", since=None)
        )

    def sync(self, *, verify: bool = False) -> SyncReport:
        """Run the daily sync."""
        return StripeSync(store=self.books.invoices, **self._parts()).run(
            run_id=f"trial {uuid.uuid4()}", accounts=[ACCOUNT], verify=verify
        )

    def true_up(self) -> TrueUpReport:
        """Bring the drafts up to date that wait."""
        return StripeTrueUp(store=self.books.invoices, **self._parts()).run(run_id=f"trial {uuid.uuid4()}")

    def pending(self) -> list[stripe.InvoiceItem]:
        """Return the pending items."""
        return list(self.client.v1.invoice_items.list({"customer": self.customer, "pending": True, "limit": 100}).data)

    def renewals(self) -> list[stripe.Invoice]:
        """Return the invoices that renewals have made, oldest first."""
        found = self.client.v1.invoices.list({"customer": self.customer, "limit": 100}).data
        return [one for one in found if one.billing_reason == "subscription_cycle"][::-1]

    def ours(self, invoice_id: str) -> dict[str, int]:
        """Return our lines of an invoice by their keys."""
        lines = self.client.v1.invoices.line_items.list(invoice_id, {"limit": 100}).auto_paging_iter()
        return {line.metadata["bp_key"]: line.amount for line in lines if "bp_key" in line.metadata}

    def clean_up(self) -> None:
        """Delete or switch off what was made, the newest first; what fails is left to the clock's own end after 30 days."""
        for undo in reversed(self._made):
            try:
                undo()
            except stripe.StripeError as error:
                self.answers[f"cleaning up: {type(error).__name__}"] = error.user_message or ""
        self._made.clear()

    def _parts(self) -> dict[str, Any]:
        return {
            "database": self.books.database,
            "gateway": lambda: self.gateway,
            "policy": SyncPolicy(concurrency=1),
            "clock": lambda: self.now,
        }

    # What the documentation leaves open -------------------------------------------------------------------------------

    def ask(self) -> Mapping[str, str]:
        """Ask everything that can be asked beside the month, and return all answers."""
        for question, asked in (
            ("1. is a new invoice item in the next list?", self._read_after_write),
            ("3. formula last: by timestamp or receipt, and of equal timestamps?", self._last),
            ("4. what answers a repeated identifier of a meter event?", self._repeated),
            ("5. how many lines does add_lines take, and does one bad line refuse all?", self._lines),
            ("6. is a meter event of a customer without a subscription taken?", self._without_subscription),
            ("7. does a meter take decimals?", self._decimals),
        ):
            try:
                self.answers[question] = asked()
            except stripe.StripeError as error:
                self.answers[question] = _said(error)
        return self.answers

    def note_hold(self, invoice: stripe.Invoice) -> None:
        """Keep whether a renewal's draft takes `automatically_finalizes_at`, and put back what it said before."""
        invoices, name = self.client.v1.invoices, "2. does a renewal's draft take automatically_finalizes_at?"
        try:
            wanted = _seconds(self.now + timedelta(hours=5))
            held = invoices.update(invoice.id or "", {"automatically_finalizes_at": wanted})
            self.answers[name] = (
                f"yes: {held.automatically_finalizes_at} (asked {wanted}, was {invoice.automatically_finalizes_at})"
            )
        except stripe.StripeError as error:
            self.answers[name] = _said(error)

    def _read_after_write(self) -> str:
        items = self.client.v1.invoice_items
        made = items.create({"customer": self.customer, "amount": 1, "currency": "usd", "description": "a question"}).id
        began = time.monotonic()
        try:
            for look in range(1, 11):
                listed = items.list({"customer": self.customer, "limit": 100}).data
                if made in {one.id for one in listed}:
                    return f"in look {look}, {time.monotonic() - began:.1f} seconds after"
                time.sleep(self.poll_seconds)
            return "not in ten looks"
        finally:
            items.delete(made)

    def _last(self) -> str:
        with self._meter() as (meter, event_name):
            at = _seconds(self.now) - 300
            self._event(event_name, "20", at)
            self._event(event_name, "10", at - 60)
            first = self._summary(meter, at)
            self._event(event_name, "30", at)
            second = self._summary(meter, at, other_than=first)
            return f"20, then 10 a minute before it: {first}; then 30 at the second of 20: {second}"

    def _repeated(self) -> str:
        with self._meter() as (_, event_name):
            at, identifier = _seconds(self.now) - 60, uuid.uuid4().hex
            self._event(event_name, "1", at, identifier=identifier)
            try:
                self._event(event_name, "1", at, identifier=identifier)
            except stripe.StripeError as error:
                return _said(error)
            return "200, as the first one"

    def _lines(self) -> str:
        invoices = self.client.v1.invoices
        draft = invoices.create({"customer": self.customer, "auto_advance": False}).id or ""
        try:
            told = []
            for count in (101, 250):
                lines: list[Any] = [{"amount": 1, "description": f"line {number}"} for number in range(count)]
                try:
                    invoices.add_lines(draft, {"lines": lines})
                    told.append(f"{count} lines: taken")
                except stripe.StripeError as error:
                    told.append(f"{count} lines: {_said(error)}")
            before = len(self._all_lines(draft))
            bad: list[Any] = [{"amount": 1, "description": "good"}, {"description": "without an amount"}]
            try:
                invoices.add_lines(draft, {"lines": bad})
                told.append("a line without an amount: taken")
            except stripe.StripeError as error:
                told.append(f"a line without an amount: {_said(error)}")
            return "; ".join([*told, f"{len(self._all_lines(draft)) - before} of 2 lines are there after it"])
        finally:
            invoices.delete(draft)

    def _without_subscription(self) -> str:
        alone = self.client.v1.customers.create({"test_clock": self.clock_id}).id
        with self._meter() as (_, event_name):
            self._event(event_name, "1", _seconds(self.now) - 60, customer=alone)
            return "taken; whether a later subscription bills it is seen on its first renewal only"

    def _decimals(self) -> str:
        with self._meter() as (_, event_name):
            self._event(event_name, "1.5", _seconds(self.now) - 60)
            return "taken"

    def _all_lines(self, invoice_id: str) -> list[stripe.InvoiceLineItem]:
        return list(self.client.v1.invoices.line_items.list(invoice_id, {"limit": 100}).auto_paging_iter())

    @contextmanager
    def _meter(self) -> Iterator[tuple[str, str]]:
        """Yield the id and the event's name of a meter that is switched off afterwards."""
        meters, event_name = self.client.v1.billing.meters, f"bp_trial_{uuid.uuid4().hex[:12]}"
        meter = meters.create(
            {
                "display_name": "billing_pipeline trial",
                "event_name": event_name,
                "default_aggregation": {"formula": "last"},
            }
        )
        try:
            yield meter.id, event_name
        finally:
            meters.deactivate(meter.id)

    def _event(self, event_name: str, value: str, at: int, *, customer: str = "", identifier: str = "") -> None:
        self.client.v1.billing.meter_events.create(
            {
                "event_name": event_name,
                "payload": {"stripe_customer_id": customer or self.customer, "value": value},
                "timestamp": at,
                "identifier": identifier or uuid.uuid4().hex,
            }
        )

    def _summary(self, meter: str, at: int, *, other_than: str = "") -> str:
        """Return what the meter counts around an instant; it counts late."""
        params: Any = {"customer": self.customer, "start_time": at - at % 60 - 3600, "end_time": at - at % 60 + 3600}
        seen = "nothing"
        for _ in range(10):
            found = self.client.v1.billing.meters.event_summaries.list(meter, params).data
            if found and str(found[0].aggregated_value) != other_than:
                return str(found[0].aggregated_value)
            seen = str(found[0].aggregated_value) if found else seen
            self._let_time_pass()
        return f"{seen} (still)"

    def _let_time_pass(self) -> None:
        if self.url is None:
            time.sleep(10 * self.poll_seconds)
        else:
            self.advance_to(self.now + timedelta(minutes=2))


def month_of(instant: datetime) -> Window:
    """Return the calendar month of an instant, UTC."""
    start = instant.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return Window(start, (start + timedelta(days=32)).replace(day=1))


def _seconds(instant: datetime) -> int:
    return int(instant.timestamp())


def _said(error: stripe.StripeError) -> str:
    return f"{error.http_status} {error.code}: {error.user_message}"
