"""What the demo left at its Stripe, read from the stand-in's own state: nothing of the sync or of the mirror is asked."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from resources.stripe_sim import state_file


@dataclass(frozen=True, kw_only=True)
class InvoiceThere:
    """An invoice of a subscription at Stripe that asks for something: lines as (description, amount in Stripe's units)."""

    account_id: str
    status: str
    created: int
    total: int
    paid: int
    lines: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class LeftAtStripe:
    """Everything that customers owe or owed. `pending`: account -> sum of what no invoice has taken; `requests`: how many came."""

    now: int
    invoices: tuple[InvoiceThere, ...]
    pending: Mapping[str, int]
    requests: int


def left_at_stripe(home: Path) -> LeftAtStripe:
    """Read what the demo in `home` has left."""
    kept = state_file.load(home / "demo" / "stripe.state")
    world = kept.world
    account_of = {row["id"]: row["metadata"]["bp_account"] for row in world.table("customer").oldest()}
    pending: dict[str, int] = defaultdict(int)
    for item in world.table("invoiceitem").find(pending=True):
        pending[account_of[item["customer"]]] += item["amount"]
    invoices = [
        InvoiceThere(
            account_id=account_of[row["customer"]],
            status=row["status"],
            created=row["created"],
            total=row["total"],
            paid=row["amount_paid"],
            lines=tuple((line["description"], line["amount"]) for line in world.lines[row["id"]] if line["amount"]),
        )
        for row in world.table("invoice").oldest()
    ]
    return LeftAtStripe(
        now=world.now,
        invoices=tuple(one for one in invoices if one.lines),
        pending=dict(pending),
        requests=kept.requests,
    )
