"""A customer's balance: what it owes (more than 0) or is owed (less than 0), moved only with a transaction."""

from collections.abc import Mapping

from resources.stripe_sim.money import DEFAULT_CURRENCY
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World


def move_balance(
    world: World,
    customer: Row,
    amount: int,
    *,
    kind: str,
    invoice: str | None = None,
    credit_note: str | None = None,
    description: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Row | None:
    """Add to what a customer owes (less than 0: credit), with a transaction; none for an amount of 0."""
    if amount == 0:
        return None
    customer["balance"] += amount
    world.save(customer)
    return world.make(
        "customer_balance_transaction",
        amount=amount,
        currency=customer["currency"] or DEFAULT_CURRENCY,
        customer=customer["id"],
        ending_balance=customer["balance"],
        type=kind,
        invoice=invoice,
        credit_note=credit_note,
        description=description,
        metadata=dict(metadata or {}),
    )
