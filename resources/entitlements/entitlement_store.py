"""Keep what each account may use, answer whether it may, and find thresholds that usage has passed.

Allowances are written from the current catalog over a horizon around an instant; a decision is one statement over them and
`usage.metered`, so it is as fresh as the usage that is built (`counted_until`). Instants are the caller's. Not here: the rules
(billing_pipeline.entitlements), who is told (assets).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import psycopg

from billing_pipeline.catalog import Beyond, Catalog, Entitlement, Feature, FeatureType, GivenTo, Reset, Subscription
from billing_pipeline.catalog.phases import PhaseStatus
from billing_pipeline.entitlements import Allowance, Decision, combine, crossed, decide
from billing_pipeline.periods import Window, billing_periods
from resources.catalog_store import current_catalog
from resources.database import Database

LOCK = "entitlement/allowance"
# Allowances are kept for periods that meet this span around the instant of the refresh: late usage of the period before, and the
# next period before its first refresh.
KEPT_BEFORE, KEPT_AFTER = timedelta(days=62), timedelta(days=62)
_COLUMNS = (
    "account_id, feature_id, valid_from, valid_to, feature_type, is_enabled, limit_quantity, beyond, static_value, meter_id, "
    "aggregation, reset, counted_from, counted_to, thresholds, sources, catalog_sha256"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowanceSpan:
    """What an account may use of a feature in `valid`, counted over `counted`; `life_start` is its first subscription's begin."""

    account_id: str
    feature: Feature
    allowance: Allowance
    valid: Window
    counted: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A decision, and what it rests on. `counted_until` is the end of the newest usage row counted; None: no usage yet."""

    decision: Decision
    sources: tuple[str, ...]
    counted: Window | None
    counted_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A threshold (percent of the limit) that usage has passed in the window that begins at `counted_from`."""

    account_id: str
    feature_id: str
    counted_from: datetime
    threshold: Decimal
    limit: Decimal
    used: Decimal


@dataclass(frozen=True, slots=True)
class EntitlementStore:
    """The entitlements of one database."""

    database: Database

    def refresh(self, *, now: datetime) -> int:
        """Write the allowances of the current catalog around `now`, and return how many there are.

        Raises:
            CatalogNotLoadedError: there is no catalog.
        """
        with self.database.transaction("catalog", LOCK) as connection:
            catalog = current_catalog(connection)
            spans = list(allowance_spans(catalog, Window(now - KEPT_BEFORE, now + KEPT_AFTER)))
            connection.execute("delete from entitlement.allowance")
            _write(connection, catalog, spans)
        return len(spans)

    def access(self, account_id: str, feature_id: str, *, at: datetime, requested: Decimal = Decimal(1)) -> Access:
        """Return whether the account may use `requested` more of the feature at `at`, and why. One query.

        An account without the feature, or outside of all its subscriptions, is not entitled.
        """
        with self.database.reading() as connection:
            row = connection.execute(_ACCESS, {"account": account_id, "feature": feature_id, "at": at}).fetchone()
        if row is None:
            return Access(decision=decide(None), sources=(), counted=None, counted_until=None)
        allowance = Allowance(
            feature_id=feature_id,
            feature_type=FeatureType(row[0]),
            enabled=row[1],
            limit=row[2],
            beyond=Beyond(row[3]),
            value=row[4],
            sources=tuple(row[5]),
        )
        decision = decide(allowance, used=row[8], requested=requested)
        is_metered = allowance.feature_type is FeatureType.METERED
        counted = Window(row[6], row[7]) if is_metered else None
        return Access(decision=decision, sources=allowance.sources, counted=counted, counted_until=row[9])

    def features_of(self, account_id: str, *, at: datetime) -> tuple[str, ...]:
        """Return the features of which the account has an allowance at `at`, ascending."""
        with self.database.reading() as connection:
            rows = connection.execute(
                """
                select feature_id
                from entitlement.allowance
                where account_id = %s and valid_from <= %s and valid_to > %s
                order by feature_id
                """,
                [account_id, at, at],
            ).fetchall()
        return tuple(row[0] for row in rows)

    def record_crossings(self, *, now: datetime) -> tuple[Crossing, ...]:
        """Find thresholds that usage has passed in windows that are kept, write those not known yet and return them.

        A limit that was raised afterwards does not take one back; the same threshold of a window is written once.
        """
        with self.database.transaction(LOCK) as connection:
            found = list(_crossings(connection, now))
            written = set()
            for crossing in found:
                row = connection.execute(
                    """
                    insert into entitlement.threshold_crossing
                        (account_id, feature_id, counted_from, threshold, limit_quantity, used_quantity, found_at)
                    values (%s, %s, %s, %s, %s, %s, %s)
                    on conflict do nothing
                    returning account_id
                    """,
                    [
                        crossing.account_id,
                        crossing.feature_id,
                        crossing.counted_from,
                        crossing.threshold,
                        crossing.limit,
                        crossing.used,
                        now,
                    ],
                ).fetchone()
                if row is not None:
                    written.add(crossing)
        return tuple(crossing for crossing in found if crossing in written)


# Usage of the window up to the question: what is built of it. A row belongs to the window in which it begins; rows are cut where
# periods begin. A day window is the UTC day of the question.
_ACCESS = b"""
    with
    allowed as (
        select
            *,
            case reset when 'day' then date_trunc('day', %(at)s::timestamptz, 'UTC') else counted_from end as since,
            case reset when 'day' then date_trunc('day', %(at)s::timestamptz, 'UTC') + interval '1 day' else counted_to end
                as until
        from entitlement.allowance
        where account_id = %(account)s and feature_id = %(feature)s and valid_from <= %(at)s and valid_to > %(at)s
    ),
    used as (
        select
            case when allowed.aggregation = 'max' then max(metered.quantity) else sum(metered.quantity) end as quantity,
            max(metered.period_end) as counted_until
        from allowed
        join usage.metered as metered
            on metered.account_id = allowed.account_id
            and metered.meter_id = allowed.meter_id
            and metered.period_start >= allowed.since
            and metered.period_start < allowed.until
            and metered.period_start <= %(at)s
        group by allowed.aggregation
    )
    select
        feature_type, is_enabled, limit_quantity, beyond, static_value, sources, since, until,
        coalesce((select quantity from used), 0), (select counted_until from used)
    from allowed
"""


def allowance_spans(catalog: Catalog, window: Window) -> Iterator[AllowanceSpan]:
    """Yield what each account may use in `window`, by feature and in order of time.

    A span ends where a period or a phase of one of the account's subscriptions, or an entitlement, begins or ends. A paused
    subscription gives nothing. Of two subscriptions at once, the period of the one that began first is counted over.
    """
    given = _by_receiver(catalog.entitlements.values())
    for account_id, subscriptions in catalog.subscriptions_by_account.items():
        in_order = sorted(subscriptions, key=lambda one: (one.starts_at, one.subscription_id))
        life_start = in_order[0].starts_at
        for span, period, active in _spans(in_order, given, account_id, window):
            found = _entitlements_of(account_id, active, span.start, given)
            for feature_id, entitlements in found.items():
                feature = catalog.features[feature_id]
                allowance = combine(feature, [one for one in entitlements if one.holds_at(span.start)])
                if allowance is None:
                    continue
                counted = Window(life_start, period.end) if feature.reset is Reset.NEVER else period
                yield AllowanceSpan(
                    account_id=account_id, feature=feature, allowance=allowance, valid=span, counted=counted
                )


_Receivers = Mapping[tuple[GivenTo, str], Sequence[Entitlement]]


def _by_receiver(entitlements: Iterable[Entitlement]) -> _Receivers:
    found: dict[tuple[GivenTo, str], list[Entitlement]] = defaultdict(list)
    for one in entitlements:
        found[one.given_to, one.given_to_id].append(one)
    return found


def _entitlements_of(
    account_id: str, subscriptions: Sequence[Subscription], at: datetime, given: _Receivers
) -> Mapping[str, list[Entitlement]]:
    """Return what the account and its subscriptions' plans of that instant are given, by feature.

    Two subscriptions on one plan are given its entitlements twice.
    """
    receivers = [(GivenTo.ACCOUNT, account_id)]
    for subscription in subscriptions:
        phase = subscription.phase_at(at)
        if phase is not None:
            receivers += [(GivenTo.SUBSCRIPTION, subscription.subscription_id), (GivenTo.PLAN, phase.plan_id)]
    found: dict[str, list[Entitlement]] = defaultdict(list)
    for receiver in receivers:
        for one in given.get(receiver, ()):
            found[one.feature_id].append(one)
    return found


def _spans(
    subscriptions: Sequence[Subscription], given: _Receivers, account_id: str, window: Window
) -> Iterator[tuple[Window, Window, Sequence[Subscription]]]:
    """Yield (span, billing period, subscriptions in force) that tile the account's life inside `window`, gaps left out."""
    periods = {one.subscription_id: [p.window for p in billing_periods(one, window)] for one in subscriptions}
    edges = {edge for windows in periods.values() for period in windows for edge in (period.start, period.end)}
    phases = [phase for one in subscriptions for phase in one.phases]
    receivers = {(GivenTo.ACCOUNT, account_id), *((GivenTo.PLAN, phase.plan_id) for phase in phases)}
    receivers |= {(GivenTo.SUBSCRIPTION, one.subscription_id) for one in subscriptions}
    dated: list[tuple[datetime | None, datetime | None]] = [(phase.starts_at, phase.ends_at) for phase in phases]
    dated += [(one.valid_from, one.valid_to) for receiver in receivers for one in given.get(receiver, ())]
    edges |= {edge for ends in dated for edge in ends if edge is not None}
    for start, end in pairwise(sorted(edges)):
        active = [one for one in subscriptions if _is_in_force(one, start, periods[one.subscription_id])]
        if active:
            first = periods[active[0].subscription_id]
            yield Window(start, end), next(period for period in first if start in period), active


def _is_in_force(subscription: Subscription, at: datetime, periods: Sequence[Window]) -> bool:
    phase = subscription.phase_at(at)
    return phase is not None and phase.status is not PhaseStatus.PAUSED and any(at in period for period in periods)


def _write(connection: psycopg.Connection, catalog: Catalog, spans: Iterable[AllowanceSpan]) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy(f"copy entitlement.allowance ({_COLUMNS}) from stdin".encode()) as copy,
    ):
        for span in spans:
            feature, allowance = span.feature, span.allowance
            meter = None if feature.meter_id is None else catalog.meters[feature.meter_id]
            copy.write_row(
                (
                    span.account_id,
                    feature.feature_id,
                    span.valid.start,
                    span.valid.end,
                    feature.feature_type,
                    allowance.enabled,
                    allowance.limit,
                    allowance.beyond,
                    allowance.value,
                    feature.meter_id,
                    None if meter is None else meter.aggregation,
                    feature.reset,
                    span.counted.start,
                    span.counted.end,
                    list(feature.thresholds),
                    list(allowance.sources),
                    catalog.sha256,
                )
            )


# A window's limit is that of its newest allowance that has begun. Of day windows every day of the kept spans is looked at.
_USED = b"""
    with
    counting as (
        select distinct on (account_id, feature_id, since)
            allowance.account_id, feature_id, meter_id, aggregation, limit_quantity, thresholds, since, until
        from entitlement.allowance
        cross join lateral (
            select day as since, day + interval '1 day' as until
            from generate_series(date_trunc('day', valid_from, 'UTC'), least(valid_to, %(now)s), interval '1 day') as day
            where reset = 'day' and day < least(valid_to, %(now)s)
            union all
            select counted_from, counted_to
            where reset <> 'day'
        ) as windows
        where feature_type = 'metered' and is_enabled and limit_quantity > 0 and valid_from <= %(now)s
        order by account_id, feature_id, since, valid_from desc
    )
    select
        counting.account_id, feature_id, since, limit_quantity, thresholds,
        case when counting.aggregation = 'max' then max(metered.quantity) else sum(metered.quantity) end
    from counting
    join usage.metered as metered
        on metered.account_id = counting.account_id
        and metered.meter_id = counting.meter_id
        and metered.period_start >= since
        and metered.period_start < until
    group by counting.account_id, feature_id, since, limit_quantity, thresholds, counting.aggregation
    order by counting.account_id, feature_id, since
"""


def _crossings(connection: psycopg.Connection, now: datetime) -> Iterator[Crossing]:
    for account_id, feature_id, since, limit, thresholds, used in connection.execute(_USED, {"now": now}).fetchall():
        for threshold in crossed(used=used, limit=limit, thresholds=thresholds):
            yield Crossing(
                account_id=account_id,
                feature_id=feature_id,
                counted_from=since,
                threshold=threshold,
                limit=limit,
                used=used,
            )
