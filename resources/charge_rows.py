"""Write charge revisions and their postings. Not here: what is written (charges, ledger), when (charge_store)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import psycopg

from billing_pipeline.amounts import Exact, exact_text, to_scale
from billing_pipeline.catalog import BillingMode
from billing_pipeline.charges import ChargeRevision
from billing_pipeline.ledger import postings
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


def write_revisions(connection: psycopg.Connection, revisions: Sequence[ChargeRevision], by: WrittenBy) -> None:
    """Append the revisions."""
    tail = f"{escaped(by.catalog_sha256)}\t{escaped(by.code_version)}"
    run_id = escaped(by.run_id)
    copy_text(connection, _REVISIONS, (_revision_row(one, by, tail, run_id) for one in revisions))


def write_postings(
    connection: psycopg.Connection,
    revisions: Sequence[ChargeRevision],
    by: WrittenBy,
    *,
    billing_mode: Callable[[str], BillingMode],
) -> None:
    """Append the postings of the revisions; `billing_mode` is by price id."""
    copy_text(connection, _POSTINGS, (row for one in revisions for row in _posting_rows(one, by, billing_mode)))


def _revision_row(revision: ChargeRevision, by: WrittenBy, tail: str, run_id: str) -> str:
    charge = revision.charge
    key, rated = charge.key, charge.rated
    meter = NULL if charge.meter_id is None else escaped(charge.meter_id)
    return (
        f"{revision.charge_id}\t{revision.revision}\t{escaped(charge.account_id)}\t{escaped(key.subscription_id)}\t"
        f"{escaped(charge.plan_id)}\t{escaped(key.price_id)}\t{meter}\t{escaped(key.group_key)}\t{instant_text(key.period.start)}\t"
        f"{instant_text(key.period.end)}\t{_scaled(rated.quantity)}\t{escaped(rated.unit)}\t{_scaled(rated.exact)}\t"
        f"{charge.amount.minor_units}\t{revision.delta.minor_units}\t{charge.currency}\t{escaped(charge.lines_json)}\t"
        f"{charge.rating_digest}\t{tail}\t{by.event_day(revision)}\t{run_id}\n"
    )


def _posting_rows(revision: ChargeRevision, by: WrittenBy, billing_mode: Callable[[str], BillingMode]) -> Iterator[str]:
    day = by.event_day(revision)
    for posting in postings(revision, billing_mode=billing_mode(revision.charge.key.price_id)):
        yield (
            f"{posting.transaction_id}\t{posting.posting_number}\t{escaped(posting.ledger_account)}\t"
            f"{escaped(posting.account_id)}\t{posting.amount.minor_units}\t{posting.amount.currency}\t"
            f"{revision.charge_id}\t{revision.revision}\t{day}\n"
        )


def _scaled(value: Exact) -> str:
    """Return a number at the columns' twelve places, where it has more of them rounded."""
    text = exact_text(value)
    point = text.find(".")
    if "/" in text or (point >= 0 and len(text) - point - 1 > _PLACES):
        return exact_text(to_scale(value, digits=_PLACES))
    return text
