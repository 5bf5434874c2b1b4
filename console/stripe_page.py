"""Print what Stripe holds of an account, how old that is, and how far Stripe's events are read. Let dead events be tried again.

Figures come from the mirror; amounts are Stripe's own minor units, shown in major ones. Not here: asking Stripe
(resources/stripe_mirror).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from rich.console import Console
from rich.markup import escape

from billing_pipeline.amounts import Money
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.stripe_amounts import stripe_digits
from billing_pipeline.stripe_events.envelope import ObjectKind
from console.screen import count, notes, page, table
from resources.catalog_store import current_catalog
from resources.database import Database
from resources.reconciliation.standings import account_standings
from resources.runtime import running
from resources.settings import Settings
from resources.stripe_mirror import inbox
from resources.stripe_mirror.feed import feed_states
from resources.stripe_mirror.following import StripeFollowing, stripe_following
from resources.stripe_mirror.links import CustomerLink, stripe_links
from resources.stripe_mirror.mirror import CustomerAtStripe


class NotLinkedError(BillingError):
    """Nobody says which customer at Stripe pays for an account."""


def show_stripe(settings: Settings, account_id: str, *, now: datetime, ask: bool) -> None:
    """Print what Stripe holds of the account; unless `ask`, what is known of it without asking.

    Raises:
        NotLinkedError: the account has no customer at Stripe, or is none.
    """
    with running(settings) as runtime:
        following = stripe_following(settings, runtime.database)
        print_stripe(page(), following, account_id, now=now, ask=ask)


def print_stripe(console: Console, following: StripeFollowing, account_id: str, *, now: datetime, ask: bool) -> None:
    """Print the account on `console`; raises as `show_stripe`."""
    link = _link(following.database, account_id)
    mirror = replace(following.mirror, clock=lambda: now)
    found = mirror.customer(link.customer_id) if ask else mirror.known(link.customer_id)
    console.print(f"[bold]{escape(account_id)} at Stripe: {escape(link.customer_id)}[/]{_customer(found)}")
    _print_standing(console, following.database, account_id, now)
    for kind, freshness in found.freshness.items():
        age = "never" if freshness.fetched_at is None else f"{_age(now, freshness.fetched_at)} ago"
        console.print(f"  {_plural(kind)} listed {age}", highlight=False)
        if freshness.problem is not None:
            console.print(f"    [yellow]not since:[/] {escape(freshness.problem)}")
    _print_subscriptions(console, found, now)
    _print_invoices(console, found, now)


def show_events(settings: Settings, *, limit: int) -> None:
    """Print how far each feed is read, and the events that are open or dead."""
    with running(settings) as runtime:
        print_events(page(), runtime.database, limit=limit)


def print_events(console: Console, database: Database, *, limit: int) -> None:
    """Print the same on `console`."""
    with database.reading() as connection:
        states, counts = feed_states(connection), inbox.counts(connection)
        rows = connection.execute(
            """
            select event_id, event_type, object_id, created_at, received_from, state, attempts, problem
            from stripe.event_work
            join stripe.event using (event_id)
            where state <> 'applied'
            order by state, created_at, event_id
            limit %s
            """,
            [limit],
        ).fetchall()
    for state in states:
        until = f"{state.complete_until:%Y-%m-%d %H:%M:%S} UTC" if state.complete_until else "not yet once"
        console.print(f"Feed {state.feed}: complete until {until}")
        for problem in (state.problem, state.relist_reason and f"everything is to be listed: {state.relist_reason}"):
            if problem:
                console.print(f"  [yellow]{escape(problem)}[/]")
    console.print(f"{count(counts.applied)} events applied, {count(counts.open)} open, {count(counts.dead)} dead")
    if not rows:
        return
    shown = table("Not applied", "event", "type", "object", "made (UTC)", "by", "state", "tries", "problem")
    for event_id, event_type, object_id, created_at, by, state, attempts, problem in rows:
        cells = (event_id, event_type, object_id, f"{created_at:%Y-%m-%d %H:%M:%S}", by, state, str(attempts))
        shown.add_row(*map(escape, cells), escape(problem or ""))
    console.print(shown)


def retry_events(settings: Settings, event_ids: Sequence[str], *, now: datetime) -> None:
    """Let events that are dead, or wait, be tried again by the next run.

    Raises:
        EventUnknownError: one of them is not in the inbox.
    """
    with running(settings) as runtime, runtime.database.transaction() as connection:
        reopened = inbox.reopen(connection, event_ids, now=now)
    notes().print(f"{count(reopened)} events are open again; the next run of apply_stripe_events takes them.")


def _link(database: Database, account_id: str) -> CustomerLink:
    with database.reading() as connection:
        links = stripe_links(connection, accounts=[account_id])
    link = links.customers.get(account_id)
    if link is None:
        raise NotLinkedError(
            f"account {account_id!r} has no customer at Stripe" + "".join(f"; {one}" for one in links.findings),
            bill="it is billed here and shown here; nothing of it is at Stripe",
            fix="set stripe_customer in accounts.toml, or metadata bp_account on the customer at Stripe, and read the events",
        )
    return link


def _print_standing(console: Console, database: Database, account_id: str, now: datetime) -> None:
    """Print what the account is to be charged by now, and whether Stripe was seen to hold it, or since when not."""
    with database.reading() as connection:
        totals = connection.execute(
            """
            select currency, sum(total_minor)::bigint from invoicing.draft_invoice
            where account_id = %s
            group by currency
            order by currency
            """,
            [account_id],
        ).fetchall()
        standing = account_standings(
            connection, current_catalog(connection), stripe_links(connection, accounts=[account_id]), began_at=now
        ).get(account_id)
    here = ", ".join(str(Money(total, currency)) for currency, total in totals) or "nothing"
    console.print(f"  open invoices here: {here}")
    if standing is None or standing.synced_at is None:
        console.print("  [yellow]never synced[/]")
    elif standing.is_behind:
        since = standing.behind_since or standing.synced_at
        console.print(f"  [yellow]not synced since {since:%Y-%m-%d %H:%M} UTC[/] ({_age(now, since)})")
        if standing.problem is not None:
            console.print(f"    {escape(standing.problem)}")
    else:
        console.print(f"  in step with Stripe since {standing.synced_at:%Y-%m-%d %H:%M} UTC")


def _customer(found: CustomerAtStripe) -> str:
    if found.customer is None:
        return ", not fetched yet"
    facts = [found.customer.currency or "no currency yet"]
    if found.customer.is_deleted:
        facts = ["[red]deleted[/]"]
    elif found.customer.balance_stripe_minor and found.customer.currency:
        facts.append(f"balance {_money(found.customer.balance_stripe_minor, found.customer.currency)}")
    if found.customer.is_delinquent:
        facts.append("[yellow]delinquent[/]")
    return ", " + ", ".join(facts)


def _print_subscriptions(console: Console, found: CustomerAtStripe, now: datetime) -> None:
    if not found.subscriptions:
        return
    shown = table("Subscriptions", "subscription", "ours", "status", "period (UTC)", "prices", "age")
    for one in found.subscriptions:
        period = (
            f"{one.period_start:%Y-%m-%d} to {one.period_end:%Y-%m-%d}" if one.period_start and one.period_end else "-"
        )
        cells = (one.subscription_id, one.our_id or "-", one.status, period, ", ".join(one.price_ids))
        shown.add_row(*map(escape, cells), _age(now, one.fetched_at))
    console.print(shown)


def _print_invoices(console: Console, found: CustomerAtStripe, now: datetime) -> None:
    if not found.invoices:
        console.print("No invoice.")
        return
    numbers = ("lines", "ours", "total", "paid", "left")
    shown = table("Invoices", "invoice", "made (UTC)", "why", "status", *numbers, "final at", "age", numbers=numbers)
    for one in found.invoices:
        invoice = one.invoice
        final_at = invoice.finalized_at or invoice.automatically_finalizes_at
        shown.add_row(
            escape(invoice.invoice_id),
            f"{invoice.created_at:%Y-%m-%d %H:%M}",
            escape(invoice.billing_reason),
            invoice.status.value,
            count(one.line_count),
            count(one.our_line_count),
            _money(invoice.total_stripe_minor, invoice.currency),
            _money(invoice.amount_paid_stripe_minor, invoice.currency),
            _money(invoice.amount_remaining_stripe_minor, invoice.currency),
            f"{final_at:%Y-%m-%d %H:%M}" if final_at else "-",
            _age(now, one.fetched_at),
        )
    console.print(shown)


def _money(stripe_minor: int, currency: str) -> str:
    digits = stripe_digits(currency)
    return f"{Decimal(stripe_minor).scaleb(-digits):,.{digits}f} {currency}"


def _plural(kind: ObjectKind) -> str:
    return {ObjectKind.CUSTOMER: "customer", ObjectKind.SUBSCRIPTION: "subscriptions"}.get(kind, "invoices")


def _age(now: datetime, at: datetime) -> str:
    """Return how long ago something was, in the largest unit that makes sense."""
    seconds = max(0, int((now - at).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
