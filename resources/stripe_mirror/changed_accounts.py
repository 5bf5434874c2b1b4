"""Accounts that the sync is to look at, as something of theirs changed at Stripe: put in by settling, taken out by the sync.

Not here: what changed (the mirror), the sync (stripe_sync).
"""

from collections.abc import Mapping
from datetime import datetime

import psycopg


def put(connection: psycopg.Connection, account_id: str, invoice_id: str, *, now: datetime) -> None:
    """Have an account looked at, because of an invoice at Stripe."""
    connection.execute(
        """
        insert into stripe.changed_account (account_id, invoice_id, change_number, changed_at)
        values (%s, %s, nextval('stripe.fetch_number'), %s)
        on conflict (account_id) do update set
            invoice_id = excluded.invoice_id,
            change_number = excluded.change_number,
            changed_at = excluded.changed_at
        """,
        [account_id, invoice_id, now],
    )


def changed(connection: psycopg.Connection) -> Mapping[str, int]:
    """Return the accounts that are to be looked at, each with the number of its last change."""
    rows = connection.execute("select account_id, change_number from stripe.changed_account order by account_id")
    return dict(rows.fetchall())


def looked_at(connection: psycopg.Connection, accounts: Mapping[str, int]) -> None:
    """Take out accounts as `changed` had them, once they were looked at; one that changed again since then stays."""
    connection.execute(
        """
        delete from stripe.changed_account
        using unnest(%s::text[], %s::bigint[]) as seen (account_id, change_number)
        where changed_account.account_id = seen.account_id and changed_account.change_number = seen.change_number
        """,
        [list(accounts), list(accounts.values())],
    )
