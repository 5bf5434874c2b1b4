"""Which charges a booking concerns: those of the requested days, and those of subscriptions whose phases have changed since.

A change cuts a period, and the part before it may lie outside of the requested days; its old charge is reversed, so its new
ones are booked with it. Not here: rating (charge_usage), booking (charge_store), noticing a change (catalog_mirror).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import psycopg

from billing_pipeline.catalog import Catalog, Timing
from billing_pipeline.periods import RequestedDays, Window

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BookingScope:
    """`days` as requested. `in_advance` are ids of prices that fall due where their period begins; `reshaped` are the
    subscriptions whose charges of a window are all booked again."""

    days: RequestedDays
    in_advance: frozenset[str] = frozenset()
    reshaped: Mapping[str, Window] = field(default_factory=dict)

    @property
    def span(self) -> Window:
        """Return the window outside of which no period is concerned."""
        starts, ends = [self.days.span.start], [self.days.span.end + _INSTANT]
        starts += [window.start for window in self.reshaped.values()]
        ends += [window.end for window in self.reshaped.values()]
        return Window(min(starts), max(ends))

    def reach(self, subscription_id: str) -> Window:
        """Return the window in which the subscription's periods have to be looked at."""
        reach = Window(self.days.span.start, self.days.span.end + _INSTANT)
        again = self.reshaped.get(subscription_id)
        return reach if again is None else Window(min(reach.start, again.start), max(reach.end, again.end))

    def concerns(self, subscription_id: str, price_id: str, period: Window) -> bool:
        """Tell whether a charge for `period` is rated and booked.

        July's fee in advance is booked with June 30th too, so that the invoice at July 1st 00:00 has it.
        """
        if self.days.meet(period) or (price_id in self.in_advance and self.days.end_at(period.start)):
            return True
        again = self.reshaped.get(subscription_id)
        return again is not None and again.overlap(period.start, period.end) is not None


def read_scope(connection: psycopg.Connection, catalog: Catalog, days: RequestedDays) -> BookingScope:
    """Return what booking `days` concerns now."""
    return BookingScope(
        days=days,
        in_advance=frozenset(price.price_id for price in catalog.prices.values() if price.timing is Timing.ADVANCE),
        reshaped=_reshaped(connection),
    )


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
