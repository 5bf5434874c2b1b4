"""The mirror's reads over the gateway: ids and instants in, Stripe's JSON out, two kinds of trouble told apart.

An object that is not there is None; when Stripe does not answer, or denies the key, everything waits (StripeAwayError). Other
refusals are about the one object and stay what they are. Not here: pace, patience and pages (resources/stripe_api).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from resources.stripe_api.calls import Operation, StripeCall
from resources.stripe_api.errors import StripeDeniedError, StripeRefusedError, StripeUnavailableError
from resources.stripe_api.gateway import StripeGateway, utc_now
from resources.stripe_mirror.reads import CursorUnknownError, Document, StripeAwayError


@dataclass(frozen=True, slots=True)
class GatewayReads:
    """`StripeReads` of one gateway."""

    gateway: StripeGateway

    def server_time(self) -> datetime:
        """Return Stripe's own time: the date of an answer that is asked for now."""
        with _away_told():
            next(self.gateway.list_events(limit=1), None)
        return self.gateway.server_time or utc_now()

    def list_events(
        self, *, types: Sequence[str], created_from: datetime, starting_after: str | None
    ) -> Iterator[Document]:
        """Yield events of the v1 feed, newest first; see `StripeReads`."""
        params: dict[str, Any] = {"types": list(types), "created": {"gte": _seconds(created_from)}}
        if starting_after is not None:
            params["starting_after"] = starting_after
        try:
            yield from _lazily(lambda: self.gateway.list_events(**params))
        except StripeRefusedError as error:
            if starting_after is not None and error.is_missing:
                raise CursorUnknownError(
                    f"Stripe does not know the event {starting_after}, at which reading is to go on",
                    bill="events may be missing; nothing that was read is lost",
                    fix="nothing: reading begins anew, and all objects are listed once",
                ) from None
            raise

    def list_core_events(self, *, types: Sequence[str], created_from: datetime) -> Iterator[Document]:
        """Yield events of the v2 feed."""
        created = created_from.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return _lazily(lambda: self.gateway.list_thin_events(types=list(types), created={"gte": created}))

    def retrieve_core_event(self, event_id: str) -> Document | None:
        """Return an event of the v2 feed with its data."""
        return self._one(Operation.V2_EVENTS_RETRIEVE, event_id)

    def retrieve_invoice(self, invoice_id: str) -> Document | None:
        """Return an invoice with its first lines."""
        return self._one(Operation.INVOICES_RETRIEVE, invoice_id)

    def list_invoices(
        self, *, customer: str | None = None, status: str | None = None, created_from: datetime | None = None
    ) -> Iterator[Document]:
        """Yield invoices."""
        given = {"customer": customer, "status": status, "created": _since(created_from)}
        return _lazily(lambda: self.gateway.list_invoices(**_without_none(given)))

    def list_invoice_lines(self, invoice_id: str) -> Iterator[Document]:
        """Yield all lines of an invoice."""
        return _lazily(lambda: self.gateway.list_lines(invoice_id))

    def list_invoice_payments(self, invoice_id: str) -> Iterator[Document]:
        """Yield the payments of an invoice."""
        return self._all(Operation.INVOICE_PAYMENTS_LIST, invoice=invoice_id)

    def list_pending_items(self) -> Iterator[Document]:
        """Yield the invoice items that no invoice has taken yet."""
        return _lazily(lambda: self.gateway.list_invoice_items(pending=True))

    def retrieve_customer(self, customer_id: str) -> Document | None:
        """Return a customer, as deleted where it was."""
        return self._one(Operation.CUSTOMERS_RETRIEVE, customer_id)

    def list_customers(self) -> Iterator[Document]:
        """Yield the customers that are not deleted."""
        return _lazily(self.gateway.list_customers)

    def retrieve_subscription(self, subscription_id: str) -> Document | None:
        """Return a subscription with its first items."""
        return self._one(Operation.SUBSCRIPTIONS_RETRIEVE, subscription_id)

    def list_subscriptions(self, *, customer: str | None = None) -> Iterator[Document]:
        """Yield subscriptions, ended ones among them."""
        return _lazily(lambda: self.gateway.list_subscriptions(status="all", **_without_none({"customer": customer})))

    def list_subscription_items(self, subscription_id: str) -> Iterator[Document]:
        """Yield all items of a subscription."""
        return self._all(Operation.SUBSCRIPTION_ITEMS_LIST, subscription=subscription_id)

    def retrieve_credit_note(self, credit_note_id: str) -> Document | None:
        """Return a credit note."""
        return self._one(Operation.CREDIT_NOTES_RETRIEVE, credit_note_id)

    def list_credit_notes(self, *, created_from: datetime | None = None) -> Iterator[Document]:
        """Yield credit notes."""
        return _lazily(lambda: self.gateway.list_credit_notes(**_without_none({"created": _since(created_from)})))

    def _one(self, operation: Operation, object_id: str) -> Document | None:
        with _away_told():
            try:
                return self.gateway.read(StripeCall(operation=operation, ids=(object_id,)))
            except StripeRefusedError as error:
                if error.is_missing:
                    return None
                raise

    def _all(self, operation: Operation, **params: Any) -> Iterator[Document]:
        return _lazily(lambda: self.gateway.pages(StripeCall(operation=operation, params=params)))


def _lazily(listing: Callable[[], Iterator[Document]]) -> Iterator[Document]:
    with _away_told():
        yield from listing()


@contextmanager
def _away_told() -> Iterator[None]:
    try:
        yield
    except (StripeUnavailableError, StripeDeniedError) as error:
        raise StripeAwayError(error.what, bill=error.bill, fix=error.fix) from error


def _seconds(instant: datetime) -> int:
    """Return whole seconds since 1970, rounded down, which only widens a window that begins there."""
    return int(instant.timestamp())


def _since(instant: datetime | None) -> dict[str, int] | None:
    return None if instant is None else {"gte": _seconds(instant)}


def _without_none(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}
