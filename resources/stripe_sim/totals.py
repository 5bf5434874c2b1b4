"""What an invoice adds up to: subtotal and total of its lines, what is due of it with the customer's balance."""

from collections.abc import Sequence

from resources.stripe_sim.lines import lines_of, measure
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World


def count_totals(world: World, invoice: Row) -> None:
    """Bring a draft's totals up to date."""
    lines = lines_of(world, invoice["id"])
    for line in lines:
        measure(world, line)
    invoice |= totals_of(world, invoice, lines)
    world.save(invoice)


def totals_of(world: World, invoice: Row, lines: Sequence[Row]) -> Row:
    """Return the totals that these lines give an invoice."""
    total = sum(line["amount"] for line in lines)
    customer = world.table("customer").get(invoice["customer"])
    balance = 0 if customer is None else customer["balance"]
    due = max(0, total + balance)
    return {
        "subtotal": total,
        "subtotal_excluding_tax": total,
        "total": total,
        "total_excluding_tax": total,
        "starting_balance": balance,
        "amount_due": due,
        "amount_remaining": due - invoice["amount_paid"],
    }
