"""What a draft catalog can change: (loaded catalog, draft, their differences) -> which charges are rated anew. Pure.

A charge that the draft cannot change is, rated with it from the same usage by the same code, what the loaded catalog makes of it.
Not here: whether the books are what the loaded catalog makes of the usage that is stored (resources/backtest).
"""

from collections.abc import Collection
from dataclasses import replace

from billing_pipeline.catalog import Catalog, Kind, Price
from billing_pipeline.catalog.differences import Difference
from billing_pipeline.period_charges import shares_amounts
from billing_pipeline.periods import Window

# They say what may be used and what is paid before, never what a charge comes to.
_BESIDE_CHARGES = frozenset({Kind.FEATURE, Kind.ENTITLEMENT, Kind.RECURRING_CREDIT})


class DraftReach:
    """Tells the charges that a draft can change from those that it leaves as they are."""

    def __init__(
        self, base: Catalog, draft: Catalog, differences: Collection[Difference], *, looked_at: Collection[str]
    ) -> None:
        """Take both catalogs. `looked_at`: subscriptions of which every charge is to be rated, whatever the draft says."""
        self._base = base
        self._draft = draft
        self._prices = frozenset(one.entry_id for one in differences if one.kind is Kind.PRICE)
        self._whole = frozenset(looked_at) | {
            subscription_id
            for one in differences
            if one.kind is not Kind.PRICE and one.kind not in _BESIDE_CHARGES
            for subscription_id in one.subscriptions
        }
        self._subscriptions: dict[str, bool] = {}
        self._versions: dict[tuple[str, Window], bool] = {}

    def changes(self, subscription_id: str, price_id: str, period: Window) -> bool:
        """Tell whether the draft can change that charge: where its subscription, plan, coupons or account are others, where the
        price is another in the period, and where a changed price shares amounts with it."""
        whole = self._subscriptions.get(subscription_id)
        if whole is None:
            whole = self._subscriptions[subscription_id] = self._changes_all_of(subscription_id)
        if whole:
            return True
        if price_id not in self._prices:
            return self._draft.prices[price_id].is_prepaid if price_id in self._draft.prices else True
        key = (price_id, period)
        changes = self._versions.get(key)
        if changes is None:
            changes = self._versions[key] = self._changes_price(price_id, period)
        return changes

    def _changes_all_of(self, subscription_id: str) -> bool:
        if subscription_id in self._whole:
            return True
        one, other = self._base.subscriptions.get(subscription_id), self._draft.subscriptions.get(subscription_id)
        if one is None or other is None:
            return True
        # A change of one price can change the charge of another where an amount is shared out over them.
        return shares_amounts(self._base, one) or shares_amounts(self._draft, other)

    def _changes_price(self, price_id: str, period: Window) -> bool:
        one, other = self._base.prices.get(price_id), self._draft.prices.get(price_id)
        if one is None or other is None or other.is_prepaid:
            return True
        return _inside(one, period) != _inside(other, period)


def _inside(price: Price, period: Window) -> tuple[Price, int]:
    """Return the price as far as it counts in the period, and its last version, which a discount of nothing is told of; where a
    version begins or ends outside of the period does not matter."""
    versions = []
    for version in price.versions:
        part = period.overlap(version.effective_from, version.effective_to)
        if part is not None:
            versions.append(replace(version, effective_from=part.start, effective_to=part.end))
    return replace(price, versions=tuple(versions)), price.versions[-1].version
