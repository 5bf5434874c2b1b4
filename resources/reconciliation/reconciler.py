"""Reconcile: read Stripe back, put it beside the invoices here, keep what was found. Append-only; again is another row each.

A run looks at the drafts, and at final invoices whose period met the five weeks up to the end of its day, or of which something
was given back since. Stripe is read by lists of everything, a hundred a call. Not here: what is given back
(credited), the comparison (billing_pipeline.reconciliation), mending a drift (the sync).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

import psycopg
from psycopg.types.json import Jsonb

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import Catalog
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.items import CompiledInvoice
from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.invoicing.stripe_amounts import stripe_amounts, to_stripe
from billing_pipeline.reconciliation import (
    PENDING,
    Agreement,
    HeldLine,
    OurInvoice,
    Reconciled,
    Standing,
    reconcile,
)
from resources.catalog_store import current_catalog
from resources.database import Database
from resources.invoicing.invoice_rows import read_compiled, read_invoice_rows
from resources.reconciliation import canary_results, credited
from resources.reconciliation.canaries import Canary
from resources.reconciliation.canary_results import CanaryResult
from resources.reconciliation.standings import account_standings
from resources.stripe_mirror import rows
from resources.stripe_mirror.links import StripeLinks, stripe_links
from resources.stripe_mirror.reads import Document, StripeReads
from resources.stripe_mirror.refresh import refresh_invoices

LOOKS_BACK = timedelta(days=35)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What a run has found. `invoices_read`: at Stripe. `unsendable`: by account, why its lines cannot be compared.
    `unknown_canaries`: what canary.toml names and the catalog does not have."""

    day: date
    compared_at: datetime
    invoices_read: int
    rows: tuple[Reconciled, ...]
    standings: Mapping[str, Standing]
    canaries: tuple[CanaryResult, ...]
    unsendable: Mapping[str, str]
    unknown_canaries: tuple[str, ...] = ()

    def of(self, agreement: Agreement) -> tuple[Reconciled, ...]:
        """Return the rows that stand so."""
        return tuple(row for row in self.rows if row.agreement is agreement)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciler:
    """Reconciles one installation. `is_pushed`: drafts are at Stripe while their period lasts, by the sync's policy."""

    database: Database
    reads: Callable[[], StripeReads]
    clock: Callable[[], datetime]
    canaries: tuple[Canary, ...] = field(default=())
    is_pushed: bool = True

    def reconcile(self, day: date, *, run_id: str) -> Reconciliation:
        """Compare what is billed with what Stripe holds, as of now, and keep it under `day`.

        Raises:
            StripeAwayError, StripeKeyError: Stripe cannot be read; nothing is kept.
            CatalogNotLoadedError: there is no catalog.
        """
        now = self.clock()
        day_end = datetime.combine(day, time(), UTC) + _DAY
        with self.database.reading() as connection:
            before = _scope(connection, day_end)
        since = min((period_start for period_start, _ in before), default=day_end - LOOKS_BACK)
        reads = self.reads()
        fetch = rows.begin_fetch(self.database, now=now)
        # Items first: one that an invoice takes in between is seen on both and told apart by its key once, as a line.
        pending = [line for item in reads.list_pending_items() if (line := _pending_line(item)) is not None]
        invoices_read = refresh_invoices(self.database, reads, fetch, reads.list_invoices(created_from=since))
        credited.refresh_notes(self.database, reads, now=now, since=since)
        with self.database.reading() as connection:
            catalog = current_catalog(connection)
            links = stripe_links(connection)
            ours, unsendable = _ours(connection, catalog, day_end)
            held = _held(connection, links, pending, since)
            standings = account_standings(connection, catalog, links, began_at=now)
            credited.add_held(connection, held, links, since)
            elsewhere = _elsewhere(connection, ours, held) | credited.elsewhere(connection, ours, held)
            on_their_way = credited.on_their_way(connection, began_at=now)
            found: list[Reconciled] = []
            for account_id in sorted({*ours, *held} - set(unsendable)):
                found += reconcile(
                    account_id,
                    ours.get(account_id, ()),
                    held.get(account_id, ()),
                    standings.get(account_id, Standing(customer_id=None)),
                    is_pushed=self.is_pushed,
                    elsewhere=elsewhere,
                    on_their_way=on_their_way,
                )
            canaries = canary_results.results(self.canaries, catalog, links, found, since=day_end - LOOKS_BACK, now=now)
        result = Reconciliation(
            day=day,
            compared_at=now,
            invoices_read=invoices_read,
            rows=tuple(found),
            standings=standings,
            canaries=canaries,
            unsendable=unsendable,
            unknown_canaries=canary_results.unknown(self.canaries, catalog),
        )
        with self.database.transaction() as connection:
            _write(connection, result, run_id)
        return result


def _scope(connection: psycopg.Connection, day_end: datetime) -> list[tuple[datetime, datetime]]:
    return connection.execute(
        """
        select period_start, period_end from invoicing.draft_invoice
        union all
        select period_start, period_end from invoicing.final_invoice
        where (period_end > %(from)s and period_start < %(to)s)
            or invoice_id in (select invoice_id from invoicing.credit_note where issued_at > %(from)s)
        """,
        {"from": day_end - LOOKS_BACK, "to": day_end},
    ).fetchall()


def _ours(
    connection: psycopg.Connection, catalog: Catalog, day_end: datetime
) -> tuple[dict[str, list[OurInvoice]], dict[str, str]]:
    """Return the invoices here by account; and of accounts whose amounts Stripe cannot take, why."""
    found = read_invoice_rows(
        connection,
        "state <> 'void' and (state = 'draft' or (period_end > %(from)s and period_start < %(to)s)"
        " or invoice_id in (select invoice_id from invoicing.credit_note where issued_at > %(from)s))",
        {"from": day_end - LOOKS_BACK, "to": day_end},
    )
    lines = read_compiled(connection, found)
    notes = credited.by_invoice(connection, [row.invoice_id for row in found])
    ours: dict[str, list[OurInvoice]] = defaultdict(list)
    unsendable: dict[str, str] = {}
    for row in found:
        compiled = lines[row.invoice_id]
        if compiled.account_id not in catalog.accounts:
            continue
        try:
            ours[compiled.account_id].append(_our_invoice(compiled, row.state, notes.get(row.invoice_id, {})))
        except BillingError as error:
            unsendable[compiled.account_id] = error.what
    return ours, unsendable


def _our_invoice(compiled: CompiledInvoice, state: InvoiceState, notes: Mapping[str, Money]) -> OurInvoice:
    return OurInvoice(
        invoice_id=compiled.invoice_id,
        account_id=compiled.account_id,
        subscription_id=compiled.subscription_id,
        period=compiled.period,
        state=state,
        currency=compiled.currency,
        lines=stripe_amounts(compiled.items),
        credits={number: -to_stripe(amount) for number, amount in notes.items()},
    )


def _pending_line(item: Document) -> tuple[str, HeldLine, str | None] | None:
    """Return a pending item that carries a key, with its customer and its item id."""
    metadata = item.get("metadata") or {}
    key = metadata.get("bp_key")
    if not isinstance(key, str):
        return None
    customer = item.get("customer")
    customer_id = customer.get("id") if isinstance(customer, Mapping) else customer
    line = HeldLine(key=key, amount=int(item["amount"]), currency=str(item["currency"]).upper(), where=PENDING)
    return str(customer_id), line, item.get("id")


def _held(
    connection: psycopg.Connection,
    links: StripeLinks,
    pending: Sequence[tuple[str, HeldLine, str | None]],
    since: datetime,
) -> dict[str, list[HeldLine]]:
    """Return what Stripe holds of us, by account: lines of invoices that count, and pending items that no line stands for."""
    accounts = {link.customer_id: link.account_id for link in links.customers.values()}
    found: dict[str, list[HeldLine]] = defaultdict(list)
    taken = set[str]()
    lines = connection.execute(
        """
        select customer_id, invoice_line.metadata ->> 'bp_key', amount_stripe_minor, invoice_line.currency, invoice_id,
            invoice_item_id
        from stripe.invoice
        join stripe.invoice_line using (invoice_id)
        where status not in ('void', 'deleted') and invoice.created_at >= %s and invoice_line.metadata ? 'bp_key'
        order by invoice_id, line_id
        """,
        [since],
    )
    for customer_id, key, amount, currency, invoice_id, item_id in lines:
        taken.add(item_id)
        if customer_id in accounts:
            found[accounts[customer_id]].append(HeldLine(key=key, amount=amount, currency=currency, where=invoice_id))
    for customer_id, line, item_id in pending:
        if customer_id in accounts and item_id not in taken:
            found[accounts[customer_id]].append(line)
    return found


def _elsewhere(
    connection: psycopg.Connection, ours: Mapping[str, Sequence[OurInvoice]], held: Mapping[str, Sequence[HeldLine]]
) -> frozenset[str]:
    """Return the keys among `held` that are of invoices here, shown by themselves, which this run does not look at."""
    known = {key for invoices in ours.values() for invoice in invoices for key in invoice.lines}
    strange = {line.key for lines in held.values() for line in lines} - known
    found = connection.execute(
        """
        select item_key from invoicing.final_item
        left join invoicing.voided_invoice using (invoice_id)
        where item_key = any(%s) and part_of is null and voided_invoice.invoice_id is null
        """,
        [list(strange)],
    )
    return frozenset(key for (key,) in found)


def _write(connection: psycopg.Connection, result: Reconciliation, run_id: str) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into invoicing.reconciliation (
                run_id, row_number, day, compared_at, account_id, customer_id, invoice_id, subscription_id, period_start,
                period_end, state, currency, ours_stripe_minor, held_stripe_minor, difference_stripe_minor,
                ours_credited_stripe_minor, held_credited_stripe_minor, agreement, behind_since, problem, drifts
            )
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [_row(result, number, row, run_id) for number, row in enumerate(result.rows, start=1)],
        )
        cursor.executemany(
            """
            insert into invoicing.canary_result (
                run_id, account_id, subscription_id, period_start, period_end, day, compared_at, currency,
                expected_stripe_minor, ours_stripe_minor, held_stripe_minor, is_right
            )
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    run_id,
                    one.canary.account_id,
                    one.canary.subscription_id,
                    one.period_start,
                    one.period_end,
                    result.day,
                    result.compared_at,
                    one.currency,
                    one.expected,
                    one.ours,
                    one.held,
                    one.is_right,
                )
                for one in result.canaries
            ],
        )


def _row(result: Reconciliation, number: int, row: Reconciled, run_id: str) -> tuple[object, ...]:
    standing = result.standings.get(row.account_id, Standing(customer_id=None))
    invoice = row.invoice
    drifts = [
        {"key": drift.key, "ours": drift.ours, "held": drift.held, "where": list(drift.where)} for drift in row.drifts
    ]
    return (
        run_id,
        number,
        result.day,
        result.compared_at,
        row.account_id,
        standing.customer_id,
        invoice.invoice_id if invoice else None,
        invoice.subscription_id if invoice else None,
        invoice.period.start if invoice else None,
        invoice.period.end if invoice else None,
        invoice.state.value if invoice else None,
        row.currency,
        row.ours,
        row.held,
        row.difference,
        row.ours_credited,
        row.held_credited,
        row.agreement.value,
        standing.behind_since if standing.is_behind else None,
        standing.problem,
        Jsonb(drifts),
    )
