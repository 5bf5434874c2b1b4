"""The demo's month at Stripe: daily sync, renewal, true-up, final, paid; late data on the next invoice; both sides side by side.

Stripe is the stand-in (resources/demo_stripe), and all times are its clock's. Each step is what the sensors and schedules do in an
installation, and each may be repeated: a second demo finds all of it done. Not here: the steps themselves (resources/stripe_*).
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any
from uuid import uuid4

from rich.markup import escape
from rich.table import Table

from assets.definitions import defs_of
from assets.reconciliation import KEY as RECONCILIATION_KEY
from assets.stripe_sync import KEY as SYNC_KEY
from billing_pipeline.amounts import Money, to_money
from billing_pipeline.invoicing.items import InvoiceItem, ItemKind
from billing_pipeline.invoicing.stripe_amounts import from_stripe
from billing_pipeline.periods import Window
from billing_pipeline.reconciliation import Agreement
from billing_pipeline.stripe_sync.lines import ACCOUNT_FIELD, KEY_FIELD
from console.runs import Pipeline
from console.screen import count, page, table
from resources.demo_canary import LATE_MINOR, ON_TIME_MINOR
from resources.demo_stripe import API_KEY, CANARY, CUSTOMERS, HIKARI, DemoCustomer, DemoStripe, serving_demo_stripe
from resources.invoicing.added_store import AddedStore, Decision
from resources.invoicing.invoice_rows import InvoiceRow, read_invoice_rows
from resources.invoicing.invoice_store import InvoiceStore
from resources.reconciliation.reconciler import Reconciler, Reconciliation
from resources.stripe_api.gateway import StripeGateway
from resources.stripe_mirror.following import StripeFollowing
from resources.stripe_mirror.gateway_reads import GatewayReads
from resources.stripe_mirror.invoice_life import StoredInvoiceLife
from resources.stripe_sync.sync_run import StripeSync
from resources.stripe_sync.true_up import Outcome, TrueUpOutcome
from resources.stripe_sync.true_up_run import StripeTrueUp

GOODWILL = Decimal("-1.00")
_PERSON = "demo"
_TIMED = "a month at Stripe"
_LONGEST_PROBLEM = 90
_SOON, _LATER, _FINAL = timedelta(minutes=5), timedelta(minutes=20), timedelta(minutes=65)
_LAST_SYNC = CANARY.renews_at - timedelta(minutes=10)
_LATE_DATA_AT = CANARY.renews_at + timedelta(hours=6)
# Where the canary's second period ends: what came late is on its invoice.
_SECOND_RENEWAL = CANARY.renews_at.replace(month=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    at: datetime
    what: str
    reads: int
    writes: int


@dataclass(kw_only=True)
class StripeMonth:
    """What the demo does at Stripe. `steps`: what it has done so far, with the calls that this took."""

    ready: Pipeline
    stripe: DemoStripe
    steps: list[_Step] = field(default_factory=list)

    def until_late_data(self) -> None:
        """Sync what is booked, and let the canary's first period be invoiced and paid."""
        if self.stripe.clock() <= _LAST_SYNC:
            self._wait_until(_LAST_SYNC)
            with self._step() as told:
                self._follow()
                told.append(f"daily sync: {self._sync()}")
        self._renew(CANARY, CANARY.renews_at, goodwill=True)

    def with_late_data(self) -> None:
        """Sync what came late, and let the renewals follow on which it is charged; sync again at the end."""
        if self.stripe.clock() <= _LATE_DATA_AT:
            self._wait_until(_LATE_DATA_AT)
            with self._step() as told:
                told.append(f"late data is booked; daily sync: {self._sync()}")
        self._renew(HIKARI, HIKARI.renews_at)
        self._renew(CANARY, _SECOND_RENEWAL)
        with self._step() as told:
            self._follow()
            told.append(f"sync again, looking at every customer: {self._sync(verify=True)}")

    def show(self) -> None:
        """Print the steps, the invoices of both sides line by line, and what they come to for each customer."""
        shown = table(
            "A month at Stripe: a stand-in on this machine, by its own clock",
            *("UTC", "what happened", "reads", "writes"),
            numbers=("reads", "writes"),
        )
        for one in self.steps:
            shown.add_row(f"{one.at:%m-%d %H:%M}", escape(one.what), count(one.reads), count(one.writes))
        made = self._gateway.calls_made
        events = f"together; a call for each request would be {count(self._requests())}"
        shown.add_row("", events, count(made.reads), count(made.writes))
        page().print(shown)
        self._show_invoices()

    def _renew(self, customer: DemoCustomer, at: datetime, *, goodwill: bool = False) -> None:
        """Let a period end: Stripe makes a draft, which is brought up to date, becomes final and is paid."""
        if self.stripe.clock() >= at + _FINAL:
            # An earlier demo has been there.
            return
        self._wait_until(at + _SOON)
        with self._step() as told:
            self._follow()
            told.append(f"{customer.account_id} renews: Stripe makes a draft and says invoice.created")
        if goodwill:
            with self._step() as told:
                told.append(self._give_goodwill(customer))
        self._wait_until(at + _LATER)
        with self._step() as told:
            told.append(f"true-up: {self._true_up()}")
        waiting = self._waiting(customer)
        if waiting is not None:
            with self._step() as told:
                told.append(self._let_through(waiting))
                self._wait_until(at + 2 * _LATER)
                told.append(f"true-up: {self._true_up()}")
        self._wait_until(at + _FINAL)
        with self._step() as told:
            self._follow()
            self._sync()
            told.append(f"invoice.finalized, invoice.paid: {self._newest_final(customer)}")

    def _wait_until(self, at: datetime) -> None:
        if at > self.stripe.clock():
            self.stripe.advance_to(at)

    @contextmanager
    def _step(self) -> Iterator[list[str]]:
        """Note what the block tells, with the calls that it makes."""
        before, told, at = self._gateway.calls_made, list[str](), self.stripe.clock()
        began = time.monotonic()
        yield told
        self.ready.seconds[_TIMED] = self.ready.seconds.get(_TIMED, 0.0) + time.monotonic() - began
        made = self._gateway.calls_made
        reads, writes = made.reads - before.reads, made.writes - before.writes
        self.steps.append(_Step(at=at, what="; ".join(told), reads=reads, writes=writes))

    def _give_goodwill(self, customer: DemoCustomer) -> str:
        adding = AddedStore(self._invoices.database, self._invoices.policy)
        added = adding.adjust(
            customer.account_id,
            reach=Window(customer.renews_at - _SOON, customer.renews_at),
            amount=GOODWILL,
            decision=Decision(actor=_PERSON, reason="goodwill", now=self.stripe.clock()),
        )
        return f"billing adjust: support gives {customer.account_id} {-added.amount} back"

    def _follow(self) -> None:
        """Poll Stripe's events into the inbox, and apply them: what the sensor does."""
        self._following.poll(may_go_on=lambda: True)
        self._following.follow(run_id=_run_id())

    def _sync(self, *, verify: bool = False) -> str:
        """Run the daily sync, and tell what is pending at Stripe afterwards."""
        report = self._syncing.run(run_id=_run_id(), accounts=[one.account_id for one in CUSTOMERS], verify=verify)
        problems = "; ".join(one.problem or "" for one in report.failed) or report.problem
        if problems:
            return f"[not in step] {problems}"
        pending = [
            f"{one.account_id} {from_stripe(amount, one.currency)}"
            for one in CUSTOMERS
            if (amount := sum(line["amount"] for line in self._lines_of(one) if line["status"] == "pending"))
        ]
        return f"pending are {', '.join(pending)}" if pending else "nothing is pending"

    def _true_up(self) -> str:
        report = self._true_ups.run(run_id=_run_id())
        return "; ".join(map(_became, report.outcomes))

    def _waiting(self, customer: DemoCustomer) -> InvoiceRow | None:
        """Return the draft of ours whose true-up waits for its period to be whole."""
        with self._invoices.database.reading() as connection:
            waiting = connection.execute(
                "select compiled_id from stripe.sync_true_up where account_id = %s and state = 'waiting'",
                [customer.account_id],
            ).fetchone()
        return None if waiting is None else self._invoices.find(str(waiting[0]))

    def _let_through(self, invoice: InvoiceRow) -> str:
        self._invoices.release(
            str(invoice.invoice_id), actor=_PERSON, reason="three days are all there is", now=self.stripe.clock()
        )
        return f"a person lets it through: billing release-invoice {invoice.name}"

    def _newest_final(self, customer: DemoCustomer) -> str:
        newest = max(
            (row for row in self._rows() if row.key.account_id == customer.account_id and row.number),
            key=lambda row: row.key.period.end,
            default=None,
        )
        return "none" if newest is None else f"{newest.number} of {customer.account_id}, {newest.total}"

    def _show_invoices(self) -> None:
        """Print both sides, line by line, with what the ledger and Stripe say of each customer at the end."""
        shown = table(
            "Invoices, ours and Stripe's",
            *("account", "invoice", "at Stripe", "status", "line", "ours", "Stripe's", "difference"),
            numbers=("ours", "Stripe's", "difference"),
        )
        for row in self._rows():
            self._add_invoice(shown, row)
        page().print(shown)
        self._show_reconciliation()

    def _show_reconciliation(self) -> None:
        """Print each customer's sums, here and there; what is not at Stripe is counted."""
        found = self._reconciled()
        compared = table(
            "Reconciliation: the ledger, our invoices, and Stripe read back",
            *("account", "ledger", "invoices", "Stripe's", "difference", ""),
            numbers=("ledger", "invoices", "Stripe's", "difference"),
        )
        for one in CUSTOMERS:
            rows = [row for row in found.rows if row.account_id == one.account_id]
            ours, held = (
                from_stripe(sum(getattr(row, side) for row in rows), one.currency) for side in ("ours", "held")
            )
            worst = max((row.agreement for row in rows), key=list(Agreement).index, default=Agreement.EQUAL)
            compared.add_row(one.account_id, str(self._ledger(one)), str(ours), str(held), str(held - ours), worst)
        page().print(compared)
        expected = (
            f"{Money(ON_TIME_MINOR, CANARY.currency) + to_money(GOODWILL, CANARY.currency)} and "
            f"{Money(LATE_MINOR, CANARY.currency)}"
        )
        for canary in found.canaries:
            right = "right" if canary.is_right else "WRONG"
            page().print(
                f"Canary, {canary.period_start:%Y-%m-%d} to {canary.period_end:%Y-%m-%d}: known to be "
                f"{from_stripe(canary.expected, canary.currency)} (canary.toml), is "
                f"{from_stripe(canary.ours or 0, canary.currency)} here and "
                f"{from_stripe(canary.held or 0, canary.currency)} at Stripe: {right}.",
                markup=False,
            )
        elsewhere = {row.account_id for row in found.of(Agreement.UNLINKED)}
        page().print(
            f"Known beforehand of canary: {expected}. "
            f"{count(len(elsewhere))} other accounts have no customer at Stripe: invoiced here, sent nowhere."
        )

    def _reconciled(self) -> Reconciliation:
        """Read Stripe back: the assets do it, so that their pages show what is printed here."""
        told = _Told(
            database=self._invoices.database,
            reads=lambda: GatewayReads(self._gateway),
            clock=self.stripe.clock,
            canaries=self.ready.stores.reconciler.canaries,
        )
        syncing = replace(
            self.ready.stores.stripe_syncing,
            open_gateway=lambda: self._gateway,
            is_configured=True,
            has_stand_in=True,
        )
        runtime = self.ready.runtime
        stores = replace(self.ready.stores, stripe_syncing=syncing, reconciler=told)
        there = replace(self.ready, definitions=defs_of(runtime.settings, runtime.database, stores=stores))
        there.run((SYNC_KEY,), config={SYNC_KEY: {"accounts": [one.account_id for one in CUSTOMERS]}})
        # The stand-in's day, unless it is no partition yet where this runs.
        there.run((RECONCILIATION_KEY,), [min(self.stripe.clock(), datetime.now(UTC)).date()])
        (found,) = told.found
        return found

    def _add_invoice(self, shown: Table, row: InvoiceRow) -> None:
        """Add an invoice's lines, each beside Stripe's line of the same key, and its sum if it has several."""
        theirs = {
            line["metadata"].get(KEY_FIELD): line
            for line in self.stripe.remote.lines()
            if line["invoice"] == row.external_id
        }
        lines = self._invoices.compiled(row).items
        currency = row.total.currency
        zero, sums = Money(0, currency), [Money(0, currency)] * 2
        what = (row.key.account_id, row.number or "", row.external_id or "")
        for number, line in enumerate(lines):
            found = theirs.get(line.item_key)
            at_stripe = zero if found is None else from_stripe(found["amount"], currency)
            sums = [sums[0] + line.amount, sums[1] + at_stripe]
            status = found["status"] if found is not None else "missing"
            shown.add_row(
                *((*what, status) if number == 0 else ("", "", "", "")),
                escape(_line_text(line)),
                str(line.amount),
                str(at_stripe),
                str(line.amount - at_stripe),
            )
        if len(lines) > 1:
            shown.add_row("", "", "", "", "together", str(sums[0]), str(sums[1]), str(sums[0] - sums[1]))

    def _rows(self) -> tuple[InvoiceRow, ...]:
        """Return the invoices of the demo's customers that are final, oldest first."""
        with self._invoices.database.reading() as connection:
            rows = read_invoice_rows(
                connection,
                "state = 'final' and account_id = any(%(accounts)s)",
                {"accounts": [one.account_id for one in CUSTOMERS]},
            )
        return tuple(sorted(rows, key=lambda row: row.number or ""))

    def _lines_of(self, customer: DemoCustomer) -> list[Mapping[str, Any]]:
        """Return our lines at Stripe for a customer, pending ones too, those of void invoices left out."""
        return [
            line
            for line in self.stripe.remote.lines()
            if line["metadata"].get(ACCOUNT_FIELD) == customer.account_id
            and KEY_FIELD in line["metadata"]
            and line["status"] != "void"
        ]

    def _ledger(self, customer: DemoCustomer) -> Money:
        with self._invoices.database.reading() as connection:
            row = connection.execute(
                "select coalesce(sum(amount_minor), 0)::bigint from billing.ledger_posting where ledger_account = %s",
                [f"receivable:{customer.account_id}"],
            ).fetchone()
        return Money(int(row[0]) if row else 0, customer.currency)

    def _requests(self) -> int:
        """Return how many billable requests the customers made."""
        with self._invoices.database.reading() as connection:
            row = connection.execute(
                "select coalesce(sum(request_count), 0)::bigint from usage.api_requests where account_id = any(%s)"
                " and meter_id = 'vehicle_requests'",
                [[one.account_id for one in CUSTOMERS]],
            ).fetchone()
        return int(row[0]) if row else 0

    @property
    def _invoices(self) -> InvoiceStore:
        return self.ready.stores.invoices

    @cached_property
    def _gateway(self) -> StripeGateway:
        return StripeGateway(api_key=API_KEY, base_url=self.stripe.url)

    @cached_property
    def _following(self) -> StripeFollowing:
        return StripeFollowing(
            database=self._invoices.database,
            open_reads=lambda: GatewayReads(self._gateway),
            clock=self.stripe.clock,
            life=StoredInvoiceLife(self._invoices),
        )

    @cached_property
    def _syncing(self) -> StripeSync:
        return StripeSync(
            database=self._invoices.database,
            store=self._invoices,
            gateway=lambda: self._gateway,
            clock=self.stripe.clock,
        )

    @cached_property
    def _true_ups(self) -> StripeTrueUp:
        return StripeTrueUp(
            database=self._invoices.database,
            store=self._invoices,
            gateway=lambda: self._gateway,
            clock=self.stripe.clock,
        )


@dataclass(frozen=True, kw_only=True)
class _Told(Reconciler):
    """A reconciler that keeps what it has found."""

    found: list[Reconciliation] = field(default_factory=list)

    def reconcile(self, day: date, *, run_id: str) -> Reconciliation:
        """Compare and keep, as a reconciler does; see there."""
        self.found.append(super().reconcile(day, run_id=run_id))
        return self.found[-1]


@contextmanager
def month_at_stripe(ready: Pipeline, folder: Path) -> Iterator[StripeMonth]:
    """Yield the month, while the stand-in runs; what it holds is kept in `folder`."""
    with serving_demo_stripe(folder) as stripe:
        yield StripeMonth(ready=ready, stripe=stripe)


def _became(one: TrueUpOutcome) -> str:
    if one.outcome is Outcome.RIGHT:
        return f"the draft of {one.account_id} is right, and let go"
    problem = shorten(one.problem or one.outcome, _LONGEST_PROBLEM, placeholder=" …")
    return f"the draft of {one.account_id} is refused, and kept: {problem}"


def _line_text(line: InvoiceItem) -> str:
    more = line.quantity_text if line.kind in (ItemKind.USAGE, ItemKind.CORRECTION) else line.reason
    return f"{line.description} ({more})" if more else line.description


def _run_id() -> str:
    return f"demo {uuid4()}"
