"""Find what features, entitlements and recurring credits say that cannot be: unknown ids, limits without meters. Pure.

Not here: the shape of each (feature_tables).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import pairwise

from billing_pipeline.amounts import exact_text, minor_digits
from billing_pipeline.catalog.entries import Catalog, Kind
from billing_pipeline.catalog.feature_tables import RecurringCreditTable
from billing_pipeline.catalog.features import Entitlement, Feature, FeatureType, GivenTo
from billing_pipeline.catalog.files import FILES, Finding
from billing_pipeline.meters import Aggregation

_BEGIN = datetime.min.replace(tzinfo=UTC)
# A limit is compared with what usage rows come to by themselves: sums, and the largest of them.
_COUNTED = (Aggregation.COUNT, Aggregation.SUM, Aggregation.MAX)


def findings(catalog: Catalog, credits: Iterable[RecurringCreditTable]) -> Iterator[Finding]:
    """Yield everything that is wrong with them."""
    for feature in catalog.features.values():
        yield from _feature_findings(catalog, feature)
    for entitlement in catalog.entitlements.values():
        yield from _entitlement_findings(catalog, entitlement)
    yield from _two_values(catalog.entitlements.values())
    for credit in credits:
        yield from _credit_findings(catalog, credit)


def _finding(kind: Kind, entry: str, field: str, message: str) -> Finding:
    return Finding(file=FILES[kind], entry=entry, field=field, message=message)


def _feature_findings(catalog: Catalog, feature: Feature) -> Iterator[Finding]:
    if feature.meter_id is None:
        return
    meter = catalog.meters.get(feature.meter_id)
    if meter is None:
        yield _finding(Kind.FEATURE, feature.feature_id, "meter", f"{feature.meter_id!r} is not a meter")
    elif meter.aggregation not in _COUNTED:
        message = (
            f"a limit is on a meter of {', '.join(_COUNTED)}; {feature.meter_id!r} is of {meter.aggregation.value}, "
            "whose windows cannot be put together in one query"
        )
        yield _finding(Kind.FEATURE, feature.feature_id, "meter", message)


def _entitlement_findings(catalog: Catalog, entitlement: Entitlement) -> Iterator[Finding]:
    def finding(field: str, message: str) -> Finding:
        return _finding(Kind.ENTITLEMENT, entitlement.entitlement_id, field, message)

    receivers = {
        GivenTo.PLAN: catalog.plans,
        GivenTo.SUBSCRIPTION: catalog.subscriptions,
        GivenTo.ACCOUNT: catalog.accounts,
    }
    kind = entitlement.given_to
    if entitlement.given_to_id not in receivers[kind]:
        article = "an" if kind is GivenTo.ACCOUNT else "a"
        yield finding(kind.value, f"{entitlement.given_to_id!r} is not {article} {kind.value}")
    feature = catalog.features.get(entitlement.feature_id)
    if feature is None:
        yield finding("feature", f"{entitlement.feature_id!r} is not a feature")
        return
    if entitlement.limit is not None and feature.feature_type is not FeatureType.METERED:
        yield finding("limit", f"feature {feature.feature_id!r} is {feature.feature_type.value} and has no limit")
    is_static = feature.feature_type is FeatureType.STATIC
    if (entitlement.value is not None) != is_static and entitlement.enabled:
        has = "needs a value" if is_static else f"is {feature.feature_type.value} and has no value"
        yield finding("value", f"feature {feature.feature_id!r} {has}")


def _two_values(entitlements: Iterable[Entitlement]) -> Iterator[Finding]:
    """Find receivers that are given two values of one static feature at one time."""
    by_receiver: dict[tuple[str, GivenTo, str], list[Entitlement]] = defaultdict(list)
    for one in entitlements:
        if one.value is not None:
            by_receiver[one.feature_id, one.given_to, one.given_to_id].append(one)
    for found in by_receiver.values():
        for before, after in pairwise(sorted(found, key=lambda one: one.valid_from or _BEGIN)):
            if before.valid_to is None or after.valid_from is None or after.valid_from < before.valid_to:
                message = f"{before.entitlement_id!r} gives the same feature a value at the same time: end one of them"
                yield _finding(Kind.ENTITLEMENT, after.entitlement_id, "value", message)


def _credit_findings(catalog: Catalog, credit: RecurringCreditTable) -> Iterator[Finding]:
    def finding(field: str, message: str) -> Finding:
        return _finding(Kind.RECURRING_CREDIT, credit.id, field, message)

    account = catalog.accounts.get(credit.account)
    if account is None:
        yield finding("account", f"{credit.account!r} is not an account")
    elif credit.id in catalog.recurring_credits:
        granted = catalog.recurring_credits[credit.id].amount
        if granted.major != credit.amount or granted.minor_units == 0:
            places = minor_digits(account.currency)
            yield finding(
                "amount", f"{exact_text(credit.amount)} is not whole at the {places} places of {account.currency}"
            )
    if credit.ends_at is not None and credit.ends_at <= credit.starts_at:
        yield finding("ends_at", f"{credit.ends_at.isoformat()} is not after the start")
