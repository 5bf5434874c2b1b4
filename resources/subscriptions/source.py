"""What a source of subscriptions offers, and the sources that there are. Not here: taking statements in (catalog_store)."""

from collections.abc import Sequence
from typing import Protocol

import psycopg

from billing_pipeline.catalog.sourced import SourcedSubscription
from resources.subscriptions.statements import StatementTable
from resources.subscriptions.stripe_source import StripeSubscriptions


class SubscriptionSource(Protocol):
    """Somebody else than the catalog's files who says which subscriptions there are."""

    @property
    def name(self) -> str:
        """Return what findings and `catalog.subscription_origin` call it."""

    def read(self, connection: psycopg.Connection) -> Sequence[SourcedSubscription]:
        """Return all that it says of every subscription, as known to this transaction, which may write what it observes."""


# Of two that have the same subscription the first counts; the catalog's files come before all of them.
SOURCES: tuple[SubscriptionSource, ...] = (StatementTable(), StripeSubscriptions())
