"""Write charge revisions and their postings. Not here: what is written (charges, ledger), when (charge_store)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import psycopg

from billing_pipeline.amounts import Exact, exact_text, to_scale
from billing_pipeline.catalog import BillingMode
from billing_pipeline.charges import ChargeRevision
from billing_pipeline.ledger import accounts_of, transaction_id
from resources.copy_text import NULL, copy_text, escaped, instant_text

_PLACES = 12
_REVISIONS = b"""
    copy billing.charge_revision (
        charge_id, revision, account_id, subscription_id, plan_id, price_id, meter_id, group_key, period_start, period_end,
        quantity, unit, exact_amount, amount_minor, delta_minor, currency, lines, rating_digest, catalog_sha256,
        code_version, event_day, run_id
    ) from stdin
"""
_POSTINGS = b"""
    copy billing.ledger_posting (
        transaction_id, posting_number, ledger_account, account_id, amount_minor, currency, charge_id, revision, event_day
    ) from stdin
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBy:
    """What every row says of the run that writes it; `event_day` is the day that a revision counts for."""

    catalog_sha256: str
    code_version: str
    run_id: str
    event_day: Callable[[ChargeRevision], date]


def write_books(
    connection: psycopg.Connection,
    revisions: Sequence[ChargeRevision],
    by: WrittenBy,
    *,
    billing_mode: Callable[[str], BillingMode],
) -> None:
    """Append the revisions and their postings; `billing_mode` is by price id."""
    tail = f"{escaped(by.catalog_sha256)}\t{escaped(by.code_version)}"
    run_id = escaped(by.run_id)
    texts = [(str(one.charge_id), str(by.event_day(one)), escaped(one.charge.account_id)) for one in revisions]
    copy_text(connection, _REVISIONS, (_revision_row(*one, tail, run_id) for one in zip(revisions, texts, strict=True)))
    copy_text(connection, _POSTINGS, (_posting_rows(*one, billing_mode) for one in zip(revisions, texts, strict=True)))


# Charge id, event day and account as COPY has them.
_Texts = tuple[str, str, str]


def _revision_row(revision: ChargeRevision, texts: _Texts, tail: str, run_id: str) -> str:
    charge_id, day, account_id = texts
    charge = revision.charge
    key, rated = charge.key, charge.rated
    meter = NULL if charge.meter_id is None else escaped(charge.meter_id)
    return (
        f"{charge_id}\t{revision.revision}\t{account_id}\t{escaped(key.subscription_id)}\t"
        f"{escaped(charge.plan_id)}\t{escaped(key.price_id)}\t{meter}\t{escaped(key.group_key)}\t{instant_text(key.period.start)}\t"
        f"{instant_text(key.period.end)}\t{_scaled(rated.quantity)}\t{escaped(rated.unit)}\t{_scaled(rated.exact)}\t"
        f"{charge.amount.minor_units}\t{revision.delta.minor_units}\t{charge.currency}\t{escaped(charge.lines_json)}\t"
        f"{charge.rating_digest}\t{tail}\t{day}\t{run_id}\n"
    )


def _posting_rows(revision: ChargeRevision, texts: _Texts, billing_mode: Callable[[str], BillingMode]) -> str:
    """Return what `ledger.postings` says as rows: none, or two. Made without the values, of which there would be a million."""
    amount = revision.delta.minor_units
    if amount == 0:
        return ""
    charge_id, day, account_id = texts
    charge = revision.charge
    debited, credited = accounts_of(revision, billing_mode=billing_mode(charge.key.price_id))
    head, tail = str(transaction_id(revision)), f"{charge.currency}\t{charge_id}\t{revision.revision}\t{day}\n"
    return (
        f"{head}\t1\t{escaped(debited)}\t{account_id}\t{amount}\t{tail}"
        f"{head}\t2\t{escaped(credited)}\t{account_id}\t{-amount}\t{tail}"
    )


def _scaled(value: Exact) -> str:
    """Return a number at the columns' twelve places, where it has more of them rounded."""
    text = exact_text(value)
    point = text.find(".")
    if "/" in text or (point >= 0 and len(text) - point - 1 > _PLACES):
        return exact_text(to_scale(value, digits=_PLACES))
    return text
