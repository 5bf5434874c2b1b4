"""Write charge revisions and their postings. Not here: what is written (charges, ledger), when (charge_store)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import NamedTuple

import psycopg

from billing_pipeline.amounts import Exact, to_scale
from billing_pipeline.catalog import BillingMode
from billing_pipeline.charges import ChargeRevision, Figures
from billing_pipeline.ledger import accounts_of, transaction_bytes
from resources.copy_binary import (
    bigint,
    chunks,
    columns,
    copy_binary,
    day,
    instant,
    integer,
    jsonb,
    numeric,
    raw,
    smallint,
    text,
    uuid,
)

_PLACES = 12
# Columns in the order in which rows share them: those of one charge, of its terms, of its figures, of the run.
_REVISIONS = b"""
    copy billing.charge_revision (
        charge_id, revision, delta_minor, account_id, subscription_id,
        plan_id, price_id, meter_id, group_key, period_start, period_end, event_day,
        quantity, unit, exact_amount, amount_minor, currency, lines, rating_digest,
        catalog_sha256, code_version, run_id
    ) from stdin (format binary)
"""
_POSTINGS = b"""
    copy billing.ledger_posting (
        transaction_id, posting_number, amount_minor, ledger_account, account_id, currency, charge_id, revision, event_day
    ) from stdin (format binary)
"""
_REVISION, _POSTING = columns(22), columns(9)
_FIRST, _SECOND = smallint(1), smallint(2)
# Columns that are remembered: as many as there are charges in a batch.
_MOST = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBy:
    """What every row says of the run that writes it; `event_day` is the day that a revision counts for."""

    catalog_sha256: str
    code_version: str
    run_id: str
    event_day: Callable[[ChargeRevision], date]


@dataclass(frozen=True, slots=True)
class SpelledRows:
    """Revisions and their postings, as COPY takes them."""

    revisions: Sequence[bytes]
    postings: Sequence[bytes]

    def write(self, connection: psycopg.Connection) -> None:
        """Append them. Revisions come first: postings name them."""
        if self.revisions:
            copy_binary(connection, _REVISIONS, self.revisions)
        if self.postings:
            copy_binary(connection, _POSTINGS, self.postings)


class _Terms(NamedTuple):
    """`debited` is the kind of ledger account, which the account's id follows."""

    columns: bytes
    event_day: bytes
    currency: bytes
    debited: str
    credited: bytes


class BookRows:
    """Spells revisions and their postings as rows, batch after batch; `billing_mode` is by price id."""

    def __init__(self, by: WrittenBy, *, billing_mode: Callable[[str], BillingMode]) -> None:
        self._by = by
        self._billing_mode = billing_mode
        self._tail = b"".join(map(text, (by.catalog_sha256, by.code_version, by.run_id)))
        self._terms: dict[object, _Terms] = {}
        # By identity: the figures are kept with them, so that no other value takes their place.
        self._figures: dict[int, tuple[Figures, bytes]] = {}

    def of(self, revisions: Sequence[ChargeRevision]) -> SpelledRows:
        """Return the rows of the revisions and of their postings."""
        written, posted = [], []
        tail, figures_known = self._tail, self._figures
        for revision in revisions:
            charge_id, number, charge, _ = revision
            terms = self._of_terms(revision)
            account_id, figures = charge.account_id, charge.figures
            delta = revision.delta.minor_units
            own_id, place, account, amount = uuid(charge_id), integer(number), text(account_id), bigint(delta)
            known = figures_known.get(id(figures))
            spelled = self._of_figures(figures) if known is None else known[1]
            subscription = text(charge.key.subscription_id)
            written.append(
                b"".join((_REVISION, own_id, place, amount, account, subscription, terms.columns, spelled, tail))
            )
            if delta:
                head = _POSTING + raw(transaction_bytes(revision))
                rest = b"".join((account, terms.currency, own_id, place, terms.event_day))
                posted.append(b"".join((head, _FIRST, amount, text(f"{terms.debited}:{account_id}"), rest)))
                posted.append(b"".join((head, _SECOND, bigint(-delta), terms.credited, rest)))
        return SpelledRows(chunks(written), chunks(posted))

    def _of_terms(self, revision: ChargeRevision) -> _Terms:
        """Return what is spelled of a charge's terms: few have terms of their own."""
        charge = revision.charge
        key = charge.key
        period, meter_id = key.period, charge.meter_id
        name = key.price_id, period.start, period.end, key.group_key, charge.plan_id, meter_id, charge.currency
        found = self._terms.get(name)
        if found is None:
            event_day = day(self._by.event_day(revision))
            columns = (
                *map(text, (charge.plan_id, key.price_id, meter_id, key.group_key)),
                instant(period.start),
                instant(period.end),
                event_day,
            )
            debited, credited = accounts_of(revision, billing_mode=self._billing_mode(key.price_id))
            if len(self._terms) >= _MOST:
                self._terms.clear()
            found = self._terms[name] = _Terms(
                columns=b"".join(columns),
                event_day=event_day,
                currency=text(charge.currency),
                debited=debited.removesuffix(f":{charge.account_id}"),
                credited=text(credited),
            )
        return found

    def _of_figures(self, figures: Figures) -> bytes:
        """Return the columns of what a charge comes to."""
        rated = figures.rated
        found = b"".join(
            (
                numeric(_scaled(rated.quantity)),
                text(rated.unit),
                numeric(_scaled(rated.exact)),
                bigint(figures.amount.minor_units),
                text(figures.currency),
                jsonb(figures.lines_json),
                text(figures.rating_digest),
            )
        )
        if len(self._figures) >= _MOST:
            self._figures.clear()
        self._figures[id(figures)] = figures, found
        return found


def _scaled(value: Exact) -> Decimal:
    """Return a number at the columns' twelve places, where it has more of them rounded."""
    if isinstance(value, Decimal):
        places = value.as_tuple().exponent
        if isinstance(places, int) and places >= -_PLACES:
            return value
    return to_scale(value, digits=_PLACES)
