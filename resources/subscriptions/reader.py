"""Read the subscriptions of accounts as they are loaded, without the rest of the catalog. Read-only."""

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal

import psycopg

from billing_pipeline.catalog import Phase, PhaseStatus, Subscription
from billing_pipeline.catalog.subscription_tables import SubscriptionTable


def account_subscriptions(connection: psycopg.Connection, account_id: str) -> Mapping[str, Subscription]:
    """Return the account's subscriptions with their phases, by id."""
    phases: dict[str, list[Phase]] = defaultdict(list)
    for subscription_id, starts_at, ends_at, plan_id, plan_version, status, quantities in connection.execute(
        """
        select subscription_id, starts_at, ends_at, plan_id, plan_version, status, quantities
        from catalog.subscription_phase
        where account_id = %s
        order by subscription_id, phase_number
        """,
        [account_id],
    ):
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
        of_it = tuple(phases.get(table.id, ()))
        found[table.id] = Subscription(
            subscription_id=table.id,
            account_id=table.account,
            plan_id=table.plan,
            starts_at=table.starts_at,
            ends_at=of_it[-1].ends_at if of_it else table.ends_at,
            anchor=table.beginning(zone).anchor,
            initial_balance=table.initial_balance,
            invoice_with=table.invoice_with,
            stripe_subscription=table.stripe_subscription,
            phases=of_it,
        )
    return found


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
