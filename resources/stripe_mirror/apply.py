"""Apply open events: fetch each object once that they are about, write it into the mirror, mark the events; then settle.

A number is taken, the object fetched, and one transaction writes it and marks its events. Killed anywhere, what is not marked
is open still, and what is written and not settled is found by its number: everything is done again to the same end. One object
that fails waits by itself; when Stripe is away all do, and no attempt is counted. Not here: reading events (feed), listing
everything (relist), what invoices ask for (settle).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

from billing_pipeline.errors import BillingError
from billing_pipeline.stripe_events.envelope import ObjectKind
from billing_pipeline.stripe_events.objects import MeterReport, read_customer, read_meter_report
from resources.database import Database
from resources.stripe_mirror import inbox, rows
from resources.stripe_mirror.fetching import fetch_object, whole_invoice, whole_subscription
from resources.stripe_mirror.inbox import OpenObject, StripeObject
from resources.stripe_mirror.reads import Document, StripeAwayError, StripeReads
from resources.stripe_mirror.rows import Fetch, Fetched
from resources.stripe_mirror.settle import Settled, Settler
from resources.stripe_mirror.side_by_side import side_by_side

OBJECTS_AT_ONCE = 20_000
WRITTEN_AT_ONCE = 100
# From so many objects of a kind on, Stripe's list is looked through, a hundred a call, before single ones are asked for.
LISTED_FROM = 20
# How far a list is looked through: so many objects for each that is looked for, and some.
_LISTED_PER_OBJECT, _LISTED_MORE = 3, 1_000
_LISTED_KINDS = (ObjectKind.CUSTOMER, ObjectKind.SUBSCRIPTION, ObjectKind.INVOICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a run has done. `failed`: by object, what was wrong. Not `is_complete`: the time was up, or there was too much."""

    objects: int
    events: int
    failed: Mapping[str, str]
    is_complete: bool
    settled: Settled


@dataclass(frozen=True, slots=True)
class _Answer:
    """What Stripe said of an object; `content` None: it has it no more."""

    about: OpenObject
    fetch: Fetch
    content: Fetched | MeterReport | BillingError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventApplier:
    """Brings the mirror up to date with the inbox. `clock` is ours."""

    database: Database
    reads: StripeReads
    clock: Callable[[], datetime]
    settler: Settler

    def is_due(self) -> bool:
        """Return whether there is something to apply or to settle now."""
        with self.database.reading() as connection:
            if inbox.open_objects(connection, now=self.clock(), limit=1):
                return True
        return self.settler.is_due()

    def apply_open(
        self, *, run_id: str, may_go_on: Callable[[], bool] = lambda: True, customer_id: str | None = None
    ) -> Applied:
        """Apply the events that are open and need not wait, of one customer where one is given, and settle.

        Raises:
            StripeAwayError: Stripe does not answer; what is left stays open. What was fetched before is settled.
        """
        with self.database.reading() as connection:
            found = inbox.open_objects(connection, now=self.clock(), limit=OBJECTS_AT_ONCE, customer_id=customer_id)
        objects, events, failed, is_complete = 0, 0, dict[str, str](), len(found) < OBJECTS_AT_ONCE
        answers = self._answers(found)
        try:
            while batch := list(islice(answers, WRITTEN_AT_ONCE)):
                self._write(batch, run_id, failed)
                objects += len(batch)
                events += sum(len(answer.about.event_ids) for answer in batch)
                if not may_go_on():
                    is_complete = is_complete and objects == len(found)
                    break
        finally:
            settled = self.settler.settle_all()
        return Applied(objects=objects, events=events, failed=failed, is_complete=is_complete, settled=settled)

    def _answers(self, found: Sequence[OpenObject]) -> Iterator[_Answer]:
        """Yield what Stripe says of every object. Many of a kind are looked for in a list first."""
        left = {one.subject: one for one in found}
        for kind in _LISTED_KINDS:
            wanted = {subject.object_id: one for subject, one in left.items() if subject.kind is kind}
            if len(wanted) < LISTED_FROM:
                continue
            fetch = rows.begin_fetch(self.database, now=self.clock())
            whole = partial(self._whole, kind)
            for document, content in side_by_side(whole, self._listed(kind, wanted)):
                one = left.pop(StripeObject(kind, str(document["id"])))
                yield _Answer(one, fetch, content)
        # One number serves as many objects as are written at once: it is older than each of their requests.
        numbered = self._numbered(left.values())
        for (one, fetch), answer in side_by_side(lambda some: self._asked_for(some[0].subject), numbered):
            yield _Answer(one, fetch, answer)

    def _numbered(self, ones: Iterable[OpenObject]) -> Iterator[tuple[OpenObject, Fetch]]:
        for number, one in enumerate(ones):
            if number % WRITTEN_AT_ONCE == 0:
                fetch = rows.begin_fetch(self.database, now=self.clock())
            yield one, fetch

    def _listed(self, kind: ObjectKind, wanted: dict[str, OpenObject]) -> Iterator[Document]:
        """Yield those of a kind that are wanted, as far as a list that is looked through shows them."""
        for document in islice(self._listing(kind, wanted), len(wanted) * _LISTED_PER_OBJECT + _LISTED_MORE):
            if wanted.pop(str(document.get("id")), None) is not None:
                yield document
            if not wanted:
                return

    def _listing(self, kind: ObjectKind, wanted: Mapping[str, OpenObject]) -> Iterator[Document]:
        match kind:
            case ObjectKind.CUSTOMER:
                return self.reads.list_customers()
            case ObjectKind.SUBSCRIPTION:
                return self.reads.list_subscriptions()
            case _:
                return self.reads.list_invoices(created_from=self._oldest_created(wanted))

    def _oldest_created(self, wanted: Mapping[str, OpenObject]) -> datetime:
        """Return when the oldest of these invoices was made: by the mirror, or not long before its first event."""
        with self.database.reading() as connection:
            known: dict[str, datetime] = dict(
                connection.execute(
                    "select invoice_id, created_at from stripe.invoice where invoice_id = any(%s)", [list(wanted)]
                ).fetchall()
            )
        return min(known.get(invoice_id, one.oldest_event_at) for invoice_id, one in wanted.items()) - timedelta(
            hours=1
        )

    def _whole(self, kind: ObjectKind, document: Document) -> Fetched | BillingError:
        try:
            match kind:
                case ObjectKind.CUSTOMER:
                    return read_customer(document)
                case ObjectKind.SUBSCRIPTION:
                    return whole_subscription(self.reads, document)
                case _:
                    return whole_invoice(self.reads, document)
        except StripeAwayError:
            raise
        except BillingError as error:
            return error

    def _asked_for(self, subject: StripeObject) -> Fetched | MeterReport | BillingError | None:
        try:
            if subject.kind is ObjectKind.METER_REPORT:
                document = self.reads.retrieve_core_event(subject.object_id)
                return None if document is None else read_meter_report(document)
            return fetch_object(self.reads, subject)
        except StripeAwayError:
            raise
        except BillingError as error:
            return error

    def _write(self, batch: Sequence[_Answer], run_id: str, failed: dict[str, str]) -> None:
        """Write a batch and mark its events in one transaction; what could not be read waits."""
        now = self.clock()
        with self.database.transaction(*rows.locks(answer.about.subject for answer in batch)) as connection:
            for answer in batch:
                subject, event_ids = answer.about.subject, answer.about.event_ids
                match answer.content:
                    case BillingError() as error:
                        failed[f"{subject.kind.value} {subject.object_id}"] = error.what
                        inbox.mark_failed(connection, event_ids, problem=error.what, run_id=run_id, now=now)
                        continue
                    case None:
                        rows.write_deleted(connection, subject, answer.fetch)
                    case MeterReport() as report:
                        rows.write_meter_report(connection, report, reported_at=now)
                    case content:
                        rows.write(connection, content, answer.fetch)
                inbox.mark_applied(connection, event_ids, run_id=run_id, now=now)


def write_fetched(
    database: Database, fetched: Iterable[Fetched], fetch: Fetch, *, deleted: Iterable[StripeObject] = ()
) -> int:
    """Write objects that no event asked for into the mirror, and return how many were newer than what was there."""
    found, gone = list(fetched), list(deleted)
    with database.transaction(*rows.locks([*map(rows.subject_of, found), *gone])) as connection:
        for subject in gone:
            rows.write_deleted(connection, subject, fetch)
        return sum(rows.write(connection, one, fetch) for one in found)
