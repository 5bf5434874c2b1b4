"""Which charges a booking concerns: those of the requested days, and those of subscriptions whose phases have changed since.

A change cuts a period, and the part before it may lie outside of the requested days; its old charge is reversed, so its new
ones are booked with it. Not here: rating (charge_usage), booking (charge_store), noticing a change (catalog_mirror).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

import psycopg

from billing_pipeline.catalog import Aggregation, Catalog, Subscription, Timing
from billing_pipeline.period_charges import subscriptions_that_share
from billing_pipeline.periods import RequestedDays, Window

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class BookingScope:
    """`days` as requested. `in_advance` are ids of prices that fall due where their period begins; `reshaped` are the
    subscriptions whose charges of a window are all booked again; `together` are those whose charges of a window depend on each
    other."""

    days: RequestedDays
    in_advance: frozenset[str] = frozenset()
    reshaped: Mapping[str, Window] = field(default_factory=dict)
    together: Mapping[str, Window] = field(default_factory=dict)

    @property
    def span(self) -> Window:
        """Return the window outside of which no period is concerned."""
        starts, ends = [self.days.span.start], [self.days.span.end + _INSTANT]
        for windows in (self.reshaped, self.together):
            starts += [window.start for window in windows.values()]
            ends += [window.end for window in windows.values()]
        return Window(min(starts), max(ends))

    def reach(self, subscription_id: str) -> Window:
        """Return the window in which the subscription's periods have to be looked at."""
        reach = self._reach
        for again in self._again(subscription_id):
            reach = Window(min(reach.start, again.start), max(reach.end, again.end))
        return reach

    @cached_property
    def _reach(self) -> Window:
        return Window(self.days.span.start, self.days.span.end + _INSTANT)

    @property
    def by_subscription(self) -> tuple[str, ...]:
        """Return the subscriptions of which more is concerned than the days say."""
        return tuple(self.reshaped.keys() | self.together.keys())

    def concerns(self, subscription_id: str, price_id: str, period: Window) -> bool:
        """Tell whether a charge for `period` is rated and booked.

        July's fee in advance is booked with June 30th too, so that the invoice at July 1st 00:00 has it.
        """
        if self.days.meet(period) or (price_id in self.in_advance and self.days.end_at(period.start)):
            return True
        return any(again.overlap(period.start, period.end) is not None for again in self._again(subscription_id))

    def _again(self, subscription_id: str) -> Iterator[Window]:
        for windows in (self.reshaped, self.together):
            if subscription_id in windows:
                yield windows[subscription_id]


def read_scope(connection: psycopg.Connection, catalog: Catalog, days: RequestedDays) -> BookingScope:
    """Return what booking `days` concerns now."""
    return BookingScope(
        days=days,
        in_advance=frozenset(price.price_id for price in catalog.prices.values() if price.timing is Timing.ADVANCE),
        reshaped=_reshaped(connection),
        together=_together(connection, catalog, days),
    )


def _together(connection: psycopg.Connection, catalog: Catalog, days: RequestedDays) -> Mapping[str, Window]:
    """Return subscription -> the months that have one of `days`, of those whose charges share amounts; and all that is booked
    since, of those with a level, or with units that are included once: what a late record changes goes on from period to period."""
    found = {}
    going_on = list(_going_on(catalog))
    booked_until = _booked_until(connection, going_on, days.span)
    for subscription in going_on:
        reach = days.span.overlap(subscription.starts_at, subscription.ends_at)
        until = booked_until.get(subscription.subscription_id, days.span.end)
        if reach is not None:
            found[subscription.subscription_id] = Window(reach.start, max(reach.end, until))
    for subscription in subscriptions_that_share(catalog):
        reach = days.span.overlap(subscription.starts_at, subscription.ends_at)
        if reach is not None:
            since = subscription.period_containing(reach.start).start
            until = subscription.period_containing(reach.end - _INSTANT).end
            if subscription.subscription_id in found:
                until = max(until, found[subscription.subscription_id].end)
            found[subscription.subscription_id] = Window(since, until)
    return found


def _going_on(catalog: Catalog) -> Iterator[Subscription]:
    """Yield the subscriptions with charges that depend on the periods before."""
    levels = {one.meter_id for one in catalog.meters.values() if one.aggregation is Aggregation.LEVEL}
    prices = {
        price.price_id
        for price in catalog.prices.values()
        if price.meter_id in levels or any(version.is_included_once for version in price.versions)
    }
    if prices:
        for subscription in catalog.subscriptions.values():
            if any(price.price_id in prices for price in catalog.prices_of(subscription)):
                yield subscription


def _booked_until(
    connection: psycopg.Connection, subscriptions: Sequence[Subscription], span: Window
) -> Mapping[str, datetime]:
    """Return subscription -> the end of its last booked period after `span` begins."""
    if not subscriptions:
        return {}
    rows = connection.execute(
        """
        select charge.subscription_id, max(charge.period_end)
        from unnest(%s::text[], %s::text[]) as wanted (account_id, subscription_id)
        join billing.charge_revision as charge using (account_id, subscription_id)
        where charge.period_end > %s
        group by charge.subscription_id
        """,
        [[one.account_id for one in subscriptions], [one.subscription_id for one in subscriptions], span.start],
    )
    return dict(rows.fetchall())


def forget_reshaped(connection: psycopg.Connection, subscription_ids: Collection[str]) -> None:
    """Forget subscriptions whose charges are booked as their phases are now."""
    connection.execute(
        "delete from billing.reshaped_subscription where subscription_id = any(%s)", [list(subscription_ids)]
    )


def _reshaped(connection: psycopg.Connection) -> Mapping[str, Window]:
    """Return subscription -> the window from just before its change to the end of what is booked of it."""
    rows = connection.execute(
        """
        select reshaped.subscription_id, reshaped.since, max(charge.period_end)
        from billing.reshaped_subscription as reshaped
        join billing.charge_revision as charge
            on charge.account_id = reshaped.account_id
            and charge.subscription_id = reshaped.subscription_id
            and charge.period_end >= reshaped.since
        group by reshaped.subscription_id, reshaped.since
        """
    )
    return {subscription_id: Window(since - _INSTANT, until) for subscription_id, since, until in rows}
