"""Which of Stripe's operations are modelled: one table, by the names of operations; the rest answers 501."""

from collections.abc import Mapping

from resources.stripe_sim import (
    credit_notes,
    customers,
    event_feed,
    invoice_items,
    invoices,
    line_changes,
    meter_events,
    meters,
    payments,
    previews,
    prices,
    subscription_items,
    subscriptions,
    test_clocks,
    thin_events,
    webhook_endpoints,
)
from resources.stripe_sim.calls import Call, Modelled
from resources.stripe_sim.operations import Operation
from resources.stripe_sim.refusals import not_modelled
from resources.stripe_sim.rendering import expanded
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World

MODELLED: Mapping[str, Modelled] = {
    **customers.OPERATIONS,
    **prices.OPERATIONS,
    **subscriptions.OPERATIONS,
    **subscription_items.OPERATIONS,
    **invoice_items.OPERATIONS,
    **invoices.OPERATIONS,
    **line_changes.OPERATIONS,
    **payments.OPERATIONS,
    **previews.OPERATIONS,
    **credit_notes.OPERATIONS,
    **webhook_endpoints.OPERATIONS,
    **event_feed.OPERATIONS,
    **meters.OPERATIONS,
    **meter_events.OPERATIONS,
    **thin_events.OPERATIONS,
    **test_clocks.OPERATIONS,
}


def checked(operation: Operation, params: Mapping[str, object]) -> Modelled:
    """Return the operation, if it and all of these parameters are modelled.

    Raises:
        ApiError: 501.
    """
    found = MODELLED.get(operation.name)
    if found is None:
        raise not_modelled(operation.name)
    others = sorted(set(params) - found.takes - {"expand"})
    if others:
        raise not_modelled(f"the parameter {others[0]} of {operation.name}")
    return found


def run(world: World, found: Modelled, call: Call) -> Row:
    """Carry an operation out, and return the answer with what was asked to be expanded."""
    answer = found.run(world, call)
    return expanded(world, answer, call.params.get("expand", ()))
