"""Write the tables of the catalog that SQL joins with: prices, accounts, clients, subscriptions and their phases.

They say again what `catalog.entry` says, and follow it in the same transaction. Not here: the entries (catalog_store).
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, time

import psycopg

from billing_pipeline.amounts import exact_text
from billing_pipeline.catalog import Catalog, Kind, Phase


def write_mirror(connection: psycopg.Connection, catalog: Catalog) -> None:
    """Write the tables that SQL joins with; PostgreSQL checks again that versions, clients and phases do not overlap."""
    digests = {(content.kind, content.entry_id, content.version): content.sha256 for content in catalog.contents}
    connection.execute("delete from catalog.price")
    connection.execute("delete from catalog.subscription")
    connection.execute("delete from catalog.account_client")
    connection.execute("delete from catalog.account")
    _copy(
        connection,
        "price (price_id, version, meter_id, model, currency, effective_from, effective_to, content_sha256)",
        (
            (
                price.price_id,
                version.version,
                price.meter_id,
                version.model_name,
                price.currency,
                version.effective_from,
                version.effective_to,
                digests[Kind.PRICE, price.price_id, version.version],
            )
            for price in catalog.prices.values()
            for version in price.versions
        ),
    )
    accounts = catalog.accounts.values()
    _copy(
        connection,
        "account (account_id, name, time_zone, currency)",
        ((account.account_id, account.name, account.time_zone, account.currency) for account in accounts),
    )
    _copy(
        connection,
        "account_client (client_id, account_id, valid_from, valid_to)",
        (
            (client.client_id, account.account_id, client.valid_from or "-infinity", client.valid_to)
            for account in accounts
            for client in account.clients
        ),
    )
    _copy(
        connection,
        "subscription (subscription_id, account_id, plan_id, starts_at, ends_at)",
        (
            (
                subscription.subscription_id,
                subscription.account_id,
                subscription.plan_id,
                subscription.starts_at,
                subscription.ends_at,
            )
            for subscription in catalog.subscriptions.values()
        ),
    )
    _write_phases(connection, catalog)


def _write_phases(connection: psycopg.Connection, catalog: Catalog) -> None:
    """Replace the phases that differ: checking all for overlaps anew costs seconds with many subscriptions."""
    connection.execute(
        """
        create temporary table phase (
            subscription_id text, phase_number integer, account_id text, plan_id text, plan_version integer, status text,
            quantities jsonb, starts_at timestamptz, ends_at timestamptz, anchor_day smallint, anchor_time time,
            anchor_month smallint
        ) on commit drop
        """
    )
    with connection.cursor() as cursor, cursor.copy("copy phase from stdin") as copy:
        for subscription in catalog.subscriptions.values():
            for number, phase in enumerate(subscription.phases, 1):
                quantities = {name: exact_text(quantity) for name, quantity in sorted(phase.quantities.items())}
                copy.write_row(
                    (
                        subscription.subscription_id,
                        number,
                        subscription.account_id,
                        phase.plan_id,
                        phase.plan_version,
                        phase.status,
                        json.dumps(quantities),
                        phase.starts_at,
                        phase.ends_at,
                        *_anchor_of(phase),
                    )
                )
    changed = [
        row[0]
        for row in connection.execute(
            """
            select subscription_id
            from ((table phase except table catalog.subscription_phase)
                  union (table catalog.subscription_phase except table phase)) as different
            group by subscription_id
            """
        )
    ]
    _notice_reshaped(connection, catalog, changed)
    connection.execute("delete from catalog.subscription_phase where subscription_id = any(%s)", [changed])
    connection.execute(
        "insert into catalog.subscription_phase select * from phase where subscription_id = any(%s)", [changed]
    )
    connection.execute("drop table phase")


def _notice_reshaped(connection: psycopg.Connection, catalog: Catalog, changed: Sequence[str]) -> None:
    """Write from when on the phases of subscriptions that were there before are others: the next booking needs it."""
    before: dict[str, list[_Terms]] = defaultdict(list)
    for subscription_id, *terms in connection.execute(
        """
        select
            subscription_id, starts_at, ends_at, plan_id, plan_version, status, quantities, anchor_day, anchor_time,
            anchor_month
        from catalog.subscription_phase
        where subscription_id = any(%s)
        order by subscription_id, starts_at
        """,
        [changed],
    ):
        before[subscription_id].append(tuple(terms))
    reshaped = [
        (subscription.subscription_id, subscription.account_id, since)
        for subscription_id, old in before.items()
        if (subscription := catalog.subscriptions.get(subscription_id)) is not None
        and (since := _first_difference(old, [_terms(phase) for phase in subscription.phases])) is not None
    ]
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into billing.reshaped_subscription as reshaped (subscription_id, account_id, since)
            values (%s, %s, %s)
            on conflict (subscription_id) do update set since = least(reshaped.since, excluded.since)
            """,
            reshaped,
        )


# Start, end, and what does not change between them.
_Terms = tuple[object, ...]


def _terms(phase: Phase) -> _Terms:
    quantities = {name: exact_text(quantity) for name, quantity in phase.quantities.items()}
    return (
        phase.starts_at,
        phase.ends_at,
        phase.plan_id,
        phase.plan_version,
        phase.status,
        quantities,
        *_anchor_of(phase),
    )


def _anchor_of(phase: Phase) -> tuple[int | None, time | None, int | None]:
    """Return day, time and month of the anchor that a phase moves to; without a move nothing."""
    anchor = phase.anchor
    return (None, None, None) if anchor is None else (anchor.day, anchor.time_of_day, anchor.month)


def _first_difference(before: Sequence[_Terms], after: Sequence[_Terms]) -> datetime | None:
    """Return the first instant at which one has other terms than the other, or none; None where they are the same."""
    for old, new in zip(before, after, strict=False):
        if old != new:
            # Where both begin with the same terms, they part where the first of them ends.
            found = [old[1], new[1]] if (old[0], *old[2:]) == (new[0], *new[2:]) else [old[0], new[0]]
            return min(at for at in found if isinstance(at, datetime))
    rest = [*before[len(after) :], *after[len(before) :]]
    starts = [terms[0] for terms in rest if isinstance(terms[0], datetime)]
    return min(starts, default=None)


def _copy(connection: psycopg.Connection, table: str, rows: Iterable[Sequence[object]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"copy catalog.{table} from stdin".encode()) as copy:
        for row in rows:
            copy.write_row(row)
