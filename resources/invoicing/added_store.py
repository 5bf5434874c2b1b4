"""What people add to invoices: adjustments, one-off items, credit notes; each with actor and reason, posted, and kept for ever.

An addition that comes again with the same words is the one that is there: nothing is added twice by a repeated command. Money
goes onto a draft as an adjustment, and back from a final invoice as a credit note. Not here: how they become lines (compile).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID, uuid5

import psycopg

from billing_pipeline.amounts import Money, exact_product, exact_text, to_money
from billing_pipeline.catalog import Catalog, Subscription
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.books import Slot, slot_at
from billing_pipeline.invoicing.items import digest_of
from billing_pipeline.invoicing.policy import InvoicingPolicy
from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.ledger import Added
from billing_pipeline.periods import Window, billing_periods
from resources.database import Database
from resources.invoicing.account_work import AccountWork, account_work
from resources.invoicing.added_postings import append_postings
from resources.invoicing.credit_notes import NewCreditNote, append_credit_note
from resources.invoicing.invoice_rows import InvoiceRow, find_invoice, newest_issue, read_invoice_rows

# Made once with uuid4. Never change it: ids of kept additions are made from it.
_ADDED_NAMESPACE = UUID("e4d0a5a9-0f7e-4e50-8f3e-8a6b0d1c7b11")
_NOTHING = "nothing was added or posted"


class AdjustmentRefusedError(BillingError):
    """An adjustment of an invoice that is not open, or of no invoice, or without actor, reason or amount."""


class CreditRefusedError(BillingError):
    """A credit note of more than is left, or on an invoice that is not final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Who adds something and why. `key` tells two additions with the same words apart, such as a ticket's number."""

    actor: str
    reason: str
    now: datetime
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedLine:
    """What was added. `is_new` is False where it was there already. `invoice`: where it stands; None: on the next that opens."""

    added_id: UUID
    amount: Money
    exact: Decimal
    is_new: bool
    invoice: InvoiceRow | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCredit:
    """A credit note. `left`: what of the invoice is not credited yet."""

    number: str
    amount: Money
    left: Money
    is_new: bool
    invoice: InvoiceRow


@dataclass(frozen=True, slots=True)
class AddedStore:
    """What people add, in one database."""

    database: Database
    policy: InvoicingPolicy = field(default_factory=InvoicingPolicy)

    def adjust(
        self,
        account_id: str,
        *,
        reach: Window,
        amount: Decimal,
        decision: Decision,
        subscription_id: str | None = None,
    ) -> AddedLine:
        """Add `amount` (major units; below 0: the customer pays less) to the account's open invoice.

        The invoice is that of the billing period which begins in `reach`, or contains it: of `subscription_id`, or of the only
        subscription that has one. Computing the invoice again never touches it.

        Raises:
            UnknownEntryError: the catalog has no such account.
            AdjustmentRefusedError: the invoice is final or void, the period names none or several, or something is missing.
        """
        with account_work(self.database, self.policy, account_id, as_of=decision.now) as work:
            account = work.catalog.account(account_id)
            slot = _slot(work.catalog, account_id, reach, subscription_id)
            _refuse_without_words(decision)
            adjustment_id = _id("adjustment", account_id, slot, exact_text(amount), decision)
            is_new = not _is_there(work.connection, "adjustment", adjustment_id)
            if is_new:
                _refuse_closed(work, slot)
                money = to_money(amount, account.currency)
                work.connection.execute(
                    """
                    insert into invoicing.adjustment (
                        adjustment_id, account_id, subscription_id, period_start, period_end, exact_amount, amount_minor,
                        currency, actor, reason, booked_at
                    )
                    values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
                    """,
                    [
                        adjustment_id,
                        account_id,
                        slot.subscription_id,
                        slot.period.start,
                        slot.period.end,
                        amount,
                        money.minor_units,
                        money.currency,
                        decision.actor,
                        decision.reason,
                        decision.now,
                    ],
                )
                _post(work, Added.ADJUSTMENT, adjustment_id, money, decision)
            return self._line(work, adjustment_id, amount, account.currency, "adjusted", decision, is_new=is_new)

    def sell_once(
        self,
        account_id: str,
        *,
        description: str,
        quantity: Decimal,
        unit: str,
        unit_price: Decimal,
        sold_at: datetime,
        decision: Decision,
        subscription_id: str | None = None,
    ) -> AddedLine:
        """Add quantity x unit_price (major units, exact, rounded once) to the first open invoice that ends after `sold_at`.

        An account without one gets an invoice of its own for it.

        Raises:
            UnknownEntryError: the catalog has no such account.
            AdjustmentRefusedError: the subscription is not the account's, or something is missing.
        """
        with account_work(self.database, self.policy, account_id, as_of=decision.now) as work:
            account = work.catalog.account(account_id)
            if subscription_id is not None:
                _own_subscription(work.catalog, account_id, subscription_id)
            _refuse_without_words(decision, description=description)
            exact = exact_product(quantity, times=unit_price, over=Decimal(1))
            if not isinstance(exact, Decimal):
                raise AssertionError("a product of decimals ends")  # pragma: no cover
            words = (description, exact_text(quantity), unit, exact_text(unit_price), sold_at.isoformat())
            one_off_id = _id("one_off", account_id, subscription_id, digest_of(*words), decision)
            is_new = not _is_there(work.connection, "one_off", one_off_id)
            if is_new:
                money = to_money(exact, account.currency)
                work.connection.execute(
                    """
                    insert into invoicing.one_off (
                        one_off_id, account_id, subscription_id, sold_at, quantity, unit, unit_price, exact_amount,
                        amount_minor, currency, description, actor, reason, booked_at
                    )
                    values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
                    """,
                    [
                        one_off_id,
                        account_id,
                        subscription_id,
                        sold_at,
                        quantity,
                        unit,
                        unit_price,
                        exact,
                        money.minor_units,
                        money.currency,
                        description,
                        decision.actor,
                        decision.reason,
                        decision.now,
                    ],
                )
                _post(work, Added.ONE_OFF, one_off_id, money, decision)
            return self._line(work, one_off_id, exact, account.currency, "one_off", decision, is_new=is_new)

    def credit(self, invoice: str, *, amount: Decimal, decision: Decision, item_key: str | None = None) -> IssuedCredit:
        """Give `amount` (major units, above 0) back on a final invoice, by a credit note with the next number.

        Raises:
            InvoiceUnknownError: no such invoice.
            CreditRefusedError: it is not final, less than that is left of it, or something is missing.
        """
        with self.database.reading() as connection:
            found = find_invoice(connection, invoice)
        with account_work(self.database, self.policy, found.key.account_id, as_of=decision.now) as work:
            row = work.invoice(found.invoice_id)
            money = to_money(amount, row.total.currency)
            _refuse_without_words(decision)
            note_id = _id("credit_note", row.key.account_id, str(row.invoice_id), exact_text(amount), decision)
            number = _credit_number(work.connection, note_id)
            is_new = number is None
            left = _left(work.connection, row)
            if number is None:
                _refuse_credit(row, amount=amount, money=money, left=left)
                note = NewCreditNote(
                    credit_note_id=note_id,
                    invoice_id=row.invoice_id,
                    account_id=row.key.account_id,
                    amount=money,
                    corrects=None,
                    item_key=item_key,
                    actor=decision.actor,
                    reason=decision.reason,
                )
                number = append_credit_note(work.connection, note, policy=self.policy, now=decision.now)
                _post(work, Added.CREDIT_NOTE, note_id, -money, decision)
                left -= money
            return IssuedCredit(number=number, amount=money, left=left, is_new=is_new, invoice=row)

    def _line(
        self,
        work: AccountWork,
        added_id: UUID,
        exact: Decimal,
        currency: str,
        kind: str,
        decision: Decision,
        *,
        is_new: bool,
    ) -> AddedLine:
        """Compile, and return where the line stands now; the trail of that invoice says that it came."""
        work.compile()
        rows = read_invoice_rows(
            work.connection,
            "invoice_id in (select invoice_id from invoicing.item where source_id = %(id)s)",
            {"id": added_id},
        )
        row = rows[-1] if rows else None
        money = to_money(exact, currency)
        if row is not None and is_new:
            detail = {"amount": str(money), "exact": exact_text(exact), "id": str(added_id)}
            work.event(row, kind, actor=decision.actor, reason=decision.reason, now=decision.now, detail=detail)
        return AddedLine(added_id=added_id, amount=money, exact=exact, is_new=is_new, invoice=row)


def _id(kind: str, account_id: str, where: object, what: str, decision: Decision) -> UUID:
    """Return the id of an addition: a function of its words, so that a command that is repeated adds nothing."""
    return uuid5(_ADDED_NAMESPACE, digest_of(kind, account_id, str(where), what, decision.reason, decision.key))


def _is_there(connection: psycopg.Connection, table: str, added_id: UUID) -> bool:
    query = f"select from invoicing.{table} where {table}_id = %s"
    return connection.execute(query.encode(), [added_id]).fetchone() is not None


def _post(work: AccountWork, added: Added, entry_id: UUID, money: Money, decision: Decision) -> None:
    append_postings(
        work.connection, added=added, entry_id=entry_id, account_id=work.account_id, amount=money, now=decision.now
    )


def _refuse_without_words(decision: Decision, *, description: str = "-") -> None:
    missing = [
        name
        for name, text in (("actor", decision.actor), ("reason", decision.reason), ("description", description))
        if not text.strip()
    ]
    if missing:
        raise AdjustmentRefusedError(
            f"{' and '.join(missing)} is empty",
            bill=_NOTHING,
            fix="name who decides and why: it is kept with the line for ever",
        )


def _slot(catalog: Catalog, account_id: str, reach: Window, subscription_id: str | None) -> Slot:
    """Return the invoice that is meant."""
    subscriptions = catalog.subscriptions_by_account.get(account_id, ())
    if subscription_id is not None:
        subscriptions = (_own_subscription(catalog, account_id, subscription_id),)
    found = sorted({slot for one in subscriptions for slot in _slots_of(catalog, one, reach)})
    if len(found) == 1:
        return found[0]
    there = ", ".join(
        f"{slot.subscription_id} {slot.period.start:%Y-%m-%d} to {slot.period.end:%Y-%m-%d}" for slot in found
    )
    raise AdjustmentRefusedError(
        f"account {account_id!r} has several invoices in that period: {there}"
        if found
        else f"account {account_id!r} has no billing period there",
        bill=_NOTHING,
        fix="name the one that is meant with --subscription, or a day inside its period"
        if found
        else "take a month in which a billing period of the account begins, or a day inside it",
    )


def _slots_of(catalog: Catalog, subscription: Subscription, reach: Window) -> Iterator[Slot]:
    for period in billing_periods(subscription, reach):
        begins = reach.start <= period.window.start < reach.end
        contains = period.window.start <= reach.start and reach.end <= period.window.end
        if begins or contains:
            yield slot_at(subscription.subscription_id, period.window, catalog.subscriptions)


def _own_subscription(catalog: Catalog, account_id: str, subscription_id: str) -> Subscription:
    own: Mapping[str, Subscription] = {
        one.subscription_id: one for one in catalog.subscriptions_by_account.get(account_id, ())
    }
    if subscription_id not in own:
        raise AdjustmentRefusedError(
            f"account {account_id!r} has no subscription {subscription_id!r}",
            bill=_NOTHING,
            fix=f"take of {', '.join(sorted(own))}" if own else "the account has no subscription: leave it out",
        )
    return own[subscription_id]


def _refuse_closed(work: AccountWork, slot: Slot) -> None:
    """Let pass what goes onto an invoice that is open, or was never compiled."""
    newest = newest_issue(work.connection, work.account_id, slot.subscription_id, slot.period)
    if newest is None or newest.state is InvoiceState.DRAFT:
        return
    fix = (
        f"give money back with `billing credit-note {newest.name} AMOUNT --reason …`, or adjust the period that is open now"
        if newest.state is InvoiceState.FINAL
        else f"issue the period again with `billing reissue {newest.name}`, then adjust that"
    )
    raise AdjustmentRefusedError(
        f"invoice {newest.name} of account {work.account_id!r} for {slot.period.start:%Y-%m-%d} to "
        f"{slot.period.end:%Y-%m-%d} is {newest.state.value} and takes no adjustment",
        bill=f"{_NOTHING}; the invoice is unchanged",
        fix=fix,
    )


def _credit_number(connection: psycopg.Connection, note_id: UUID) -> str | None:
    row = connection.execute("select number from invoicing.credit_note where credit_note_id = %s", [note_id]).fetchone()
    return None if row is None else str(row[0])


def _left(connection: psycopg.Connection, row: InvoiceRow) -> Money:
    """Return what of the invoice is not credited yet."""
    credited = connection.execute(
        "select coalesce(sum(amount_minor), 0)::bigint from invoicing.credit_note where invoice_id = %s",
        [row.invoice_id],
    ).fetchone()
    return row.total - Money(0 if credited is None else credited[0], row.total.currency)


def _refuse_credit(row: InvoiceRow, *, amount: Decimal, money: Money, left: Money) -> None:
    if row.state is not InvoiceState.FINAL:
        fix = "adjust the draft with `billing adjust`" if row.state is InvoiceState.DRAFT else "nothing is owed on it"
        raise CreditRefusedError(
            f"invoice {row.name} is {row.state.value}: a credit note goes to a final invoice", bill=_NOTHING, fix=fix
        )
    if money.major != amount or money.minor_units <= 0:
        raise CreditRefusedError(
            f"{exact_text(amount)} {money.currency} cannot be given back",
            bill=_NOTHING,
            fix="give an amount above 0 in whole minor units of the currency",
        )
    if money.minor_units > left.minor_units:
        raise CreditRefusedError(
            f"{money} is more than what is left of invoice {row.name}: {left} of {row.total}",
            bill=_NOTHING,
            fix="give back at most what is left; more can be an adjustment of the open invoice",
        )
