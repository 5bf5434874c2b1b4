"""What is given back: credit notes here by their numbers, those at Stripe on invoices that have lines of ours. For the reconciler.

A note of ours is known at Stripe by its id in the metadata; one that somebody issued there goes by Stripe's id. Amounts at Stripe
are in its minor units, below 0 as lines of what is held. Not here: bringing notes to Stripe (stripe_sync/credit_notes).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from uuid import UUID

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.reconciliation import HeldLine, OurInvoice
from billing_pipeline.stripe_events.objects import read_credit_note
from resources.database import Database
from resources.stripe_mirror import rows
from resources.stripe_mirror.apply import WRITTEN_AT_ONCE, write_fetched
from resources.stripe_mirror.links import StripeLinks
from resources.stripe_mirror.reads import StripeReads


def refresh_notes(database: Database, reads: StripeReads, *, now: datetime, since: datetime) -> None:
    """Bring the credit notes that were made at Stripe at `since` or later into the mirror.

    Raises:
        StripeAwayError: Stripe does not answer.
    """
    fetch = rows.begin_fetch(database, now=now)
    notes = map(read_credit_note, reads.list_credit_notes(created_from=since))
    while batch := list(islice(notes, WRITTEN_AT_ONCE)):
        write_fetched(database, batch, fetch)


def by_invoice(connection: psycopg.Connection, invoice_ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, Money]]:
    """Return what is given back on each of these invoices here, by the notes' numbers."""
    found: dict[UUID, dict[str, Money]] = {}
    notes = connection.execute(
        """
        select invoice_id, number, amount_minor, currency from invoicing.credit_note
        where invoice_id = any(%s)
        order by number
        """,
        [list(invoice_ids)],
    )
    for invoice_id, number, amount_minor, currency in notes:
        found.setdefault(invoice_id, {})[number] = Money(amount_minor, currency)
    return found


def add_held(
    connection: psycopg.Connection, held: dict[str, list[HeldLine]], links: StripeLinks, since: datetime
) -> None:
    """Add to what Stripe holds, by account, the notes that were issued there since on invoices with lines of ours."""
    accounts = {link.customer_id: link.account_id for link in links.customers.values()}
    notes = connection.execute(
        """
        select note.customer_id, coalesce(ours.number, note.credit_note_id), note.total_stripe_minor, note.currency,
            note.credit_note_id
        from stripe.credit_note as note
        join stripe.invoice using (invoice_id)
        left join invoicing.credit_note as ours on ours.credit_note_id::text = note.metadata ->> 'bp_credit_note'
        where note.status = 'issued' and note.created_at >= %s and invoice.status not in ('void', 'deleted')
            and exists (
                select from stripe.invoice_line
                where invoice_line.invoice_id = note.invoice_id and invoice_line.metadata ? 'bp_key'
            )
        order by note.credit_note_id
        """,
        [since],
    )
    for customer_id, key, total, currency, where in notes:
        if customer_id in accounts:
            line = HeldLine(key=key, amount=-total, currency=currency, where=where)
            held.setdefault(accounts[customer_id], []).append(line)


def elsewhere(
    connection: psycopg.Connection, ours: Mapping[str, Sequence[OurInvoice]], held: Mapping[str, Sequence[HeldLine]]
) -> frozenset[str]:
    """Return the notes among `held` that are of invoices here which this run does not look at."""
    known = {number for invoices in ours.values() for invoice in invoices for number in invoice.credits}
    strange = {line.key for lines in held.values() for line in lines} - known
    found = connection.execute(
        """
        select number from invoicing.credit_note
        left join invoicing.voided_invoice using (invoice_id)
        where number = any(%s) and voided_invoice.invoice_id is null
        """,
        [list(strange)],
    )
    return frozenset(number for (number,) in found)


def on_their_way(connection: psycopg.Connection, *, began_at: datetime) -> frozenset[str]:
    """Return the notes here that Stripe was not seen to hold before `began_at`, though their invoices are there."""
    found = connection.execute(
        """
        select note.number
        from invoicing.credit_note as note
        join invoicing.final_invoice using (invoice_id)
        left join stripe.sync_credit_note as sent using (credit_note_id)
        where external_id is not null and (sent.credit_note_id is null or sent.seen_at >= %s)
        """,
        [began_at],
    )
    return frozenset(number for (number,) in found)
