"""Entitlements: what an account may use -> an access decision with its reason, and what lies beyond a limit. Pure.

A feature is boolean (on or off), static (a text such as a support level) or metered (a limit on a meter's quantity, in the
meter's unit, per billing period, per UTC day, or for ever). Entitlements come from plans, subscriptions and accounts; those of one
feature add up. Not here: usage (meters), what beyond a limit costs (rating), keeping allowances (resources/entitlements).
See docs/adr/0021-entitlements.md.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from itertools import accumulate, pairwise

from billing_pipeline.amounts import Exact, simplest
from billing_pipeline.catalog import Beyond, Entitlement, Feature, FeatureType, GivenTo, Reset
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import Window

_DAY = timedelta(days=1)


class EntitlementInvalidError(BillingError):
    """An entitlement that does not fit its feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What all sources together give of one feature. `limit` None is unlimited; `sources` are entitlement ids, ascending."""

    feature_id: str
    feature_type: FeatureType
    enabled: bool
    limit: Decimal | None
    beyond: Beyond
    value: str | None
    sources: tuple[str, ...]


class Reason(StrEnum):
    """Why access is given or denied."""

    NOT_ENTITLED = "not_entitled"
    DISABLED = "disabled"
    ENABLED = "enabled"
    UNLIMITED = "unlimited"
    WITHIN_LIMIT = "within_limit"
    LIMIT_REACHED = "limit_reached"
    BEYOND_SOFT_LIMIT = "beyond_soft_limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether access is given, and why. Quantities are in the meter's unit; None where there is no limit.

    `remaining` and `overage` are before the request that was asked for.
    """

    is_allowed: bool
    reason: Reason
    limit: Decimal | None = None
    used: Exact | None = None
    remaining: Exact | None = None
    overage: Exact | None = None
    value: str | None = None


def combine(feature: Feature, entitlements: Iterable[Entitlement]) -> Allowance | None:
    """Return what `entitlements` of one feature and account, valid at one instant, give together; None for none.

    Limits add up and any unlimited one wins; any soft one makes the whole soft. 1000 from the plan and 500 from the account
    are 1500; the same entitlement twice, by two subscriptions, counts twice. A static value is that of the narrowest source, of
    several there that of the newest id.

    Raises:
        EntitlementInvalidError: one is of another feature.
    """
    found = sorted(entitlements, key=lambda one: one.entitlement_id)
    strange = [one.entitlement_id for one in found if one.feature_id != feature.feature_id]
    if strange:
        raise EntitlementInvalidError(
            f"{', '.join(strange)} are not of feature {feature.feature_id!r}",
            bill="nothing is decided or billed with them",
            fix="combine the entitlements of each feature by themselves",
        )
    enabled = [one for one in found if one.enabled]
    if not found:
        return None
    limits = [one.limit for one in enabled if one.limit is not None]
    is_unlimited = len(limits) < len(enabled)
    values = sorted(
        (_PRECEDENCE[one.given_to], one.entitlement_id, one.value) for one in enabled if one.value is not None
    )
    return Allowance(
        feature_id=feature.feature_id,
        feature_type=feature.feature_type,
        enabled=bool(enabled),
        limit=None if is_unlimited else sum(limits, Decimal(0)),
        beyond=Beyond.ALLOW if any(one.beyond is Beyond.ALLOW for one in enabled) else Beyond.DENY,
        value=values[-1][2] if values else None,
        sources=tuple(dict.fromkeys(one.entitlement_id for one in found)),
    )


_PRECEDENCE = {GivenTo.PLAN: 0, GivenTo.SUBSCRIPTION: 1, GivenTo.ACCOUNT: 2}


def decide(allowance: Allowance | None, *, used: Exact = Decimal(0), requested: Exact = Decimal(1)) -> Decision:
    """Return whether `requested` more may be used after `used`, and why.

    1000 of 1000 used: a hard limit denies (limit_reached), a soft one allows (beyond_soft_limit). Asking for more than what
    remains is denied whole by a hard limit: 999 of 1000 used, 2 requested.
    """
    if allowance is None:
        return Decision(is_allowed=False, reason=Reason.NOT_ENTITLED)
    if not allowance.enabled:
        return Decision(is_allowed=False, reason=Reason.DISABLED)
    if allowance.feature_type is not FeatureType.METERED:
        return Decision(is_allowed=True, reason=Reason.ENABLED, value=allowance.value)
    if allowance.limit is None:
        return Decision(is_allowed=True, reason=Reason.UNLIMITED, used=used, overage=Decimal(0))
    remaining, beyond = _above(allowance.limit, used), _above(used, allowance.limit)
    if Fraction(used) + Fraction(requested) <= Fraction(allowance.limit):
        reason, is_allowed = Reason.WITHIN_LIMIT, True
    elif allowance.beyond is Beyond.ALLOW:
        reason, is_allowed = Reason.BEYOND_SOFT_LIMIT, True
    else:
        reason, is_allowed = Reason.LIMIT_REACHED, False
    return Decision(
        is_allowed=is_allowed,
        reason=reason,
        limit=allowance.limit,
        used=used,
        remaining=remaining,
        overage=beyond,
    )


def overage(limit: Decimal | None, usage: Sequence[Exact], reset: Reset) -> tuple[Exact, ...]:
    """Return what of each window's usage lies beyond `limit`, in the order of the windows.

    `usage` is per counting window: per billing period for `period`, per day for `day`. For `never` the count goes on from
    window to window, and each window gets what it adds: limit 100 on 80, 80, 50 is 0, 60, 50. Daily 100 on 150, 50, 120 is
    50, 0, 20. No limit: 0.
    """
    if limit is None:
        return tuple(Decimal(0) for _ in usage)
    if reset is not Reset.NEVER:
        return tuple(_above(used, limit) for used in usage)
    totals = accumulate((Fraction(used) for used in usage), initial=Fraction(0))
    beyond = [Fraction(_above(total, limit)) for total in totals]
    return tuple(simplest(after - before) for before, after in pairwise(beyond))


def _above(value: Exact, bound: Exact) -> Exact:
    """Return by how much `value` is above `bound`, or 0."""
    return simplest(max(Fraction(value) - Fraction(bound), Fraction(0)))


def counting_window(reset: Reset, *, period: Window, life_start: datetime, at: datetime) -> Window:
    """Return the window over which usage is counted at `at`, which lies in `period`.

    `period` is the billing period; `life_start` is when the account's first subscription began.
    """
    match reset:
        case Reset.PERIOD:
            return period
        case Reset.NEVER:
            return Window(life_start, period.end)
        case Reset.DAY:
            midnight = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            return Window(midnight, midnight + _DAY)


def crossed(*, used: Exact, limit: Decimal | None, thresholds: Sequence[Decimal]) -> Iterator[Decimal]:
    """Yield the thresholds (percents of `limit`, ascending) that `used` has reached: 801 of 1000 are past 50 and 80.

    Unlimited, or a limit of 0, has none.
    """
    if not limit:
        return
    for threshold in sorted(thresholds):
        if 100 * Fraction(used) >= Fraction(threshold) * Fraction(limit):
            yield threshold
