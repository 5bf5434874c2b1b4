"""What the mirror asks of Stripe: a few reads, each of which answers JSON as Stripe does.

The gateway (resources/stripe_api) does it over the network, `gateway_reads` fits it to this; tests put a made-up Stripe here.
Lists are lazy, newest first, and go on to the last page for as long as somebody takes from them.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from billing_pipeline.errors import BillingError

Document = Mapping[str, Any]


class StripeAwayError(BillingError):
    """Stripe does not answer, or does not let this key ask: nothing that is asked now will be answered, all of it may be later."""


class CursorUnknownError(BillingError):
    """The feed does not know the event at which reading is to go on."""


class StripeReads(Protocol):
    """Reads of Stripe. A `retrieve_...` answers None where Stripe has no such object. All raise StripeAwayError."""

    def server_time(self) -> datetime:
        """Return Stripe's own time, by which events are made."""

    def list_events(
        self, *, types: Sequence[str], created_from: datetime, starting_after: str | None
    ) -> Iterator[Document]:
        """Yield events of the v1 feed made at `created_from` or later, older than the event `starting_after`.

        Raises:
            CursorUnknownError: there is no event `starting_after` any more.
        """

    def list_core_events(self, *, types: Sequence[str], created_from: datetime) -> Iterator[Document]:
        """Yield events of the v2 feed made at `created_from` or later."""

    def retrieve_core_event(self, event_id: str) -> Document | None:
        """Return an event of the v2 feed with its data."""

    def retrieve_invoice(self, invoice_id: str) -> Document | None:
        """Return an invoice with its first lines."""

    def list_invoices(
        self, *, customer: str | None = None, status: str | None = None, created_from: datetime | None = None
    ) -> Iterator[Document]:
        """Yield the invoices of a customer, of a status, made at or after an instant; of any where none is given."""

    def list_invoice_lines(self, invoice_id: str) -> Iterator[Document]:
        """Yield all lines of an invoice."""

    def list_invoice_payments(self, invoice_id: str) -> Iterator[Document]:
        """Yield the payments of an invoice."""

    def list_pending_items(self) -> Iterator[Document]:
        """Yield the invoice items that no invoice has taken yet, of all customers."""

    def retrieve_customer(self, customer_id: str) -> Document | None:
        """Return a customer, as deleted where it was."""

    def list_customers(self) -> Iterator[Document]:
        """Yield the customers that are not deleted."""

    def retrieve_subscription(self, subscription_id: str) -> Document | None:
        """Return a subscription with its first items."""

    def list_subscriptions(self, *, customer: str | None = None) -> Iterator[Document]:
        """Yield the subscriptions of a customer, or all, ended ones among them."""

    def list_subscription_items(self, subscription_id: str) -> Iterator[Document]:
        """Yield all items of a subscription."""

    def retrieve_credit_note(self, credit_note_id: str) -> Document | None:
        """Return a credit note."""

    def list_credit_notes(self, *, created_from: datetime | None = None) -> Iterator[Document]:
        """Yield the credit notes made at or after an instant."""
