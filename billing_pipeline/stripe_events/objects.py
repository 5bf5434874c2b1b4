"""Read Stripe's objects: JSON as the API answers it -> frozen records. Pure.

An allow-list: names, addresses, e-mails, descriptions and links are never read; of metadata only what is ours (`bp_...`).
Amounts are whole numbers of Stripe's own minor units (stripe.md 1.7), not ISO ones: fields say `..._stripe_minor`. A field
that must be there and is not raises, so that a change of Stripe's API version is seen and not billed. Not here: fetching.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from billing_pipeline.errors import BillingError
from billing_pipeline.stripe_events.envelope import reference

OUR_METADATA = "bp_"


class StripeObjectUnreadableError(BillingError):
    """An object of Stripe's lacks a field, or has it in another form than the API version that we speak."""


class InvoiceStatus(StrEnum):
    """How far an invoice is; `deleted` is ours: Stripe answers that there is none any more."""

    DRAFT = "draft"
    OPEN = "open"
    PAID = "paid"
    UNCOLLECTIBLE = "uncollectible"
    VOID = "void"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeCustomer:
    """Who pays. A deleted one has nothing but its id. `balance_stripe_minor`: negative is credit."""

    customer_id: str
    is_deleted: bool
    currency: str | None = None
    balance_stripe_minor: int = 0
    is_delinquent: bool = False
    test_clock_id: str | None = None
    created_at: datetime | None = None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeSubscriptionItem:
    """A price on a subscription; billing periods are the item's, `[current_period_start, current_period_end)`."""

    item_id: str
    price_id: str
    quantity: int | None
    is_metered: bool
    current_period_start: datetime
    current_period_end: datetime
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeSubscription:
    """What a customer subscribed to."""

    subscription_id: str
    customer_id: str
    status: str
    currency: str
    collection_method: str
    started_at: datetime
    billing_cycle_anchor: datetime
    trial_start: datetime | None
    trial_end: datetime | None
    cancel_at: datetime | None
    cancel_at_period_end: bool
    canceled_at: datetime | None
    ended_at: datetime | None
    latest_invoice_id: str | None
    created_at: datetime
    metadata: Mapping[str, str]
    items: tuple[StripeSubscriptionItem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeInvoiceLine:
    """A line of an invoice. `period_start`, `period_end` are what it is for, as Stripe writes them."""

    line_id: str
    amount_stripe_minor: int
    currency: str
    period_start: datetime
    period_end: datetime
    is_proration: bool
    invoice_item_id: str | None
    subscription_id: str | None
    subscription_item_id: str | None
    price_id: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeInvoice:
    """An invoice without its lines. Period of items is not what is billed: that is on the lines."""

    invoice_id: str
    customer_id: str
    subscription_id: str | None
    status: InvoiceStatus
    billing_reason: str
    collection_method: str
    currency: str
    subtotal_stripe_minor: int
    discount_stripe_minor: int
    tax_stripe_minor: int
    total_stripe_minor: int
    amount_due_stripe_minor: int
    amount_paid_stripe_minor: int
    amount_remaining_stripe_minor: int
    starting_balance_stripe_minor: int
    credited_stripe_minor: int
    attempt_count: int
    auto_advance: bool
    automatically_finalizes_at: datetime | None
    items_from: datetime
    items_until: datetime
    created_at: datetime
    finalized_at: datetime | None
    paid_at: datetime | None
    voided_at: datetime | None
    uncollectible_at: datetime | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StripePayment:
    """A payment, or a try of one, on an invoice."""

    payment_id: str
    invoice_id: str
    status: str
    currency: str
    amount_requested_stripe_minor: int
    amount_paid_stripe_minor: int
    created_at: datetime
    paid_at: datetime | None
    canceled_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeCreditNote:
    """What was taken back of a finalized invoice."""

    credit_note_id: str
    invoice_id: str
    customer_id: str
    status: str
    currency: str
    total_stripe_minor: int
    before_payment_stripe_minor: int
    after_payment_stripe_minor: int
    reason: str | None
    created_at: datetime
    voided_at: datetime | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterError:
    """One kind of refusal in a report on meter events: how many of them, and the identifiers of some."""

    code: str
    error_count: int
    identifiers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterReport:
    """What Stripe could not count of a meter's events between two instants. `meter_id` None: no meter has that name."""

    event_id: str
    event_type: str
    meter_id: str | None
    window_start: datetime | None
    window_end: datetime | None
    errors: tuple[MeterError, ...]


def read_customer(document: Mapping[str, Any]) -> StripeCustomer:
    """Return the customer; a deleted one is answered as `deleted: true`, not as missing."""
    fields = _Fields("customer", document)
    if document.get("deleted") is True:
        return deleted_customer(fields.text("id"))
    return StripeCustomer(
        customer_id=fields.text("id"),
        is_deleted=False,
        currency=fields.currency_or_none("currency"),
        balance_stripe_minor=fields.whole("balance"),
        is_delinquent=document.get("delinquent") is True,
        test_clock_id=reference(document.get("test_clock")),
        created_at=fields.instant("created"),
        metadata=fields.our_metadata(),
    )


def deleted_customer(customer_id: str) -> StripeCustomer:
    """Return what is left of a customer that Stripe has no more."""
    return StripeCustomer(customer_id=customer_id, is_deleted=True, metadata={})


def read_subscription(
    document: Mapping[str, Any], items: Iterable[Mapping[str, Any]] | None = None
) -> StripeSubscription:
    """Return the subscription with `items`, or with those inside of it, which are the first ten at most."""
    fields = _Fields("subscription", document)
    if items is None:
        items = fields.embedded_list("items")
    return StripeSubscription(
        subscription_id=fields.text("id"),
        customer_id=fields.reference("customer"),
        status=fields.text("status"),
        currency=fields.currency("currency"),
        collection_method=fields.text("collection_method"),
        started_at=fields.instant("start_date"),
        billing_cycle_anchor=fields.instant("billing_cycle_anchor"),
        trial_start=fields.instant_or_none("trial_start"),
        trial_end=fields.instant_or_none("trial_end"),
        cancel_at=fields.instant_or_none("cancel_at"),
        cancel_at_period_end=document.get("cancel_at_period_end") is True,
        canceled_at=fields.instant_or_none("canceled_at"),
        ended_at=fields.instant_or_none("ended_at"),
        latest_invoice_id=reference(document.get("latest_invoice")),
        created_at=fields.instant("created"),
        metadata=fields.our_metadata(),
        items=tuple(sorted((_read_item(item) for item in items), key=lambda item: item.item_id)),
    )


def _read_item(document: Mapping[str, Any]) -> StripeSubscriptionItem:
    fields = _Fields("subscription item", document)
    price = document.get("price")
    recurring = price.get("recurring") if isinstance(price, Mapping) else None
    return StripeSubscriptionItem(
        item_id=fields.text("id"),
        price_id=fields.reference("price"),
        quantity=fields.whole_or_none("quantity"),
        is_metered=isinstance(recurring, Mapping) and recurring.get("usage_type") == "metered",
        current_period_start=fields.instant("current_period_start"),
        current_period_end=fields.instant("current_period_end"),
        metadata=fields.our_metadata(),
    )


def read_invoice(document: Mapping[str, Any]) -> StripeInvoice:
    """Return the invoice; its lines are `read_line`'s."""
    fields = _Fields("invoice", document)
    transitions = fields.inside("status_transitions")
    parent = fields.inside_or_none("parent")
    details = parent.inside_or_none("subscription_details") if parent else None
    return StripeInvoice(
        invoice_id=fields.text("id"),
        customer_id=fields.reference("customer"),
        subscription_id=reference(details.document.get("subscription")) if details else None,
        status=fields.invoice_status("status"),
        billing_reason=fields.text_or_none("billing_reason") or "manual",
        collection_method=fields.text("collection_method"),
        currency=fields.currency("currency"),
        subtotal_stripe_minor=fields.whole("subtotal"),
        discount_stripe_minor=fields.sum_of("total_discount_amounts"),
        tax_stripe_minor=fields.sum_of("total_taxes"),
        total_stripe_minor=fields.whole("total"),
        amount_due_stripe_minor=fields.whole("amount_due"),
        amount_paid_stripe_minor=fields.whole("amount_paid"),
        amount_remaining_stripe_minor=fields.whole("amount_remaining"),
        starting_balance_stripe_minor=fields.whole("starting_balance"),
        credited_stripe_minor=(fields.whole_or_none("pre_payment_credit_notes_amount") or 0)
        + (fields.whole_or_none("post_payment_credit_notes_amount") or 0),
        attempt_count=fields.whole("attempt_count"),
        auto_advance=document.get("auto_advance") is True,
        automatically_finalizes_at=fields.instant_or_none("automatically_finalizes_at"),
        items_from=fields.instant("period_start"),
        items_until=fields.instant("period_end"),
        created_at=fields.instant("created"),
        finalized_at=transitions.instant_or_none("finalized_at"),
        paid_at=transitions.instant_or_none("paid_at"),
        voided_at=transitions.instant_or_none("voided_at"),
        uncollectible_at=transitions.instant_or_none("marked_uncollectible_at"),
        metadata=fields.our_metadata(),
    )


def read_line(document: Mapping[str, Any]) -> StripeInvoiceLine:
    """Return a line of an invoice, of whichever parent."""
    fields = _Fields("invoice line", document)
    period = fields.inside("period")
    parent = fields.inside_or_none("parent")
    of_item = parent.inside_or_none("invoice_item_details") if parent else None
    of_subscription = parent.inside_or_none("subscription_item_details") if parent else None
    details = of_item or of_subscription
    pricing = fields.inside_or_none("pricing")
    price = pricing.inside_or_none("price_details") if pricing else None
    return StripeInvoiceLine(
        line_id=fields.text("id"),
        amount_stripe_minor=fields.whole("amount"),
        currency=fields.currency("currency"),
        period_start=period.instant("start"),
        period_end=period.instant("end"),
        is_proration=details is not None and details.document.get("proration") is True,
        invoice_item_id=reference(details.document.get("invoice_item")) if details else None,
        subscription_id=reference(details.document.get("subscription")) if details else None,
        subscription_item_id=of_subscription.text("subscription_item") if of_subscription else None,
        price_id=reference(price.document.get("price")) if price else None,
        metadata=fields.our_metadata(),
    )


def read_payment(document: Mapping[str, Any]) -> StripePayment:
    """Return a payment of an invoice."""
    fields = _Fields("invoice payment", document)
    transitions = fields.inside("status_transitions")
    return StripePayment(
        payment_id=fields.text("id"),
        invoice_id=fields.reference("invoice"),
        status=fields.text("status"),
        currency=fields.currency("currency"),
        amount_requested_stripe_minor=fields.whole("amount_requested"),
        amount_paid_stripe_minor=fields.whole_or_none("amount_paid") or 0,
        created_at=fields.instant("created"),
        paid_at=transitions.instant_or_none("paid_at"),
        canceled_at=transitions.instant_or_none("canceled_at"),
    )


def read_credit_note(document: Mapping[str, Any]) -> StripeCreditNote:
    """Return a credit note."""
    fields = _Fields("credit note", document)
    return StripeCreditNote(
        credit_note_id=fields.text("id"),
        invoice_id=fields.reference("invoice"),
        customer_id=fields.reference("customer"),
        status=fields.text("status"),
        currency=fields.currency("currency"),
        total_stripe_minor=fields.whole("total"),
        before_payment_stripe_minor=fields.whole_or_none("pre_payment_amount") or 0,
        after_payment_stripe_minor=fields.whole_or_none("post_payment_amount") or 0,
        reason=fields.text_or_none("reason"),
        created_at=fields.instant("created"),
        voided_at=fields.instant_or_none("voided_at"),
        metadata=fields.our_metadata(),
    )


def read_meter_report(document: Mapping[str, Any]) -> MeterReport:
    """Return a report of meter errors: an event of the v2 feed, as it is fetched, with its data.

    Messages are left out: they may repeat what was sent.
    """
    fields = _Fields("meter report", document)
    data = fields.inside("data")
    reason = data.inside("reason")
    related = fields.inside_or_none("related_object")
    errors = []
    for one in reason.list_of("error_types"):
        found = _Fields("meter error", one)
        samples = [_Fields("meter error sample", sample) for sample in found.list_of("sample_errors")]
        requests = [sample.inside_or_none("request") for sample in samples]
        errors.append(
            MeterError(
                code=found.text("code"),
                error_count=found.whole("error_count"),
                identifiers=tuple(
                    identifier for request in requests if request and (identifier := request.text_or_none("identifier"))
                ),
            )
        )
    return MeterReport(
        event_id=fields.text("id"),
        event_type=fields.text("type"),
        meter_id=related.text("id") if related else None,
        window_start=data.instant_or_none("validation_start"),
        window_end=data.instant_or_none("validation_end"),
        errors=tuple(errors),
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """A JSON object of Stripe's, read field by field; what is missing or of another type is named."""

    kind: str
    document: Mapping[str, Any]

    def text(self, name: str) -> str:
        value = self.text_or_none(name)
        if value is None:
            raise self._unreadable(name)
        return value

    def text_or_none(self, name: str) -> str | None:
        value = self.document.get(name)
        return value if isinstance(value, str) and value else None

    def reference(self, name: str) -> str:
        found = reference(self.document.get(name))
        if found is None:
            raise self._unreadable(name)
        return found

    def whole(self, name: str) -> int:
        value = self.document.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._unreadable(name)
        return value

    def whole_or_none(self, name: str) -> int | None:
        return None if self.document.get(name) is None else self.whole(name)

    def currency(self, name: str) -> str:
        return self.text(name).upper()

    def currency_or_none(self, name: str) -> str | None:
        value = self.text_or_none(name)
        return None if value is None else value.upper()

    def invoice_status(self, name: str) -> InvoiceStatus:
        try:
            return InvoiceStatus(self.text(name))
        except ValueError:
            raise self._unreadable(name) from None

    def instant(self, name: str) -> datetime:
        value = self.document.get(name)
        try:
            if isinstance(value, int) and not isinstance(value, bool):
                return datetime.fromtimestamp(value, UTC)
            instant = datetime.fromisoformat(value) if isinstance(value, str) else None
        except (ValueError, OverflowError, OSError):
            instant = None
        if instant is None or instant.tzinfo is None:
            raise self._unreadable(name)
        return instant.astimezone(UTC)

    def instant_or_none(self, name: str) -> datetime | None:
        return None if self.document.get(name) is None else self.instant(name)

    def inside(self, name: str) -> "_Fields":
        found = self.inside_or_none(name)
        if found is None:
            raise self._unreadable(name)
        return found

    def inside_or_none(self, name: str) -> "_Fields | None":
        value = self.document.get(name)
        return (
            _Fields(f"{self.kind} {self.document.get('id', '')} {name}", value) if isinstance(value, Mapping) else None
        )

    def list_of(self, name: str) -> list[Mapping[str, Any]]:
        value = self.document.get(name)
        if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
            raise self._unreadable(name)
        return value

    def embedded_list(self, name: str) -> list[Mapping[str, Any]]:
        return self.inside(name).list_of("data")

    def sum_of(self, name: str) -> int:
        if self.document.get(name) is None:
            return 0
        return sum(_Fields(f"{self.kind} {name}", one).whole("amount") for one in self.list_of(name))

    def our_metadata(self) -> Mapping[str, str]:
        value = self.document.get("metadata")
        if not isinstance(value, Mapping):
            return {}
        return {
            key: text for key, text in sorted(value.items()) if key.startswith(OUR_METADATA) and isinstance(text, str)
        }

    def _unreadable(self, name: str) -> StripeObjectUnreadableError:
        return StripeObjectUnreadableError(
            f"the {self.kind} {self.document.get('id', '')} of Stripe has no readable {name}",
            bill="the object is not taken over; what was known of it before still stands, with its age",
            fix="compare the API version of the account with the one that billing_pipeline speaks (docs/stripe.md)",
        )
