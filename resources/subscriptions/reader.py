"""Read the subscriptions of accounts as they are loaded, without the rest of the catalog. Read-only."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, time
from decimal import Decimal

import psycopg

from billing_pipeline.catalog import Phase, PhaseStatus, Subscription
from billing_pipeline.catalog.subscription_tables import SubscriptionTable
from billing_pipeline.periods import BillingAnchor


def account_subscriptions(connection: psycopg.Connection, account_id: str) -> Mapping[str, Subscription]:
    """Return the account's subscriptions with their phases, by id."""
    phases: dict[str, list[Phase]] = defaultdict(list)
    moved: dict[tuple[str, datetime], tuple[int, time, int | None]] = {}
    for subscription_id, starts_at, ends_at, plan_id, plan_version, status, quantities, *anchor in connection.execute(
        """
        select
            subscription_id, starts_at, ends_at, plan_id, plan_version, status, quantities, anchor_day, anchor_time,
            anchor_month
        from catalog.subscription_phase
        where account_id = %s
        order by subscription_id, phase_number
        """,
        [account_id],
    ):
        if anchor[0] is not None:
            moved[subscription_id, starts_at] = (anchor[0], anchor[1], anchor[2])
        phases[subscription_id].append(
            Phase(
                starts_at=starts_at,
                ends_at=ends_at,
                plan_id=plan_id,
                plan_version=plan_version,
                status=PhaseStatus(status),
                quantities={name: Decimal(quantity) for name, quantity in quantities.items()},
            )
        )
    rows = connection.execute(
        """
        select entry.content, account.time_zone
        from catalog.subscription
        join catalog.account as account using (account_id)
        join catalog.current_entry as present on present.kind = 'subscription' and present.entry_id = subscription_id
        join catalog.entry as entry using (kind, entry_id, version, content_sha256)
        where account_id = %s
        order by subscription_id
        """,
        [account_id],
    )
    found = {}
    for content, zone in rows:
        table = SubscriptionTable.model_validate(content)
        first = table.beginning(zone).anchor
        of_it = tuple(
            replace(phase, anchor=_anchor(first.zone, *moved[table.id, phase.starts_at]))
            if (table.id, phase.starts_at) in moved
            else phase
            for phase in phases.get(table.id, ())
        )
        found[table.id] = Subscription(
            subscription_id=table.id,
            account_id=table.account,
            plan_id=table.plan,
            starts_at=table.starts_at,
            ends_at=of_it[-1].ends_at if of_it else table.ends_at,
            anchor=first,
            initial_balance=table.initial_balance,
            invoice_with=table.invoice_with,
            stripe_subscription=table.stripe_subscription,
            phases=of_it,
        )
    return found


def _anchor(zone: str, day: int, time_of_day: time, month: int | None) -> BillingAnchor:
    return BillingAnchor(day=day, time_of_day=time_of_day, zone=zone, month=month)


def prices_in_advance(connection: psycopg.Connection) -> frozenset[str]:
    """Return the ids of the prices that fall due where their period begins."""
    rows = connection.execute(
        """
        select distinct entry_id
        from catalog.current_entry
        join catalog.entry using (kind, entry_id, version, content_sha256)
        where kind = 'price' and content ->> 'timing' = 'advance'
        """
    )
    return frozenset(price_id for (price_id,) in rows)
