"""Find what keeps invoices from going where the catalog sends them: `invoice_with`, `stripe_customer`, `stripe_subscription`. Pure.

Not here: the shape of these fields (tables), what is known of them at Stripe itself.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import combinations

from billing_pipeline.catalog.entries import Account, Kind, Subscription
from billing_pipeline.catalog.files import FILES, Finding
from billing_pipeline.periods import Anchored, Window

_OPEN = datetime.max.replace(tzinfo=UTC)


def link_findings(accounts: Mapping[str, Account], subscriptions: Mapping[str, Subscription]) -> Iterator[Finding]:
    """Yield what is wrong with where invoices go."""
    yield from _shared_customers(accounts)
    for subscription in subscriptions.values():
        if subscription.invoice_with is not None:
            yield from _host_findings(subscription, subscriptions.get(subscription.invoice_with))
    yield from _shared_subscriptions(subscriptions)


def _shared_customers(accounts: Mapping[str, Account]) -> Iterator[Finding]:
    by_customer: dict[str, list[str]] = defaultdict(list)
    for account in accounts.values():
        if account.stripe_customer is not None:
            by_customer[account.stripe_customer].append(account.account_id)
    for customer, account_ids in by_customer.items():
        for account_id in account_ids[1:]:
            message = f"{customer!r} is that of account {account_ids[0]!r} already: a customer pays for one account"
            yield Finding(file=FILES[Kind.ACCOUNT], entry=account_id, field="stripe_customer", message=message)


def _host_findings(subscription: Subscription, host: Subscription | None) -> Iterator[Finding]:
    def finding(field: str, message: str) -> Finding:
        return Finding(file=FILES[Kind.SUBSCRIPTION], entry=subscription.subscription_id, field=field, message=message)

    if host is None or host.account_id != subscription.account_id:
        yield finding("invoice_with", f"{subscription.invoice_with!r} is not a subscription of the same account")
        return
    if host is subscription or host.invoice_with is not None:
        yield finding("invoice_with", f"{host.subscription_id!r} has no invoices of its own: name one that has")
        return
    together = _both(host, subscription)
    if _anchors(host, together) != _anchors(subscription, together):
        yield finding("invoice_with", f"{host.subscription_id!r} has other billing periods: give both one anchor")
    if host.starts_at > subscription.starts_at or (host.ends_at or _OPEN) < (subscription.ends_at or _OPEN):
        message = f"{host.subscription_id!r} is not in force all the time: these periods would have no invoice"
        yield finding("invoice_with", message)
    if subscription.stripe_subscription is not None:
        message = f"its lines stand on the invoices of {host.subscription_id!r}: give the link there"
        yield finding("stripe_subscription", message)


def _both(one: Subscription, other: Subscription) -> Window | None:
    """Return the time in which both are in force."""
    start, end = max(one.starts_at, other.starts_at), min(one.ends_at or _OPEN, other.ends_at or _OPEN)
    return Window(start, end) if start < end else None


def _anchors(subscription: Subscription, window: Window | None) -> list[Anchored]:
    """Return the anchors of a subscription in a window."""
    parts = ((one.anchor, window and window.overlap(one.starts_at, one.ends_at)) for one in subscription.anchored)
    return [Anchored(part.start, part.end, anchor) for anchor, part in parts if part is not None]


def _shared_subscriptions(subscriptions: Mapping[str, Subscription]) -> Iterator[Finding]:
    by_link: dict[str, list[Subscription]] = defaultdict(list)
    for subscription in subscriptions.values():
        if subscription.stripe_subscription is not None:
            by_link[subscription.stripe_subscription].append(subscription)
    for link, linked in by_link.items():
        for one, other in combinations(linked, 2):
            if one.starts_at < (other.ends_at or _OPEN) and other.starts_at < (one.ends_at or _OPEN):
                message = (
                    f'{link!r} is that of {one.subscription_id!r} at the same time: write invoice_with = "'
                    f'{one.subscription_id}" instead'
                )
                yield Finding(
                    file=FILES[Kind.SUBSCRIPTION],
                    entry=other.subscription_id,
                    field="stripe_subscription",
                    message=message,
                )
