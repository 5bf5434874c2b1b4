"""`billing subscriptions [ACCOUNT]`: phases, where each is now, what comes next, and statements that wait. Not here: reading."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from rich.console import Console
from rich.markup import escape

from billing_pipeline.billing_schedule import scheduled_charges, subscription_periods
from billing_pipeline.catalog import Catalog, Phase, Subscription, Timing
from billing_pipeline.catalog.sourced import StatementFinding
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import Window
from console.near import did_you_mean
from console.screen import count, page, table
from console.subscription_notes import local_minute, plan_name, quantities_text
from resources.catalog_store import current_catalog
from resources.database import Database
from resources.runtime import running
from resources.settings import Settings
from resources.subscriptions.statements import read_findings, read_origins

# More would scroll the answer off the screen; an account shows all of its own.
_SHOWN = 50
_INSTANT = timedelta(microseconds=1)


class NoSubscriptionError(BillingError):
    """The account has no subscription, or is none."""


def show_subscriptions(settings: Settings, account_id: str | None, *, now: datetime) -> None:
    """Print the subscriptions of an account, or of all.

    Raises:
        CatalogNotLoadedError: there is no catalog.
        NoSubscriptionError: the account has none.
    """
    with running(settings) as runtime:
        print_subscriptions(page(), runtime.database, account_id, now=now)


def print_subscriptions(console: Console, database: Database, account_id: str | None, *, now: datetime) -> None:
    """Print them on `console`; raises as `show_subscriptions`."""
    with database.reading() as connection:
        catalog = current_catalog(connection)
        origins, findings = read_origins(connection), read_findings(connection)
    found = [one for one in catalog.subscriptions.values() if account_id in (None, one.account_id)]
    if account_id is not None and not found:
        raise _no_subscription(catalog, account_id)
    found.sort(key=lambda one: (one.account_id, one.starts_at, one.subscription_id))
    _print_phases(console, catalog, found[:_SHOWN] if account_id is None else found, origins)
    if account_id is None and len(found) > _SHOWN:
        console.print(f"and {count(len(found) - _SHOWN)} more: billing subscriptions ACCOUNT")
    if account_id is not None:
        for subscription in found:
            _print_next(console, catalog, subscription, now)
    _print_findings(console, findings)


def _print_phases(
    console: Console, catalog: Catalog, found: Sequence[Subscription], origins: Mapping[str, str]
) -> None:
    shown = table("Subscriptions, times in the account's zone", "account", "subscription", "from", "to", "plan", "status",
                  "quantities", "source")  # fmt: skip
    for subscription in found:
        zone = catalog.accounts[subscription.account_id].time_zone
        for number, phase in enumerate(subscription.phases):
            head = (subscription.account_id, subscription.subscription_id) if number == 0 else ("", "")
            shown.add_row(
                *map(escape, head),
                local_minute(phase.starts_at, zone),
                "open" if phase.ends_at is None else local_minute(phase.ends_at, zone),
                escape(plan_name(phase)),
                phase.status.value,
                escape(quantities_text(phase.quantities)),
                origins.get(subscription.subscription_id, "files") if number == 0 else "",
            )
    console.print(shown)


def _print_next(console: Console, catalog: Catalog, subscription: Subscription, now: datetime) -> None:
    """Print the period that `now` is in, the next instant at which something changes, and what falls due until then."""
    zone = catalog.accounts[subscription.account_id].time_zone
    name = escape(subscription.subscription_id)
    moment = Window(now, now + _INSTANT)
    current = next(subscription_periods(subscription, moment), None)
    if current is None:
        begun = now >= subscription.starts_at
        word, at = ("ended", subscription.ends_at) if begun else ("begins", subscription.starts_at)
        console.print(f"{name}: {word} at {local_minute(at or now, zone)}.")
        return
    period, phase = current
    window, end = period.window, _period_end(period.whole, subscription)
    console.print(
        f"{name}: {phase.status.value} in the period {local_minute(window.start, zone)} to {local_minute(end, zone)}; "
        f"next: {_next_text(subscription, phase, period.whole, zone)}."
    )
    due = sorted(
        {
            (charge.due_at, charge.price.price_id, charge.price.timing)
            for charge in scheduled_charges(catalog, subscription, Window(now, end + _INSTANT))
            if now < charge.due_at <= end
        }
    )
    for due_at, price_id, timing in due:
        how = "in advance" if timing is Timing.ADVANCE else "for the time before"
        console.print(f"  due {local_minute(due_at, zone)}: {escape(price_id)} ({how})")


def _period_end(whole: Window, subscription: Subscription) -> datetime:
    return whole.end if subscription.ends_at is None else min(whole.end, subscription.ends_at)


def _next_text(subscription: Subscription, phase: Phase, whole: Window, zone: str) -> str:
    ends = [(whole.end, "a new period")]
    if phase.ends_at is not None:
        is_end = phase.ends_at == subscription.ends_at
        after = None if is_end else subscription.phase_at(phase.ends_at)
        what = "the end" if after is None else f"{plan_name(after)}, {after.status.value}"
        ends.insert(0, (phase.ends_at, what))
    at, what = min(ends, key=lambda one: one[0])
    return f"{escape(what)} at {local_minute(at, zone)}"


def _print_findings(console: Console, findings: Sequence[StatementFinding]) -> None:
    if not findings:
        return
    shown = table("Statements that wait", "where it says so", "subscription", "why", "what to do")
    for finding in findings:
        shown.add_row(
            escape(finding.place or finding.source),
            escape(finding.subscription_id),
            escape(f"{finding.field}: {finding.message}"),
            escape(finding.fix),
        )
    console.print(shown)
    console.print(
        "For the bill: these say nothing yet; what was taken in before counts. Each load of the catalog looks again."
    )


def _no_subscription(catalog: Catalog, account_id: str) -> NoSubscriptionError:
    if account_id in catalog.accounts:
        return NoSubscriptionError(
            f"Account {account_id} has no subscription.",
            bill="Its usage is kept and reported, and nobody is charged for it.",
            fix="Add one to subscriptions.toml, or to catalog.subscription_statement, and load the catalog.",
        )
    return NoSubscriptionError(
        f"There is no account {account_id}. {did_you_mean(account_id, catalog.accounts)}",
        bill="Nothing is shown; nothing was changed.",
        fix="Take an id of accounts.toml; if it is new there, load the catalog.",
    )
