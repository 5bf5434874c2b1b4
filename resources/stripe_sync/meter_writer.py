"""Tell Stripe's meters the running totals of a customer, under the customer's lock: one event at a time, never an increment.

Before an event leaves, PostgreSQL knows its value and its time, so that the next one is newer whatever becomes of this one. An
event whose answer was lost is sent again as it is, under its key and its identifier. Stripe counts later than it answers: a
summary confirms, within a deadline; what is not confirmed by then is told to people, and never sent again for that. Not here: the
rules of events (meter_events), totals (meter_totals).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import psycopg

from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.items import CompiledInvoice
from billing_pipeline.periods import Window
from billing_pipeline.stripe_sync.meter_events import MeterEvent, MeterTotal, SentTotal, next_event, summary_window
from billing_pipeline.stripe_sync.policy import SyncPolicy
from resources.stripe_api.calls import Json, Operation, StripeCall
from resources.stripe_sync import sync_store
from resources.stripe_sync.accounts import StripeAccount
from resources.stripe_sync.intent_store import Write
from resources.stripe_sync.meter_totals import InvoiceTotal, meter_totals
from resources.stripe_sync.sync_store import FindingKind
from resources.stripe_sync.writer import Writer

if TYPE_CHECKING:
    from resources.stripe_api.gateway import StripeGateway

FORMULA = "last"
# Of an event that may not have been counted: no total says so.
_NO_VALUE = -1


class MeterUnusableError(BillingError):
    """A meter at Stripe that cannot take running totals."""


class MeterState(StrEnum):
    """Where the newest event of a period stands."""

    SENDING = "sending"
    SENT = "sent"
    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """The newest event of a customer's period on a meter, and until when it may be confirmed."""

    value: int
    event_at: datetime
    state: MeterState
    sent_at: datetime

    @property
    def as_last(self) -> SentTotal:
        """Return it as the rules of events see it: one that may not have left says nothing, and still has its time."""
        is_known = self.state is not MeterState.SENDING
        return SentTotal(value=self.value if is_known else _NO_VALUE, timestamp=int(self.event_at.timestamp()))


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterWriter:
    """Tells totals over one session; `meters` are Stripe's own, by event name, as `usable_meters` has them."""

    gateway: "StripeGateway"
    connection: psycopg.Connection
    policy: SyncPolicy
    meters: Mapping[str, Json | MeterUnusableError]

    def bring(
        self, account: StripeAccount, invoices: Sequence[CompiledInvoice], writer: Writer, *, again: bool = False
    ) -> tuple[str, ...]:
        """Tell what has changed, confirm what was told, and return, in words, what is not as it should be.

        `again`: tell those as well of which Stripe has reported that they do not count. The caller holds the customer.

        Raises:
            MeterRouteError, MeterValueError: nothing of the account was told.
            StripeUnavailableError, StripeDeniedError: see there.
        """
        totals = meter_totals(self.connection, account, invoices, self.policy.meters)
        if self.policy.meters:
            # Also of periods that are over here: what was left open is settled by nobody else.
            self._mark_sent(writer.settle_meter_events())
        problems = []
        for one in totals:
            problem = self._bring(account, one.total, writer, again=again)
            if problem is not None:
                problems.append(problem)
        return tuple(problems)

    def preview(
        self, account: StripeAccount, invoices: Sequence[CompiledInvoice], *, now: datetime
    ) -> tuple[Write, ...]:
        """Return the events that `bring` would send now, having written nothing.

        Raises:
            MeterRouteError, MeterValueError, MeterTooLateError, MeterUnusableError: why it would send none.
        """
        writes = []
        for one in meter_totals(self.connection, account, invoices, self.policy.meters):
            meter = self.meters.get(one.total.event_name) or _no_meter(one.total.event_name)
            if isinstance(meter, MeterUnusableError):
                raise meter
            told = self._told(one.total)
            event = next_event(one.total, None if told is None else told.as_last, now=now)
            if event is not None:
                writes.append(_write(event, one.total, meter))
        return tuple(writes)

    def why_kept(self, account: StripeAccount, invoice: CompiledInvoice) -> str | None:
        """Return why a draft with lines by meter is not to be final yet, None when Stripe was seen to count their totals."""
        for one in self._totals_of(account, invoice):
            told = self._told(one.total)
            if told is None and one.total.value == 0:
                continue
            if told is None or told.value != one.total.value or told.state is not MeterState.CONFIRMED:
                return f"meter {one.total.event_name} was not seen to count {one.total.value} yet"
        return None

    def why_nothing(self, account: StripeAccount, period: Window) -> str | None:
        """Return why a draft of a period that has no invoice here is not to be final yet: a meter was told a total of it."""
        rows = self.connection.execute(
            """
            select event_name, value from stripe.sync_meter
            where customer_id = %s and period_start = %s and period_end = %s and value <> 0
            order by event_name
            """,
            [account.customer_id, period.start, period.end],
        ).fetchall()
        told = ", ".join(f"meter {event_name} was told {value}" for event_name, value in rows)
        return f"{told}, and nothing of the period is to be charged here" if told else None

    def _totals_of(self, account: StripeAccount, invoice: CompiledInvoice) -> tuple[InvoiceTotal, ...]:
        return meter_totals(self.connection, account, [invoice], self.policy.meters)

    def _bring(self, account: StripeAccount, total: MeterTotal, writer: Writer, *, again: bool) -> str | None:
        meter = self.meters.get(total.event_name) or _no_meter(total.event_name)
        if isinstance(meter, MeterUnusableError):
            return self._refused(account, total, meter.what, writer)
        told = self._told(total)
        last = None if told is None else told.as_last
        if told is not None and again and told.state is MeterState.FAILED and last is not None:
            last = SentTotal(value=_NO_VALUE, timestamp=last.timestamp)
        try:
            event = next_event(total, last, now=writer.clock())
        except BillingError as error:
            return self._refused(account, total, error.what, writer)
        if event is not None:
            self._put(account, total, event, MeterState.SENDING, writer)
            writer.reached("meter_planned")
            refused = writer.send([_write(event, total, meter)])
            if refused:
                return self._refused(account, total, "; ".join(refused), writer)
            self._mark_sent(writer.confirm_meter_events())
            self._close(FindingKind.METER_REFUSED, total, writer)
            told = self._told(total)
        if told is None or told.state in (MeterState.CONFIRMED, MeterState.FAILED, MeterState.SENDING):
            return None
        return self._confirm(account, total, told, meter, writer)

    def _confirm(
        self, account: StripeAccount, total: MeterTotal, told: _Told, meter: Json, writer: Writer
    ) -> str | None:
        """Look whether Stripe counts it. Never a reason to send again."""
        first, end = summary_window(total.period, int(told.event_at.timestamp()))
        params = {"customer": total.customer_id, "start_time": first, "end_time": end}
        call = StripeCall(operation=Operation.METER_SUMMARIES_LIST, ids=(meter["id"],), params=params)
        seen = [Decimal(one["aggregated_value"]) for one in self.gateway.pages(call)]
        if seen and seen[0] == told.value:
            self._set_state(total, MeterState.CONFIRMED, writer.clock())
            self._close(FindingKind.METER_UNCONFIRMED, total, writer)
            self._close_errors(account, writer)
            return None
        if writer.clock() < told.sent_at + self.policy.confirm_meters_within:
            return None
        self._set_state(total, MeterState.UNCONFIRMED, None)
        counted = seen[0] if seen else "nothing"
        return self._finding(
            FindingKind.METER_UNCONFIRMED,
            account,
            total,
            f"meter {total.event_name} was told {told.value} at {told.sent_at:%Y-%m-%d %H:%M} UTC and counts {counted}",
            writer.clock(),
        )

    def _close_errors(self, account: StripeAccount, writer: Writer) -> None:
        """Close what was reported of the account's events, once Stripe counts all of its totals again."""
        with self.connection.transaction():
            row = self.connection.execute(
                "select exists (select from stripe.sync_meter where account_id = %s and state = 'failed')",
                [account.account_id],
            ).fetchone()
            if row is not None and not row[0]:
                sync_store.close_findings_of_account(
                    self.connection, FindingKind.METER_ERROR, account.account_id, now=writer.clock()
                )

    def _told(self, total: MeterTotal) -> _Told | None:
        row = self.connection.execute(
            """
            select value, event_at, state, sent_at from stripe.sync_meter
            where customer_id = %s and event_name = %s and period_start = %s
            """,
            [total.customer_id, total.event_name, total.period.start],
        ).fetchone()
        if row is None:
            return None
        return _Told(value=row[0], event_at=row[1], state=MeterState(row[2]), sent_at=row[3])

    def _put(
        self, account: StripeAccount, total: MeterTotal, event: MeterEvent, state: MeterState, writer: Writer
    ) -> None:
        with self.connection.transaction():
            self.connection.execute(
                """
                insert into stripe.sync_meter (
                    customer_id, event_name, period_start, period_end, account_id, value, event_at, identifier, state, sent_at,
                    run_id
                )
                values (
                    %(customer)s, %(event)s, %(start)s, %(end)s, %(account)s, %(value)s, %(at)s, %(identifier)s, %(state)s,
                    %(now)s, %(run)s
                )
                on conflict (customer_id, event_name, period_start) do update set
                    period_end = excluded.period_end, account_id = excluded.account_id, value = excluded.value,
                    event_at = excluded.event_at, identifier = excluded.identifier, state = excluded.state,
                    sent_at = excluded.sent_at, confirmed_at = null, problem = null, run_id = excluded.run_id
                """,
                {
                    "customer": total.customer_id,
                    "event": total.event_name,
                    "start": total.period.start,
                    "end": total.period.end,
                    "account": account.account_id,
                    "value": event.value,
                    "at": datetime.fromtimestamp(event.timestamp, UTC),
                    "identifier": event.identifier,
                    "state": state,
                    "now": writer.clock(),
                    "run": writer.doer.run_id,
                },
            )

    def _set_state(self, total: MeterTotal, state: MeterState, confirmed_at: datetime | None) -> None:
        with self.connection.transaction():
            self.connection.execute(
                """
                update stripe.sync_meter set state = %s, confirmed_at = %s
                where customer_id = %s and event_name = %s and period_start = %s
                """,
                [state, confirmed_at, total.customer_id, total.event_name, total.period.start],
            )

    def _mark_sent(self, identifiers: Sequence[str]) -> None:
        """Write that Stripe has taken events: each is the newest of its period, or was followed by another."""
        with self.connection.transaction():
            self.connection.execute(
                "update stripe.sync_meter set state = 'sent' where identifier = any(%s) and state = 'sending'",
                [list(identifiers)],
            )

    def _refused(self, account: StripeAccount, total: MeterTotal, problem: str, writer: Writer) -> str:
        return self._finding(FindingKind.METER_REFUSED, account, total, problem, writer.clock())

    def _finding(
        self, kind: FindingKind, account: StripeAccount, total: MeterTotal, problem: str, now: datetime
    ) -> str:
        with self.connection.transaction():
            sync_store.open_finding(
                self.connection, kind, subject_of(total), problem, account_id=account.account_id, now=now
            )
        return problem

    def _close(self, kind: FindingKind, total: MeterTotal, writer: Writer) -> None:
        with self.connection.transaction():
            sync_store.close_finding(self.connection, kind, subject_of(total), now=writer.clock())


def subject_of(total: MeterTotal) -> str:
    """Return what findings about a customer's period on a meter are called."""
    return meter_subject(total.customer_id, total.event_name, total.period)


def meter_subject(customer_id: str, event_name: str, period: Window) -> str:
    """Return the same from its parts."""
    return f"{customer_id}|{event_name}|{period.start:%Y-%m-%d}"


def usable_meters(gateway: "StripeGateway", policy: SyncPolicy) -> Mapping[str, Json | MeterUnusableError]:
    """Return the active meters at Stripe that the policy names, by the name of their events; instead of one that cannot take
    running totals, why."""
    wanted = {route.event_name for route in policy.meters.values()}
    if not wanted:
        return {}
    found: dict[str, Json | MeterUnusableError] = {}
    for meter in gateway.pages(StripeCall(operation=Operation.METERS_LIST, params={"status": "active"})):
        name = meter["event_name"]
        if name in wanted:
            found[name] = _problem_of(meter) or meter
    return found


def _problem_of(meter: Json) -> MeterUnusableError | None:
    formula, window = meter["default_aggregation"]["formula"], meter.get("event_time_window")
    if formula == FORMULA and not window:
        return None
    what = f"has formula {formula!r}" if formula != FORMULA else f"counts whole windows of a {window} only"
    return MeterUnusableError(
        f"meter {meter['id']} of {meter['event_name']!r} {what}: running totals need formula 'last' and no event_time_window",
        bill="nothing is told to it: it would add up totals, or leave the last day out",
        fix="make another meter and a price on it; a meter cannot be changed",
    )


def _no_meter(event_name: str) -> MeterUnusableError:
    return MeterUnusableError(
        f"Stripe has no active meter with event_name {event_name!r}",
        bill="nothing is told of it, so nobody is charged for it",
        fix="make a meter with formula 'last' at Stripe, or correct event_name in catalog/stripe.toml",
    )


def _write(event: MeterEvent, total: MeterTotal, meter: Json) -> Write:
    payload: dict[str, Any] = {
        meter["customer_mapping"]["event_payload_key"]: event.customer_id,
        meter["value_settings"]["event_payload_key"]: str(event.value),
    }
    params = {
        "event_name": event.event_name,
        "identifier": event.identifier,
        "timestamp": event.timestamp,
        "payload": payload,
    }
    return Write(
        subject=event.identifier,
        call=StripeCall(operation=Operation.METER_EVENTS_CREATE, params=params),
        # Refused once, the same total is not sent again under another timestamp.
        meaning=f"{event.event_name}|{event.customer_id}|{total.period.start.isoformat()}|{event.value}",
    )
