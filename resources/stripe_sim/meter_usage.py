"""What a meter's events add up to for a customer in a window, as it is known by now."""

from decimal import Decimal

from resources.stripe_sim.world import World


def billed_quantity(world: World, meter_id: str, customer_id: str, start: int, end: int) -> Decimal:
    """Return the aggregate over `[start, end)`; less than 0 is billed as 0."""
    return Decimal(0)
