"""What a person does about traffic and prepaid accounts: close a gap, replay stored usage, report a payment, sweep arrears.

Each call says what it did, what it means for the bill and what to run next. Not here: doing it (traffic_gaps,
traffic_reconcile, payment_store).
"""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from rich.markup import escape

from billing_pipeline.errors import BillingError
from billing_pipeline.prepaid import PaymentKind
from console.days import DayRange
from console.screen import count, page, table
from resources.payment_store import PaymentEvent, PaymentStore
from resources.runtime import running
from resources.settings import Settings
from resources.stores import open_stores
from resources.traffic_reconcile import reconcile

_HOUR = timedelta(hours=1)


class InstantUnreadableError(BillingError):
    """A text that is no instant."""


def close_gap(settings: Settings, source: str, start: str, end: str | None, *, actor: str, reason: str) -> None:
    """Close the open gaps of the source in the hours from `start` to `end` (UTC; one hour if None), for good.

    Raises:
        InstantUnreadableError: an instant cannot be read. NoOpenGapError: nothing is open there.
    """
    window_start = read_instant(start)
    window_end = window_start + _HOUR if end is None else read_instant(end)
    with running(settings) as runtime:
        closed = open_stores(settings, runtime.database).traffic.close_gap(
            source=source,
            window_start=window_start,
            window_end=window_end,
            actor=actor,
            reason=reason,
            now=datetime.now(UTC),
            run_id=str(uuid4()),
        )
    console = page()
    console.print(
        f"Closed: {count(len(closed.windows))} windows of {escape(source)}, {count(closed.missing_minutes)} minutes without "
        f"a snapshot, by {escape(actor)}."
    )
    console.print(
        "For the bill: counters are cumulative, so what flowed in these minutes is in the next reading, unless the node "
        "restarted in between; then it is lost."
    )
    console.print("Next: billing materialize")


def reconcile_traffic(settings: Settings, days: DayRange, *, sources: tuple[str, ...], actor: str, reason: str) -> None:
    """Compare stored traffic of the days with the raw samples, replace what differs, and print what was adjusted."""
    with running(settings) as runtime:
        done = reconcile(
            open_stores(settings, runtime.database).traffic_usage,
            days=days.days(),
            actor=actor,
            reason=reason,
            run_id=str(uuid4()),
            only_sources=sources or None,
        )
    numbers = ("minutes", "minutes adjusted", "hours adjusted")
    shown = table("Traffic replayed from its samples", "event day", *numbers, "left out because", numbers=numbers)
    for one in done:
        cells = (one.minutes, one.adjusted_minutes, one.adjusted_hours)
        shown.add_row(str(one.day), *map(count, cells), escape(one.left_out or ""))
    console = page()
    console.print(shown)
    if any(one.adjusted_hours or one.adjusted_minutes for one in done):
        console.print("Next: billing materialize billing/charges, which books what the adjustments change")
    elif done:
        console.print("Nothing differs: stored usage is what the samples say.")
    else:
        console.print("No traffic was collected on these days.")


def report_payment(
    settings: Settings,
    account_id: str,
    kind: str,
    *,
    event_id: str,
    at: str | None,
    billing_reason: str,
    invoice_id: str,
) -> None:
    """Keep a payment's outcome once, and print how the account stands.

    Raises:
        InstantUnreadableError: `at` cannot be read.
        PaymentAccountUnknownError: the catalog has no such account. PaymentEventConflictError: the id says something else.
    """
    now = datetime.now(UTC)
    event = PaymentEvent(
        event_id=event_id,
        account_id=account_id,
        kind=PaymentKind(kind),
        happened_at=now if at is None else read_instant(at),
        billing_reason=billing_reason,
        invoice_id=invoice_id,
    )
    with running(settings) as runtime:
        outcome = PaymentStore(runtime.database).record_payment_event(event, now=now)
    since = outcome.payments.arrears_since
    arrears = "not in arrears" if since is None else f"in arrears since {since:%Y-%m-%d %H:%M} UTC"
    known = "known already, nothing changed; " if outcome.is_duplicate else ""
    page().print(f"{known}{account_id}: {arrears}, {outcome.suspend_state}.", markup=False)


def sweep_arrears(settings: Settings) -> None:
    """Suspend accounts that are 14 days in arrears, make active who is no more, and print who changed."""
    with running(settings) as runtime:
        changes = PaymentStore(runtime.database).sweep_arrears(now=datetime.now(UTC))
    for one in changes:
        page().print(f"{one.account_id}: {one.suspend_state} ({one.cause})", markup=False)
    if not changes:
        page().print("Nobody's state changes.")


def read_instant(text: str) -> datetime:
    """Return an instant (aware, UTC) from ISO 8601; without a zone it is UTC.

    Raises:
        InstantUnreadableError: it is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InstantUnreadableError(
            f"{text!r} is not an instant.",
            bill="Nothing was changed.",
            fix="Write it as 2026-03-01T14:00, in UTC.",
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
