"""What Stripe holds of a customer: lists, read to the last page, once, when they are asked for. No search, ever.

A list may be older than the last write (Stripe promises otherwise of search alone); so items that are known by their ids and
that a list does not show are asked for by id. Not here: what to make of it (billing_pipeline/stripe_sync/plan).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from billing_pipeline.stripe_sync.lines import INVOICE_FIELD, HeldItem, held_item, held_line
from resources.stripe_api.calls import Json, Operation, StripeCall
from resources.stripe_api.errors import StripeRefusedError

if TYPE_CHECKING:
    from resources.stripe_api.gateway import StripeGateway

# Items are made while their period lasts; Stripe's clock and ours may differ by this much.
MARGIN = timedelta(days=1)


class HeldAtStripe:
    """One customer's, since `since`. Fresh ones are made for reading back."""

    def __init__(
        self,
        gateway: "StripeGateway",
        customer_id: str,
        *,
        since: datetime,
        known_ids: Iterable[str] = (),
        listed: tuple[HeldItem, ...] | None = None,
        invoices: Iterable[Json] = (),
    ) -> None:
        """`since`: when the oldest open period began. `known_ids`: items that were seen before, or answered. `listed` and
        `invoices`: what lists of all customers have shown of this one, a moment ago."""
        self._gateway = gateway
        self._customer_id = customer_id
        self._since = since
        self._known_ids = tuple(known_ids)
        self._listed = listed
        self._items: tuple[HeldItem, ...] | None = None
        self._lines: dict[str, tuple[HeldItem, ...]] = {}
        self._invoices: dict[str, Json | None] = {one["id"]: one for one in invoices}
        self._own: tuple[Json, ...] | None = None

    def items(self) -> tuple[HeldItem, ...]:
        """Return the customer's invoice items, of ours and of others, on invoices or pending."""
        if self._items is None:
            found = self._listed
            if found is None:
                since = int((self._since - MARGIN).timestamp())
                pages = self._gateway.list_invoice_items(customer=self._customer_id, created={"gte": since})
                found = tuple(held_item(one) for one in pages)
            there = {item.item_id for item in found}
            missing = (self._by_id(item_id) for item_id in self._known_ids if item_id not in there)
            self._items = (*found, *(item for item in missing if item is not None))
        return self._items

    def lines(self, invoice_id: str) -> tuple[HeldItem, ...]:
        """Return all lines of an invoice, none where it does not exist."""
        if invoice_id not in self._lines:
            embedded = (self._invoices.get(invoice_id) or {}).get("lines")
            # An invoice shows its first ten lines; `has_more` says whether these are all.
            is_whole = embedded is not None and not embedded["has_more"]
            found = embedded["data"] if embedded is not None and is_whole else self._listed_lines(invoice_id)
            self._lines[invoice_id] = tuple(held_line(one, invoice_id) for one in found)
        return self._lines[invoice_id]

    def _listed_lines(self, invoice_id: str) -> list[Json]:
        try:
            return list(self._gateway.list_lines(invoice_id))
        except StripeRefusedError as error:
            if not error.is_missing:
                raise
            return []

    def invoice(self, invoice_id: str) -> Json | None:
        """Return an invoice, None where it does not exist."""
        if invoice_id not in self._invoices:
            try:
                self._invoices[invoice_id] = self._gateway.retrieve_invoice(invoice_id)
            except StripeRefusedError as error:
                if not error.is_missing:
                    raise
                self._invoices[invoice_id] = None
        return self._invoices[invoice_id]

    def own_invoices(self) -> tuple[Json, ...]:
        """Return the customer's invoices that this pipeline made, drafts and others."""
        if self._own is None:
            since = int((self._since - MARGIN).timestamp())
            found = self._gateway.list_invoices(customer=self._customer_id, created={"gte": since})
            self._own = tuple(one for one in found if INVOICE_FIELD in (one.get("metadata") or {}))
            self._invoices |= {one["id"]: one for one in self._own}
        return self._own

    def credit_notes(self, invoice_id: str) -> tuple[Json, ...]:
        """Return the credit notes of an invoice."""
        return tuple(self._gateway.list_credit_notes(invoice=invoice_id))

    def _by_id(self, item_id: str) -> HeldItem | None:
        try:
            found = self._gateway.read(StripeCall(operation=Operation.INVOICE_ITEMS_RETRIEVE, ids=(item_id,)))
        except StripeRefusedError as error:
            if not error.is_missing:
                raise
            return None
        return None if found.get("deleted") else held_item(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkListing:
    """The invoice items of all customers, read in one go: a hundred a call, instead of a call a customer. It shows all that was
    written by the intents up to `after_intent`."""

    after_intent: int
    by_customer: Mapping[str, tuple[HeldItem, ...]] = field(repr=False)

    def of(self, customer_id: str) -> tuple[HeldItem, ...]:
        """Return the customer's items."""
        return self.by_customer.get(customer_id, ())


def list_all(gateway: "StripeGateway", *, since: datetime, after_intent: int) -> BulkListing:
    """Return every customer's items since the oldest open period began. `after_intent`: the newest by now."""
    found: dict[str, list[HeldItem]] = defaultdict(list)
    for one in gateway.list_invoice_items(created={"gte": int((since - MARGIN).timestamp())}):
        item = held_item(one)
        if item.customer_id is not None:
            found[item.customer_id].append(item)
    return BulkListing(
        after_intent=after_intent, by_customer={customer: tuple(items) for customer, items in found.items()}
    )
