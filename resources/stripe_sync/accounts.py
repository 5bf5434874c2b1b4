"""Which customer and subscriptions at Stripe stand for an account of ours: links of the mirror -> what the sync needs.

An account without a customer is never synced, and is told of where it has something to charge. Not here: finding the links
(resources/stripe_mirror/links).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from billing_pipeline.catalog import Catalog
from billing_pipeline.periods import Window
from resources.stripe_mirror.links import CustomerLink, StripeLinks


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeSubscription:
    """A subscription at Stripe, and the billing period that it is in; None where it is not known."""

    subscription_id: str
    period: Window | None = None
    is_ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeAccount:
    """The customer of an account. `currency` (ISO 4217): Stripe's lock on it, None where there is none yet or it is not known.
    `subscriptions`: by our subscription ids; `unseen_subscriptions`: ours that stand for some at Stripe that were not seen yet."""

    account_id: str
    customer_id: str
    currency: str | None = None
    is_deleted: bool = False
    subscriptions: Mapping[str, StripeSubscription] = field(default_factory=dict)
    unseen_subscriptions: frozenset[str] = frozenset()


def stripe_accounts(links: StripeLinks, catalog: Catalog) -> Mapping[str, StripeAccount]:
    """Return the accounts that have a customer at Stripe, by their ids."""
    return {account_id: _account(link, links, catalog) for account_id, link in links.customers.items()}


def _account(link: CustomerLink, links: StripeLinks, catalog: Catalog) -> StripeAccount:
    ours = [one.subscription_id for one in catalog.subscriptions_by_account.get(link.account_id, ())]
    named = {one for one in ours if catalog.subscriptions[one].stripe_subscription}
    return StripeAccount(
        account_id=link.account_id,
        customer_id=link.customer_id,
        currency=link.currency,
        is_deleted=link.is_deleted,
        subscriptions={
            one: StripeSubscription(
                subscription_id=links.subscriptions[one].stripe_subscription_id,
                period=links.subscriptions[one].period,
                is_ended=links.subscriptions[one].is_ended,
            )
            for one in ours
            if one in links.subscriptions
        },
        unseen_subscriptions=frozenset(named - set(links.subscriptions)),
    )
