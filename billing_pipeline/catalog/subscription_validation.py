"""Subscriptions of a catalog against its accounts, plans and prices, and against each other -> findings. Pure.

Not here: the shape of one (subscription_tables), its phases (phases), all other entries (validation).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations

from billing_pipeline.amounts import exact_text
from billing_pipeline.catalog import double_billing
from billing_pipeline.catalog.currencies import places_problem
from billing_pipeline.catalog.entries import Catalog, Kind, Plan, Price, Subscription
from billing_pipeline.catalog.files import FILES, Finding
from billing_pipeline.catalog.models import FlatFee
from billing_pipeline.catalog.phases import Beginning, Change, Life, Phase, PlanTerms, life_of
from billing_pipeline.catalog.subscription_tables import SubscriptionTable

_OPEN = datetime.max.replace(tzinfo=UTC)
_Spans = Sequence[tuple[datetime, datetime]]


class Lives:
    """The lives of subscriptions by the versions of each plan. Many begin alike and have no changes: theirs is found out once."""

    def __init__(self, plans: Mapping[str, Sequence[PlanTerms]]) -> None:
        self._plans = plans
        self._unchanged: dict[Beginning, Life] = {}

    def of(self, begin: Beginning, changes: Sequence[Change]) -> Life:
        """Return what `life_of` does; the same value for all that begin alike and have no changes."""
        if changes:
            return life_of(begin, changes, self._plans)
        life = self._unchanged.get(begin)
        if life is None:
            life = self._unchanged[begin] = life_of(begin, (), self._plans)
        return life


def subscription_of(table: SubscriptionTable, *, zone: str, lives: Lives) -> tuple[Subscription, tuple[Finding, ...]]:
    """Return the subscription with its phases, and what is wrong with them; then it has one phase."""
    begin = table.beginning(zone)
    life = lives.of(begin, [change.entry() for change in table.changes])
    subscription = Subscription(
        subscription_id=table.id,
        account_id=table.account,
        plan_id=table.plan,
        starts_at=table.starts_at,
        ends_at=life.phases[-1].ends_at if life.phases else table.ends_at,
        anchor=begin.anchor,
        initial_balance=table.initial_balance,
        invoice_with=table.invoice_with,
        stripe_subscription=table.stripe_subscription,
        phases=life.phases,
        coupons=tuple(coupon.entry() for coupon in table.coupons),
    )
    return subscription, tuple(_finding(subscription, field, message) for field, message in life.problems)


def plan_terms(plans: Iterable[Plan]) -> Mapping[str, Sequence[PlanTerms]]:
    """Return what phases need to know of plans: the versions of each, those always in force first."""
    found: dict[str, list[PlanTerms]] = {}
    for plan in plans:
        terms = PlanTerms(version=plan.version, effective_from=plan.effective_from, existing=plan.existing)
        found.setdefault(plan.plan_id, []).append(terms)
    for versions in found.values():
        versions.sort(key=lambda one: (one.effective_from is not None, one.effective_from or _OPEN, one.version))
    return found


def subscription_findings(catalog: Catalog) -> Iterator[Finding]:
    """Yield what is wrong with subscriptions whose phases are known."""
    coverage = {price.price_id: tuple(_covered(price)) for price in catalog.prices.values()}
    # Of many subscriptions few differ in what is looked at here.
    known: dict[object, tuple[tuple[str, str], ...]] = {}
    for subscription in catalog.subscriptions.values():
        account = catalog.accounts.get(subscription.account_id)
        if account is None:
            yield _finding(subscription, "account", f"{subscription.account_id!r} is not an account")
        currency = None if account is None else account.currency
        span = subscription.starts_at, subscription.ends_at
        seen = subscription.phases, subscription.plan_id, span, subscription.initial_balance, currency
        # Quantities are compared, and are not in the phases' hash.
        problems = known.get(seen)
        if problems is None:
            problems = known[seen] = tuple(_one_subscription(catalog, subscription, currency, coverage))
        for field, message in problems:
            yield _finding(subscription, field, message)
    for account_id, subscriptions in catalog.subscriptions_by_account.items():
        for one, other in combinations(subscriptions, 2):
            for message in sorted(set(_billed_twice(catalog, account_id, one, other))):
                yield _finding(other, "plan", message)


def _billed_twice(catalog: Catalog, account_id: str, one: Subscription, other: Subscription) -> Iterator[str]:
    for first, second in _together(one, other):
        prices = _charged(catalog, first), _charged(catalog, second)
        for what in double_billing.in_two_plans(*prices, catalog.meters):
            yield (
                f"bills {what} of account {account_id!r} together with {one.subscription_id!r}, "
                "which has it at the same time: end one of them, or put one on a plan without it"
            )
        if all(any(price.is_prepaid for price in found) for found in prices):
            yield f"spends the balance of {account_id!r} together with {one.subscription_id!r}: end one of them"


def _together(one: Subscription, other: Subscription) -> Iterator[tuple[Phase, Phase]]:
    if one.starts_at < (other.ends_at or _OPEN) and other.starts_at < (one.ends_at or _OPEN):
        for first in one.phases:
            for second in other.phases:
                if first.starts_at < (second.ends_at or _OPEN) and second.starts_at < (first.ends_at or _OPEN):
                    yield first, second


def _one_subscription(
    catalog: Catalog, subscription: Subscription, currency: str | None, coverage: Mapping[str, _Spans]
) -> Iterator[tuple[str, str]]:
    """Yield (field, message) of what is wrong with a subscription of an account in `currency`: its names stand in no message."""
    if subscription.ends_at is not None and subscription.ends_at <= subscription.starts_at:
        yield ("ends_at", f"{subscription.ends_at.isoformat()} is not after the start")
        return
    charged = [(phase, _charged(catalog, phase)) for phase in subscription.phases]
    prices = {price.price_id: price for _, found in charged for price in found}
    if currency is not None:
        if subscription.initial_balance is not None:
            if prices and not any(price.is_prepaid for price in prices.values()):
                message = f"plan {subscription.plan_id!r} has no prepaid price: leave it out"
                yield ("initial_balance", message)
            if (places := places_problem(subscription.initial_balance, currency)) is not None:
                yield ("initial_balance", places)
        for price in prices.values():
            if price.currency != currency:
                message = (
                    f"price {price.price_id!r} is in {price.currency}, the account in {currency}: "
                    "put it on a plan in its currency, or correct the one that is wrong"
                )
                yield ("plan", message)
    for price in prices.values():
        phases = [phase for phase, found in charged if price in found]
        if not all(_is_covered(phase, coverage[price.price_id]) for phase in phases):
            spans = ", ".join(
                f"{first.isoformat()} to {'open' if last == _OPEN else last.isoformat()}"
                for first, last in coverage[price.price_id]
            )
            message = f"price {price.price_id!r} has a gap in the subscription: it is in force {spans}"
            yield ("starts_at", message)
    yield from _quantity_findings(catalog, subscription, charged)


def _quantity_findings(
    catalog: Catalog, subscription: Subscription, charged: Sequence[tuple[Phase, Sequence[Price]]]
) -> Iterator[tuple[str, str]]:
    """Find fees by a quantity that the subscription does not say, and quantities that nothing asks for."""
    missing: dict[str, str] = {}
    for phase, prices in charged:
        for price in prices:
            missing.update(dict.fromkeys(_asked_by(price) - phase.quantities.keys(), price.price_id))
    # Prices that a trial or a pause leaves out ask for it too, later.
    asked_for = {
        name
        for phase in subscription.phases
        if (plan := catalog.plan_versions.get((phase.plan_id, phase.plan_version))) is not None
        for price_id in plan.prices
        if price_id in catalog.prices
        for name in _asked_by(catalog.prices[price_id])
    }
    for name, price_id in sorted(missing.items()):
        message = f"price {price_id!r} asks for each {name}: say how many, such as quantities = {{ {name} = 5 }}"
        yield ("quantities", message)
    for phase, prices in charged:
        for price in prices:
            for message in _beyond_last_tiers(price, phase):
                yield ("quantities", message)
    said = {name for phase, _ in charged for name in phase.quantities}
    for name in sorted(said - asked_for):
        yield (f"quantities.{name}", "is asked for by no price of its plans: correct the name")


def _asked_by(price: Price) -> set[str]:
    """Return the quantities whose units a price charges for."""
    per = (version.model.per for version in price.versions if isinstance(version.model, FlatFee))
    return {one for one in per if one is not None}


def _beyond_last_tiers(price: Price, phase: Phase) -> Iterator[str]:
    """Yield a sentence for each version whose bounded last tier is below what a phase holds."""
    for version in price.versions:
        fee = version.model
        if isinstance(fee, FlatFee) and fee.per is not None and fee.per in phase.quantities and fee.tiers:
            last, quantity = fee.tiers[-1].up_to, phase.quantities[fee.per]
            if last is not None and quantity > last:
                yield (
                    f"{exact_text(quantity)} {fee.per} are beyond the last tier of price {price.price_id!r}, which ends at "
                    f"{exact_text(last)}: leave up_to out of its last tier, or say less here"
                )


def _charged(catalog: Catalog, phase: Phase) -> tuple[Price, ...]:
    """Return the known prices that are charged in a phase."""
    plan = catalog.plan_versions.get((phase.plan_id, phase.plan_version))
    if plan is None:
        return ()
    known = (catalog.prices[price_id] for price_id in plan.prices if price_id in catalog.prices)
    return tuple(price for price in known if plan.charges(price, phase.status))


def _is_covered(phase: Phase, spans: _Spans) -> bool:
    end = phase.ends_at or _OPEN
    return any(first <= phase.starts_at and end <= last for first, last in spans)


def _covered(price: Price) -> Iterator[tuple[datetime, datetime]]:
    """Yield the spans without a gap in which `price` is in force."""
    start: datetime | None = None
    end = datetime.min.replace(tzinfo=UTC)
    for version in price.versions:
        if start is None or version.effective_from > end:
            if start is not None:
                yield start, end
            start = version.effective_from
        end = version.effective_to or _OPEN
    if start is not None:
        yield start, end


def _finding(subscription: Subscription, field: str, message: str) -> Finding:
    return Finding(file=FILES[Kind.SUBSCRIPTION], entry=subscription.subscription_id, field=field, message=message)
