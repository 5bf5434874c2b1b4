"""List everything at Stripe that can still change, where the feed of events cannot say what did: first use, long gaps, doubts.

All customers and subscriptions, all invoices that are drafts or open, those made since the mirror was last whole, and whatever
the mirror holds as unsettled and no list shows any more (deleted, or settled meanwhile). Events of open invoices that were
lost are made good where Stripe's state still tells of them. Repeatable; killed anywhere, it is begun again. Not here: when
(feed).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice

from billing_pipeline.periods import as_utc
from billing_pipeline.stripe_events.envelope import ObjectKind
from billing_pipeline.stripe_events.objects import read_credit_note, read_customer
from resources.database import Database
from resources.stripe_mirror import feed, rows
from resources.stripe_mirror.apply import WRITTEN_AT_ONCE, write_fetched
from resources.stripe_mirror.feed import Relisting
from resources.stripe_mirror.fetching import fetch_object, whole_invoice, whole_subscription
from resources.stripe_mirror.inbox import StripeObject
from resources.stripe_mirror.reads import Document, StripeReads
from resources.stripe_mirror.rows import Fetched
from resources.stripe_mirror.settle import Settled, Settler
from resources.stripe_mirror.side_by_side import side_by_side


@dataclass(frozen=True, slots=True, kw_only=True)
class Relisted:
    """What a listing of everything brought. `changed`: objects that were newer than what the mirror held, or new to it."""

    reason: str
    listed: int
    changed: int
    missing: int
    unseen_failures: int
    settled: Settled


@dataclass(frozen=True, slots=True, kw_only=True)
class Relister:
    """Lists all objects of one Stripe account into one mirror."""

    database: Database
    reads: StripeReads
    clock: Callable[[], datetime]
    settler: Settler

    def relist(self, relisting: Relisting) -> Relisted:
        """List everything, settle it, and say that it is done.

        Raises:
            StripeAwayError: Stripe does not answer; the reason stands, and what was listed is kept.
        """
        begun_at = as_utc(self.reads.server_time())
        fetch = rows.begin_fetch(self.database, now=self.clock())
        listed, changed, seen = 0, 0, set[StripeObject]()
        contents = self._everything(relisting.since)
        while batch := list(islice(contents, WRITTEN_AT_ONCE)):
            changed += write_fetched(self.database, batch, fetch)
            listed += len(batch)
            seen.update(map(rows.subject_of, batch))
        missing = self._ask_for(subject for subject in self._unsettled() if subject not in seen)
        unseen = self.settler.report_unseen_failures(feed_from=begun_at - feed.KEPT_FOR)
        settled = self.settler.settle_all()
        with self.database.transaction() as connection:
            feed.relisted(connection, relisting, begun_at=begun_at)
        return Relisted(
            reason=relisting.reason,
            listed=listed,
            changed=changed,
            missing=missing,
            unseen_failures=unseen,
            settled=settled,
        )

    def _everything(self, since: datetime | None) -> Iterator[Fetched]:
        """Yield all objects that can have changed since `since`; None: everything that can still change."""
        yield from map(read_customer, self.reads.list_customers())
        for _, subscription in side_by_side(partial(whole_subscription, self.reads), self.reads.list_subscriptions()):
            yield subscription
        for _, invoice in side_by_side(partial(whole_invoice, self.reads), self._invoices(since)):
            yield invoice
        yield from map(read_credit_note, self.reads.list_credit_notes(created_from=since))

    def _invoices(self, since: datetime | None) -> Iterator[Document]:
        shown = set[str]()
        listings = [self.reads.list_invoices(status="draft"), self.reads.list_invoices(status="open")]
        if since is not None:
            listings.append(self.reads.list_invoices(created_from=since - feed.OVERLAP))
        for document in (document for listing in listings for document in listing):
            if str(document.get("id")) not in shown:
                shown.add(str(document.get("id")))
                yield document

    def _unsettled(self) -> Iterable[StripeObject]:
        """Return what the mirror holds as still changing: a list that does not show it means that it has changed."""
        with self.database.reading() as connection:
            found = connection.execute(
                """
                select 'invoice', invoice_id from stripe.invoice where status in ('draft', 'open', 'uncollectible')
                union all
                select 'subscription', subscription_id from stripe.subscription
                where status not in ('canceled', 'incomplete_expired', 'deleted')
                union all
                select 'customer', customer_id from stripe.customer where not is_deleted
                order by 1, 2
                """
            ).fetchall()
        return [StripeObject(ObjectKind(kind), object_id) for kind, object_id in found]

    def _ask_for(self, subjects: Iterable[StripeObject]) -> int:
        missing = 0
        numbered = ((subject, rows.begin_fetch(self.database, now=self.clock())) for subject in subjects)
        for (subject, fetch), content in side_by_side(lambda one: fetch_object(self.reads, one[0]), numbered):
            if content is None:
                write_fetched(self.database, [], fetch, deleted=[subject])
            else:
                write_fetched(self.database, [content], fetch)
            missing += 1
        return missing
