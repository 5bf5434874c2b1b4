"""Changes of a final period: which of them book themselves, and which wait for a person. Pure.

A period's change is the sum of its charges' changes, each without its sign: what moves between two charges counts too. Not
here: what a charge is rated at (rating), keeping proposals and decisions (proposal_store).
"""

import json
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID, uuid5

from billing_pipeline.amounts import Money, exact_product, to_money
from billing_pipeline.invoicing.policy import Threshold
from billing_pipeline.periods import Window

# Made once with uuid4. Never change it: ids of kept proposals are made from it.
_PROPOSAL_NAMESPACE = UUID("c1b9a0d4-58f7-4a0c-9d46-1f0b7b8a2e63")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeChange:
    """What a rating makes of one charge. `booked` is 0 of a charge that is new; `rating_digest` names what was rated."""

    charge_id: UUID
    rating_digest: str
    booked: Money
    proposed: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodChange:
    """What a rating makes of a final period: its charges that change, and what these come to in the books (`booked`)."""

    account_id: str
    subscription_id: str
    period: Window
    booked: Money
    charges: tuple[ChargeChange, ...]

    @property
    def size(self) -> Money:
        """Return the sum of the changes, each without its sign."""
        amounts = (abs((change.proposed - change.booked).minor_units) for change in self.charges)
        return Money(sum(amounts), self.booked.currency)

    @property
    def proposed(self) -> Money:
        """Return what the period would come to."""
        amounts = ((change.proposed - change.booked).minor_units for change in self.charges)
        return self.booked + Money(sum(amounts), self.booked.currency)

    @property
    def proposal_id(self) -> UUID:
        """Return the id of the proposal to book this: the same rating is the same proposal."""
        rated = sorted(f"{change.charge_id}:{change.rating_digest}:{change.booked}" for change in self.charges)
        parts = (self.subscription_id, self.period.start.isoformat(), self.period.end.isoformat(), *rated)
        return uuid5(_PROPOSAL_NAMESPACE, json.dumps(parts))


def waits(change: PeriodChange, threshold: Threshold | None) -> bool:
    """Return whether a person has to approve the change; without a threshold for the currency none waits.

    Of 400.00 booked, with 500.00 absolute, 25 % relative and 10.00 at least: 101.00 more waits, 99.00 does not.
    """
    size, currency = change.size.minor_units, change.booked.currency
    if threshold is None or size == 0:
        return False
    if size > to_money(threshold.absolute, currency).minor_units:
        return True
    share = exact_product(threshold.relative, times=Decimal(abs(change.booked.minor_units)), over=Decimal(1))
    return size >= to_money(threshold.at_least, currency).minor_units and size > share
