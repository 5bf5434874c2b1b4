"""Post to the ledger what people add to invoices: adjustments, one-off items, credit notes. In the caller's transaction.

Not here: the sides of a transaction (billing_pipeline.ledger), charges and their postings (charge_store).
"""

from datetime import UTC, datetime
from uuid import UUID

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.ledger import Added, postings_of_added

_COLUMNS = {
    Added.ADJUSTMENT: "adjustment_id",
    Added.ONE_OFF: "one_off_id",
    Added.CREDIT_NOTE: "credit_note_id",
}


def append_postings(
    connection: psycopg.Connection, *, added: Added, entry_id: UUID, account_id: str, amount: Money, now: datetime
) -> None:
    """Append the postings by which the customer owes `amount` more; none for 0. Their day is that of `now`, UTC."""
    rows = [
        (
            posting.transaction_id,
            posting.posting_number,
            posting.ledger_account,
            posting.account_id,
            posting.amount.minor_units,
            posting.amount.currency,
            entry_id,
            now.astimezone(UTC).date(),
        )
        for posting in postings_of_added(added=added, entry_id=entry_id, account_id=account_id, amount=amount)
    ]
    if not rows:
        return
    statement = f"""
        copy billing.ledger_posting (
            transaction_id, posting_number, ledger_account, account_id, amount_minor, currency, {_COLUMNS[added]}, event_day
        ) from stdin
    """
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        for row in rows:
            copy.write_row(row)
