"""Write the tables of the catalog that SQL joins with: prices, accounts, clients, subscriptions and their phases.

They say again what `catalog.entry` says, and follow it in the same transaction. Not here: the entries (catalog_store).
"""

import json
from collections.abc import Iterable, Sequence

import psycopg

from billing_pipeline.amounts import exact_text
from billing_pipeline.catalog import Catalog, Kind


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
            quantities jsonb, starts_at timestamptz, ends_at timestamptz
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
                    )
                )
    connection.execute(
        """
        delete from catalog.subscription_phase as standing
        where not exists (
            select
            from phase
            where phase.subscription_id = standing.subscription_id and phase.phase_number = standing.phase_number
                and row(phase.*) is not distinct from row(standing.*)
        )
        """
    )
    connection.execute(
        """
        insert into catalog.subscription_phase
        select phase.*
        from phase
        left join catalog.subscription_phase as standing using (subscription_id, phase_number)
        where standing.subscription_id is null
        """
    )
    connection.execute("drop table phase")


def _copy(connection: psycopg.Connection, table: str, rows: Iterable[Sequence[object]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"copy catalog.{table} from stdin".encode()) as copy:
        for row in rows:
            copy.write_row(row)
