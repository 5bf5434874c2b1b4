"""The mirror of an installation, put together: settings and database -> feed, applier, listing, reads, over one gateway.

Opens nothing until it is used; one gateway serves all parts of a process, so that they share its pace. Not here: any of the
work, and when it is done (assets).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from billing_pipeline.stripe_events.effects import RENEWAL_REASONS
from resources.database import Database
from resources.settings import Settings
from resources.stripe_mirror.apply import Applied, EventApplier
from resources.stripe_mirror.feed import V1, V2, EventFeed, Poll, due_relisting
from resources.stripe_mirror.mirror import StripeMirror
from resources.stripe_mirror.reads import StripeReads
from resources.stripe_mirror.relist import Relisted, Relister
from resources.stripe_mirror.settle import InvoiceLife, NoInvoiceLife, Settler


def utc_now() -> datetime:
    """Return the wall clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What a run has done: the listing of everything, where it was due, and the events applied."""

    relisted: Relisted | None
    applied: Applied


@dataclass(frozen=True, kw_only=True)
class StripeFollowing:
    """The mirror of one installation. `open_reads` makes what asks Stripe, once; None: there is no key.

    `feeds`: the v2 feed has reports on meter events and nothing else that is used here.
    """

    database: Database
    open_reads: Callable[[], StripeReads] | None
    clock: Callable[[], datetime] = utc_now
    life: InvoiceLife = field(default_factory=NoInvoiceLife)
    feeds: tuple[str, ...] = (V1, V2)
    renewal_reasons: frozenset[str] = RENEWAL_REASONS

    @property
    def is_configured(self) -> bool:
        """Return whether there is a key to ask Stripe with."""
        return self.open_reads is not None

    @cached_property
    def reads(self) -> StripeReads:
        """Return what asks Stripe.

        Raises:
            StripeKeyError: the key is missing or wrong.
        """
        # Without a key this says which variable is missing.
        return self.open_reads() if self.open_reads else _gateway_reads(Settings.from_environment({}))

    @property
    def settler(self) -> Settler:
        """Return what acts on mirrored invoices."""
        return Settler(database=self.database, clock=self.clock, life=self.life, renewal_reasons=self.renewal_reasons)

    @property
    def mirror(self) -> StripeMirror:
        """Return the reads, which do without Stripe where they must."""
        reads = self.reads if self.is_configured else None
        return StripeMirror(database=self.database, reads=reads, clock=self.clock)

    @property
    def applier(self) -> EventApplier:
        """Return what applies open events."""
        return EventApplier(database=self.database, reads=self.reads, clock=self.clock, settler=self.settler)

    def poll(self, *, may_go_on: Callable[[], bool]) -> tuple[Poll, ...]:
        """Read the feeds into the inbox.

        Raises:
            StripeAwayError: Stripe does not answer.
        """
        feed = EventFeed(database=self.database, reads=self.reads, clock=self.clock)
        return tuple(feed.poll(name, may_go_on=may_go_on) for name in self.feeds)

    def is_due(self) -> bool:
        """Return whether a run has something to do: events, invoices to settle, or a listing of everything."""
        with self.database.reading() as connection:
            if due_relisting(connection) is not None:
                return True
        return self.applier.is_due()

    def follow(self, *, run_id: str, may_go_on: Callable[[], bool] = lambda: True) -> Followed:
        """List everything where that is due, and apply what is open.

        Raises:
            StripeAwayError: Stripe does not answer; what is left is done by a later run.
        """
        with self.database.reading() as connection:
            relisting = due_relisting(connection)
        relisted = None
        if relisting is not None:
            relister = Relister(database=self.database, reads=self.reads, clock=self.clock, settler=self.settler)
            relisted = relister.relist(relisting)
        return Followed(relisted=relisted, applied=self.applier.apply_open(run_id=run_id, may_go_on=may_go_on))


def stripe_following(
    settings: Settings,
    database: Database,
    *,
    life: InvoiceLife | None = None,
    renewal_reasons: frozenset[str] = RENEWAL_REASONS,
) -> StripeFollowing:
    """Return the mirror of an installation. Opens nothing."""
    return StripeFollowing(
        database=database,
        open_reads=(lambda: _gateway_reads(settings)) if settings.stripe_api_key else None,
        life=life or NoInvoiceLife(),
        renewal_reasons=renewal_reasons,
    )


def _gateway_reads(settings: Settings) -> StripeReads:
    # The SDK takes long to import: commands that do not ask Stripe do without.
    from resources.stripe_api.gateway import open_gateway
    from resources.stripe_mirror.gateway_reads import GatewayReads

    return GatewayReads(open_gateway(settings, read_only=True))
