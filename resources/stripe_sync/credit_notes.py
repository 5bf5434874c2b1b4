"""Bring credit notes to Stripe: what invoicing gives back on an invoice that is final there, once, split to the minor unit.

A credit note of ours is known at Stripe by its id in the metadata. Its money is taken off what is due, and what exceeds that is
refunded or put onto the balance, by policy; it is about the invoice's line where that is known. The customer is not mailed unless
the policy says so. Not here: why money is given back (resources/invoicing), how it is split (credit_split).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.stripe_amounts import to_stripe
from billing_pipeline.stripe_sync.credit_split import CreditSplit, split_credit
from billing_pipeline.stripe_sync.lines import ACCOUNT_FIELD, KEY_FIELD
from billing_pipeline.stripe_sync.policy import SyncPolicy
from resources.database import Database
from resources.stripe_api.calls import Json, Operation, StripeCall
from resources.stripe_api.errors import StripeDeniedError, StripeUnavailableError
from resources.stripe_sync import sync_store
from resources.stripe_sync.held import HeldAtStripe
from resources.stripe_sync.intent_store import Doer, Purpose, Write
from resources.stripe_sync.sync_store import FindingKind
from resources.stripe_sync.work import Worked, work_on
from resources.stripe_sync.writer import Reached, Writer, locked_customer, nothing_reached

if TYPE_CHECKING:
    from resources.stripe_api.gateway import StripeGateway

NOTE_FIELD = "bp_credit_note"
_LONGEST_MEMO = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class DueCreditNote:
    """A credit note that is not at Stripe yet. `item_key`: the line of the invoice that it is about; None: the whole invoice."""

    credit_note_id: UUID
    number: str
    account_id: str
    invoice_id: str
    amount: Money
    item_key: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNoteOutcome:
    """What became of one: its id at Stripe, or the problem."""

    number: str
    account_id: str
    stripe_id: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeCreditNotes:
    """Credit notes of one installation; see StripeSync for the fields."""

    database: Database
    gateway: Callable[[], "StripeGateway"]
    policy: SyncPolicy = field(default_factory=SyncPolicy)
    clock: Callable[[], datetime]
    sleep: Callable[[float], None] = time.sleep
    reached: Reached = nothing_reached

    def due(self) -> tuple[DueCreditNote, ...]:
        """Return the credit notes that belong to Stripe and were not seen there yet, in the order of their numbers."""
        with self.database.reading() as connection:
            return _due(connection)

    def run(self, *, run_id: str) -> Worked[DueCreditNote, CreditNoteOutcome]:
        """Bring all that are due to Stripe. One that fails is a finding, and others go on.

        Raises:
            StripeKeyError: there is no usable key.
        """
        due = self.due()
        with self.database.transaction() as connection:
            kept = [one.number for one in due]
            sync_store.close_findings_but(connection, FindingKind.CREDIT_NOTE_FAILED, kept, now=self.clock())
        if not due:
            return Worked(results=(), left_over=(), problem=None)
        gateway = self.gateway()
        return work_on(
            self.database,
            due,
            lambda connection, note: self._bring(gateway, connection, note, run_id),
            concurrency=self.policy.concurrency,
        )

    def _bring(
        self, gateway: "StripeGateway", connection: psycopg.Connection, note: DueCreditNote, run_id: str
    ) -> CreditNoteOutcome:
        try:
            invoice = gateway.retrieve_invoice(note.invoice_id)
            with locked_customer(connection, str(invoice["customer"])):
                # Only now, under the lock: another run may have done it meanwhile.
                if note.credit_note_id not in {one.credit_note_id for one in _due(connection)}:
                    return CreditNoteOutcome(number=note.number, account_id=note.account_id)
                return self._bring_locked(gateway, connection, note, invoice["customer"], run_id)
        except (StripeUnavailableError, StripeDeniedError):
            raise
        except BillingError as error:
            return self._failed(connection, note, error.what)

    def _bring_locked(
        self,
        gateway: "StripeGateway",
        connection: psycopg.Connection,
        note: DueCreditNote,
        customer_id: str,
        run_id: str,
    ) -> CreditNoteOutcome:
        writer = Writer(
            gateway=gateway,
            connection=connection,
            doer=Doer(account_id=note.account_id, customer_id=customer_id, run_id=run_id, purpose=Purpose.CORRECTION),
            clock=self.clock,
            fresh=lambda: HeldAtStripe(gateway, customer_id, since=self.clock()),
            sleep=self.sleep,
            reached=self.reached,
        )
        held = writer.fresh()
        if writer.settle_open(held):
            held = writer.fresh()
        problems: Sequence[str] = ()
        notes = held.credit_notes(note.invoice_id)
        found = _of(note, notes)
        if found is None:
            invoice = gateway.retrieve_invoice(note.invoice_id)
            if invoice["status"] == "void":
                return self._failed(
                    connection, note, f"invoice {note.invoice_id} is void at Stripe: nothing is owed on it"
                )
            write = self._write(note, invoice, notes, gateway)
            problems = writer.send([write])
            held, unseen = writer.confirm(writer.fresh())
            problems = (*problems, *unseen)
            found = _of(note, held.credit_notes(note.invoice_id))
        if found is None:
            return self._failed(connection, note, "; ".join(problems) or "it was sent and is not to be seen")
        self._seen(connection, note, found, run_id)
        self.reached("recorded")
        return CreditNoteOutcome(number=note.number, account_id=note.account_id, stripe_id=found["id"])

    def _write(self, note: DueCreditNote, invoice: Json, notes: Sequence[Json], gateway: "StripeGateway") -> Write:
        amount = to_stripe(note.amount)
        refunded = sum(
            refund["amount_refunded"] for one in notes if one["status"] == "issued" for refund in one["refunds"]
        )
        split = split_credit(
            amount,
            due=invoice["amount_remaining"],
            refundable=invoice["amount_paid"] - refunded,
            excess=self.policy.credit_excess,
        )
        params: dict[str, Any] = {
            "invoice": note.invoice_id,
            "memo": f"{note.number}: {note.reason}"[:_LONGEST_MEMO],
            "email_type": "credit_note" if self.policy.mail_credit_notes else "none",
            "metadata": {ACCOUNT_FIELD: note.account_id, NOTE_FIELD: str(note.credit_note_id)},
        }
        line_id = _line_of(note, amount, gateway)
        if line_id is None:
            params["amount"] = amount
        else:
            params["lines"] = [{"type": "invoice_line_item", "invoice_line_item": line_id, "amount": amount}]
        if split.refund:
            params["refund_amount"] = split.refund
        if split.balance:
            params["credit_amount"] = split.balance
        return Write(
            subject=str(note.credit_note_id), call=StripeCall(operation=Operation.CREDIT_NOTES_CREATE, params=params)
        )

    def _seen(self, connection: psycopg.Connection, note: DueCreditNote, found: Json, run_id: str) -> None:
        split = _split_at_stripe(found)
        with connection.transaction():
            connection.execute(
                """
                insert into stripe.sync_credit_note (
                    credit_note_id, stripe_credit_note_id, invoice_id, account_id, amount_stripe_minor,
                    off_due_stripe_minor, refund_stripe_minor, balance_stripe_minor, run_id, seen_at
                )
                values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
                on conflict (credit_note_id) do nothing
                """,
                [
                    note.credit_note_id,
                    found["id"],
                    note.invoice_id,
                    note.account_id,
                    found["amount"],
                    split.off_due,
                    split.refund,
                    split.balance,
                    run_id,
                    self.clock(),
                ],
            )
            sync_store.close_finding(connection, FindingKind.CREDIT_NOTE_FAILED, note.number, now=self.clock())

    def _failed(self, connection: psycopg.Connection, note: DueCreditNote, problem: str) -> CreditNoteOutcome:
        with connection.transaction():
            sync_store.open_finding(
                connection,
                FindingKind.CREDIT_NOTE_FAILED,
                note.number,
                f"credit note {note.number} of {note.amount} on {note.invoice_id} is not at Stripe: {problem}",
                account_id=note.account_id,
                now=self.clock(),
            )
        return CreditNoteOutcome(number=note.number, account_id=note.account_id, problem=problem)


def _due(connection: psycopg.Connection) -> tuple[DueCreditNote, ...]:
    rows = connection.execute(
        """
        select
            note.credit_note_id, note.number, note.account_id, split_part(final.external_id, ':', 1), note.amount_minor,
            note.currency, coalesce(note.item_key, about.item_key), note.reason
        from invoicing.credit_note as note
        join invoicing.final_invoice as final using (invoice_id)
        left join lateral (
            select coalesce(final_item.part_of, final_item.item_key) as item_key
            from invoicing.final_item
            where final_item.invoice_id = note.invoice_id and final_item.source_id = note.corrects
            limit 1
        ) as about on true
        left join stripe.sync_credit_note as sent using (credit_note_id)
        where final.external_id is not null and sent.credit_note_id is null
            and not exists (select from invoicing.voided_invoice as voided where voided.invoice_id = note.invoice_id)
        order by note.number
        """
    ).fetchall()
    return tuple(
        DueCreditNote(
            credit_note_id=row[0],
            number=row[1],
            account_id=row[2],
            invoice_id=row[3],
            amount=Money(row[4], row[5]),
            item_key=row[6],
            reason=row[7],
        )
        for row in rows
    )


def _of(note: DueCreditNote, notes: Sequence[Json]) -> Json | None:
    """Return the note at Stripe that is this one; one that somebody made void there counts: it is not issued again."""
    wanted = str(note.credit_note_id)
    return next((one for one in notes if (one.get("metadata") or {}).get(NOTE_FIELD) == wanted), None)


def _line_of(note: DueCreditNote, amount: int, gateway: "StripeGateway") -> str | None:
    """Return the line at Stripe that the note is about, if it is charged by as much."""
    if note.item_key is None:
        return None
    lines = [one for one in gateway.list_lines(note.invoice_id) if _key(one) == note.item_key]
    return str(lines[0]["id"]) if len(lines) == 1 and lines[0]["amount"] >= amount else None


def _key(line: Json) -> str | None:
    return (line.get("metadata") or {}).get(KEY_FIELD)


def _split_at_stripe(found: Json) -> CreditSplit:
    refund = sum(one["amount_refunded"] for one in found["refunds"])
    off_due = found["pre_payment_amount"]
    return CreditSplit(off_due=off_due, refund=refund, balance=found["amount"] - off_due - refund)
