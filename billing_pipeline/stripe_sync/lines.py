"""What Stripe should hold of an invoice, and what it holds: wanted lines, held items, and whether they say the same. Pure.

Amounts are whole minor units as Stripe counts them; currencies are in lower case, as Stripe spells them; periods are whole
seconds since 1970 with both ends included, as Stripe means them. What has no `bp_key` in its metadata is not ours and is
never touched. Not here: which commands make both equal (plan).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from billing_pipeline.periods import Window

KEY_FIELD = "bp_key"
ACCOUNT_FIELD = "bp_account"
INVOICE_FIELD = "bp_invoice"
INTENT_FIELD = "bp_intent"
LONGEST_DESCRIPTION = 500
_LONGEST_METADATA_VALUE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedLine:
    """One line as it should be at Stripe. `metadata` holds `bp_key` and what an auditor wants to see; only the fields of
    `says` make a difference that is worth a call. `part_keys`: of a line that groups others, their keys, under which Stripe may
    have charged some of it before they were grouped."""

    key: str
    amount: int
    currency: str
    description: str
    period_start: int
    period_end: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    part_keys: tuple[str, ...] = ()

    @property
    def says(self) -> tuple[int, str, int, int]:
        """Return what a customer sees of it."""
        return self.amount, self.description, self.period_start, self.period_end


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldItem:
    """An invoice item, or a line of an invoice, at Stripe. `key` None: not ours. `compiled_id`: the compiled invoice of ours
    that it is for. `intent`: the write that made it.

    `item_id` None: a line without an item of its own, such as a subscription's. `line_id` is known where it was read as a
    line. `invoice_id` None: pending, it goes onto the customer's next invoice. `price_id` and `quantity`: of a line that charges a
    price of Stripe's.
    """

    key: str | None
    item_id: str | None
    line_id: str | None = None
    invoice_id: str | None = None
    customer_id: str | None = None
    account_id: str | None = None
    compiled_id: str | None = None
    intent: str | None = None
    amount: int
    currency: str
    description: str
    period_start: int
    period_end: int
    price_id: str | None = None
    quantity: int | None = None

    @property
    def says(self) -> tuple[int, str, int, int]:
        """Return what a customer sees of it."""
        return self.amount, self.description, self.period_start, self.period_end

    @property
    def is_pending(self) -> bool:
        """Tell whether no invoice has taken it yet."""
        return self.invoice_id is None


def wanted_line(
    *,
    key: str,
    amount: int,
    currency: str,
    description: str,
    period: Window,
    metadata: Mapping[str, str],
    part_keys: tuple[str, ...] = (),
) -> WantedLine:
    """Return a line for the half-open `period`; texts are cut to what Stripe keeps."""
    start = int(period.start.timestamp())
    return WantedLine(
        key=key,
        amount=amount,
        currency=currency.lower(),
        description=description[:LONGEST_DESCRIPTION],
        period_start=start,
        # The last second that belongs to it; of a period of less than a second that is its first.
        period_end=max(int(period.end.timestamp()) - 1, start),
        metadata={KEY_FIELD: key} | {name: value[:_LONGEST_METADATA_VALUE] for name, value in metadata.items()},
        part_keys=part_keys,
    )


def wanted_digest(lines: tuple[WantedLine, ...]) -> str:
    """Return the SHA-256 of what all lines say, in whatever order: equal digests need no call."""
    said = sorted([line.key, line.currency, *line.says] for line in lines)
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()


def held_item(item: Mapping[str, Any]) -> HeldItem:
    """Return an invoice item as Stripe lists it."""
    return HeldItem(
        key=_metadata(item).get(KEY_FIELD),
        item_id=item["id"],
        invoice_id=_id(item.get("invoice")),
        customer_id=_id(item.get("customer")),
        account_id=_metadata(item).get(ACCOUNT_FIELD),
        compiled_id=_metadata(item).get(INVOICE_FIELD),
        intent=_metadata(item).get(INTENT_FIELD),
        amount=int(item["amount"]),
        currency=item["currency"],
        description=item.get("description") or "",
        period_start=item["period"]["start"],
        period_end=item["period"]["end"],
    )


def held_line(line: Mapping[str, Any], invoice_id: str) -> HeldItem:
    """Return a line of an invoice as Stripe lists it. Its id is not that of its item, which `parent` names."""
    parent = (line.get("parent") or {}).get("invoice_item_details") or {}
    return HeldItem(
        key=_metadata(line).get(KEY_FIELD),
        item_id=_id(parent.get("invoice_item")),
        line_id=line["id"],
        invoice_id=invoice_id,
        account_id=_metadata(line).get(ACCOUNT_FIELD),
        compiled_id=_metadata(line).get(INVOICE_FIELD),
        intent=_metadata(line).get(INTENT_FIELD),
        amount=int(line["amount"]),
        currency=line["currency"],
        description=line.get("description") or "",
        period_start=line["period"]["start"],
        period_end=line["period"]["end"],
        price_id=_id(((line.get("pricing") or {}).get("price_details") or {}).get("price")),
        quantity=line.get("quantity"),
    )


def _metadata(held: Mapping[str, Any]) -> Mapping[str, str]:
    return held.get("metadata") or {}


def _id(value: Any) -> str | None:
    """Return the id of a field that may hold the whole object."""
    found = value["id"] if isinstance(value, Mapping) else value
    return None if found is None else str(found)
