"""Say which object of Stripe's stands for which account and subscription of ours, as last fetched.

The catalog's word counts (`stripe_customer` of an account, `stripe_subscription` of a subscription); where it says nothing, the
metadata of Stripe's object (`bp_account`, `bp_subscription`). Two objects that claim to be one of ours are no link but a
finding: nothing is guessed about who pays. Not here: the mirror's rows (rows).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import psycopg

from billing_pipeline.catalog import Catalog
from billing_pipeline.periods import Window
from resources.catalog_store import CatalogNotLoadedError, current_catalog

ENDED = frozenset({"canceled", "incomplete_expired", "deleted"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerLink:
    """The customer that pays for an account. `currency` None: Stripe has not locked one yet; `fetched_at` None: not seen yet."""

    account_id: str
    customer_id: str
    currency: str | None
    is_deleted: bool
    fetched_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemLink:
    """A price on a linked subscription, with the billing period that it is in."""

    item_id: str
    price_id: str
    is_metered: bool
    period: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionLink:
    """The subscription at Stripe that stands for one of ours."""

    subscription_id: str
    account_id: str
    stripe_subscription_id: str
    customer_id: str
    status: str
    currency: str
    items: tuple[ItemLink, ...]
    fetched_at: datetime

    @property
    def period(self) -> Window | None:
        """Return the billing period that its items are in; None without items, or when they are in different ones."""
        periods = {item.period for item in self.items}
        return periods.pop() if len(periods) == 1 else None

    @property
    def is_ended(self) -> bool:
        """Return whether it makes no invoices any more."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeLinks:
    """Links by our ids, and what stands in the way of others."""

    customers: Mapping[str, CustomerLink] = field(default_factory=dict)
    subscriptions: Mapping[str, SubscriptionLink] = field(default_factory=dict)
    findings: tuple[str, ...] = ()

    def account_of(self, customer_id: str) -> str | None:
        """Return the account that a customer pays for."""
        return next((link.account_id for link in self.customers.values() if link.customer_id == customer_id), None)


def stripe_links(connection: psycopg.Connection, *, accounts: Sequence[str] | None = None) -> StripeLinks:
    """Return the links of all accounts of the current catalog, or of `accounts`."""
    try:
        catalog = current_catalog(connection)
    except CatalogNotLoadedError:
        return StripeLinks()
    wanted = set(catalog.accounts if accounts is None else accounts)
    customers, doubts = _customers(connection, catalog, wanted)
    subscriptions, more = _subscriptions(connection, catalog, customers)
    return StripeLinks(customers=customers, subscriptions=subscriptions, findings=(*doubts, *more))


def _customers(
    connection: psycopg.Connection, catalog: Catalog, wanted: set[str]
) -> tuple[dict[str, CustomerLink], list[str]]:
    rows = connection.execute(
        "select customer_id, currency, is_deleted, fetched_at, metadata ->> 'bp_account' from stripe.customer order by 1"
    ).fetchall()
    seen = {row[0]: row for row in rows}
    claims: dict[str, list[str]] = defaultdict(list)
    for customer_id, _, is_deleted, _, account_id in rows:
        if account_id is not None and not is_deleted:
            claims[account_id].append(customer_id)
    named = {
        account_id: customer_id
        for account_id, account in catalog.accounts.items()
        if (customer_id := getattr(account, "stripe_customer", None))
    }
    taken: dict[str, str] = {customer_id: account_id for account_id, customer_id in named.items()}
    links, findings = dict[str, CustomerLink](), list[str]()
    for account_id in sorted(wanted & set(catalog.accounts)):
        found = _chosen(account_id, named.get(account_id), claims[account_id], taken, findings, "customers", "account")
        if found is None:
            continue
        row = seen.get(found, (found, None, False, None, None))
        links[account_id] = CustomerLink(
            account_id=account_id, customer_id=found, currency=row[1], is_deleted=row[2], fetched_at=row[3]
        )
    return links, findings


def _chosen(
    our_id: str,
    named: str | None,
    claims: Sequence[str],
    taken: Mapping[str, str],
    findings: list[str],
    what: str,
    whose: str,
) -> str | None:
    """Return the catalog's word, or else the one object that claims to be ours and is nobody else's by the catalog's word."""
    if named is not None:
        return named
    free = [claimed for claimed in claims if taken.get(claimed, our_id) == our_id]
    if len(free) > 1:
        findings.append(
            f"{what} {', '.join(free)} all claim to be {whose} {our_id} (metadata bp_{whose}): none of them is taken; name the "
            f"right one in the catalog, or take the metadata off the others"
        )
        return None
    return free[0] if free else None


def _subscriptions(
    connection: psycopg.Connection, catalog: Catalog, customers: Mapping[str, CustomerLink]
) -> tuple[dict[str, SubscriptionLink], list[str]]:
    rows = connection.execute(
        """
        select subscription_id, customer_id, status, currency, fetched_at, metadata ->> 'bp_subscription'
        from stripe.subscription
        order by subscription_id
        """
    ).fetchall()
    seen = {row[0]: row for row in rows}
    ours = {
        subscription_id: subscription
        for subscription_id, subscription in catalog.subscriptions.items()
        if subscription.account_id in customers
    }
    claims: dict[str, list[str]] = defaultdict(list)
    for stripe_id, customer_id, status, _, _, claimed in rows:
        subscription = ours.get(claimed)
        if subscription and customers[subscription.account_id].customer_id == customer_id and status not in ENDED:
            claims[claimed].append(stripe_id)
    named = {
        subscription_id: stripe_id
        for subscription_id, subscription in ours.items()
        if (stripe_id := getattr(subscription, "stripe_subscription", None))
    }
    taken: dict[str, str] = {stripe_id: subscription_id for subscription_id, stripe_id in named.items()}
    items = _items(connection)
    links, findings = dict[str, SubscriptionLink](), list[str]()
    for subscription_id, subscription in sorted(ours.items()):
        found = _chosen(
            subscription_id,
            named.get(subscription_id),
            claims[subscription_id] or _ended_claims(rows, subscription_id),
            taken,
            findings,
            "subscriptions",
            "subscription",
        )
        row = seen.get(found) if found else None
        if row is None:
            if found:
                findings.append(f"subscription {found} of {subscription_id} was not seen at Stripe yet")
            continue
        if row[1] != customers[subscription.account_id].customer_id:
            findings.append(
                f"subscription {found} of {subscription_id} belongs to customer {row[1]}, and account "
                f"{subscription.account_id} to {customers[subscription.account_id].customer_id}: it is not taken"
            )
            continue
        links[subscription_id] = SubscriptionLink(
            subscription_id=subscription_id,
            account_id=subscription.account_id,
            stripe_subscription_id=row[0],
            customer_id=row[1],
            status=row[2],
            currency=row[3],
            items=tuple(items.get(row[0], ())),
            fetched_at=row[4],
        )
    return links, findings


def _ended_claims(rows: Iterable[tuple[object, ...]], subscription_id: str) -> list[str]:
    """Return the newest ended subscription that claims to be ours: its last invoice may still be open."""
    ended = [str(row[0]) for row in rows if row[5] == subscription_id and row[2] in ENDED]
    return ended[-1:]


def _items(connection: psycopg.Connection) -> Mapping[str, list[ItemLink]]:
    found: dict[str, list[ItemLink]] = defaultdict(list)
    rows = connection.execute(
        """
        select subscription_id, item_id, price_id, is_metered, current_period_start, current_period_end
        from stripe.subscription_item
        order by subscription_id, item_id
        """
    )
    for subscription_id, item_id, price_id, is_metered, start, end in rows:
        if end > start:
            found[subscription_id].append(
                ItemLink(item_id=item_id, price_id=price_id, is_metered=is_metered, period=Window(start, end))
            )
    return found
