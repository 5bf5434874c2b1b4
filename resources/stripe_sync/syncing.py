"""All that is sent to Stripe by an installation, put together over one gateway: the sync, the true-up, credit notes.

Opens nothing until it is used: an installation without a key compiles invoices, shows them, and sends nothing. With a stand-in
(BILLING_STRIPE_URL) time is the stand-in's. Not here: any of the work.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from billing_pipeline.stripe_sync.policy import SyncPolicy
from resources.database import Database
from resources.invoicing.invoice_store import InvoiceStore
from resources.settings import Settings
from resources.stripe_sync.credit_notes import StripeCreditNotes
from resources.stripe_sync.sync_run import StripeSync
from resources.stripe_sync.true_up_run import StripeTrueUp

if TYPE_CHECKING:
    from resources.stripe_api.gateway import StripeGateway


@dataclass(frozen=True, kw_only=True)
class StripeSyncing:
    """What sends to Stripe. `open_gateway` is called once, at the first call."""

    database: Database
    store: InvoiceStore
    policy: SyncPolicy
    open_gateway: Callable[[], "StripeGateway"]
    is_configured: bool
    has_stand_in: bool = False

    @cached_property
    def gateway(self) -> "StripeGateway":
        """Return the gateway.

        Raises:
            StripeKeyError, PaceError: a variable is missing or wrong.
        """
        return self.open_gateway()

    def clock(self) -> datetime:
        """Return now: of the stand-in where there is one, by which its keys and drafts age."""
        if not self.has_stand_in:
            return datetime.now(UTC)
        next(self.gateway.list_events(limit=1), None)
        return self.gateway.server_time or datetime.now(UTC)

    @property
    def sync(self) -> StripeSync:
        """Return the sync."""
        return StripeSync(
            database=self.database,
            store=self.store,
            gateway=lambda: self.gateway,
            policy=self.policy,
            clock=self.clock,
        )

    @property
    def true_up(self) -> StripeTrueUp:
        """Return the true-up."""
        return StripeTrueUp(
            database=self.database,
            store=self.store,
            gateway=lambda: self.gateway,
            policy=self.policy,
            clock=self.clock,
        )

    @property
    def credit_notes(self) -> StripeCreditNotes:
        """Return what brings credit notes there."""
        return StripeCreditNotes(
            database=self.database, gateway=lambda: self.gateway, policy=self.policy, clock=self.clock
        )


def stripe_syncing(
    settings: Settings, database: Database, store: InvoiceStore, policy: SyncPolicy, *, read_only: bool = False
) -> StripeSyncing:
    """Return what sends to Stripe for an installation. Opens nothing."""

    def open_it() -> "StripeGateway":
        # The SDK takes long to import: commands that send nothing do without.
        from resources.stripe_api.gateway import open_gateway

        return open_gateway(settings, read_only=read_only)

    return StripeSyncing(
        database=database,
        store=store,
        policy=policy,
        open_gateway=open_it,
        is_configured=bool(settings.stripe_api_key),
        has_stand_in=settings.stripe_url is not None,
    )
