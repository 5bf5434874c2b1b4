"""The inbox as a webhook needs it: keep one event durably, and say whether its invoice still waits for a true-up.

Not here: HTTP (console/stripe_webhook), signatures (signature).
"""

from dataclasses import dataclass
from datetime import datetime

import psycopg

from billing_pipeline.errors import BillingError
from billing_pipeline.stripe_events.envelope import StripeEvent
from resources.database import Database
from resources.stripe_mirror import inbox


class InboxFailedError(BillingError):
    """PostgreSQL refused to keep an event."""


@dataclass(frozen=True, slots=True)
class WebhookInbox:
    """The inbox of one database. Every failure is a BillingError: an answer of 5xx, after which Stripe sends again."""

    database: Database

    def keep(self, event: StripeEvent, *, received_at: datetime) -> bool:
        """Keep `event`; when this returns it is on disk. Returns whether it is new.

        Raises:
            InboxFailedError: it is not kept. Also what `Database.transaction` raises.
        """
        try:
            with self.database.transaction() as connection:
                return bool(
                    inbox.receive(connection, [event], received_from=inbox.FROM_WEBHOOK, received_at=received_at)
                )
        except psycopg.Error as error:
            raise InboxFailedError(
                f"event {event.event_id} could not be kept: {error.diag.message_primary or type(error).__name__}",
                bill="nothing is lost: Stripe sends it again, and the feed has it",
                fix="see the server's log",
            ) from error

    def waits_for_true_up(self, event: StripeEvent) -> bool:
        """Return whether the invoice of `event` is, or may be, a renewal that is still to be brought up to date.

        The event's own copy is not asked: until the invoice was fetched and settled, nobody knows.
        """
        with self.database.reading() as connection:
            row = connection.execute(
                """
                select
                    (select state from stripe.event_work where event_id = %(event)s),
                    exists (
                        select from stripe.invoice
                        left join stripe.settlement using (invoice_id)
                        where invoice_id = %(invoice)s and settlement.fetch_number is distinct from invoice.fetch_number
                    ),
                    (select state from stripe.trueup_queue where invoice_id = %(invoice)s)
                """,
                {"event": event.event_id, "invoice": event.object_id},
            ).fetchone()
        assert row is not None
        state, is_unsettled, queued = row
        return state in ("open", "dead") or bool(is_unsettled) or queued == "waiting"

    def ping(self) -> None:
        """Raise BillingError when the database does not answer."""
        with self.database.reading() as connection:
            connection.execute("select 1")
