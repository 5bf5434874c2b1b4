"""Rows of scenarios in PostgreSQL: append-only, with the draft, the accounts' totals and the charges that differ.

Not here: what they say (billing_pipeline.backtest), when they are written (backtest_store).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from uuid import UUID

import psycopg

from billing_pipeline.backtest import AccountChange, BookedSide, ChangedCharge, Comparison, DraftSide
from billing_pipeline.catalog.differences import Difference
from billing_pipeline.periods import Window
from resources.copy_binary import NULL, bigint, chunks, columns, copy_binary, instant, integer, jsonb, text, uuid
from resources.copy_text import copy_text, escaped


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A backtest that ran, and what it was made of. Days are included on both ends."""

    scenario_id: UUID
    name: str
    draft_sha256: str
    base_sha256: str
    first_day: date
    last_day: date
    usage_digest: str
    books_digest: str
    code_version: str
    accounts_concerned: int
    accounts_in_all: int
    charges_rated: int
    charges_unaffected: int
    charges_changed: int
    unbooked_days: int
    seconds: float
    ran_at: datetime


_COLUMNS = (
    "scenario_id, name, draft_sha256, base_sha256, first_day, last_day, usage_digest, books_digest, code_version, "
    "accounts_concerned, accounts_in_all, charges_rated, charges_unaffected, charges_changed, unbooked_days, seconds, ran_at"
)
_TOTALS = b"copy backtest.account_total (scenario_id, account_id, currency, before_minor, after_minor, changed_charges) from stdin"
_CHANGES = b"""
    copy backtest.changed_charge (
        scenario_id, charge_id, account_id, subscription_id, price_id, group_key, period_start, period_end,
        before_minor, before_currency, before_revision, after_minor, after_currency, after_lines
    ) from stdin (format binary)
"""
_NO_SIDE = 3 * NULL


def write_scenario(
    connection: psycopg.Connection, scenario: Scenario, comparison: Comparison, found: Iterable[Difference]
) -> bool:
    """Write a scenario with its draft and its figures, and return True; nothing and False where it is there already."""
    row = connection.execute(
        f"""
        insert into backtest.scenario ({_COLUMNS})
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict do nothing
        returning scenario_id
        """.encode(),
        [
            scenario.scenario_id,
            scenario.name,
            scenario.draft_sha256,
            scenario.base_sha256,
            scenario.first_day,
            scenario.last_day,
            scenario.usage_digest,
            scenario.books_digest,
            scenario.code_version,
            scenario.accounts_concerned,
            scenario.accounts_in_all,
            scenario.charges_rated,
            scenario.charges_unaffected,
            scenario.charges_changed,
            scenario.unbooked_days,
            round(scenario.seconds, 3),
            scenario.ran_at,
        ],
    ).fetchone()
    if row is None:
        return False
    _write_draft(connection, scenario, found)
    scenario_id = str(scenario.scenario_id)
    copy_text(connection, _TOTALS, (_total_row(scenario_id, one) for one in comparison.accounts))
    copy_binary(connection, _CHANGES, chunks([*_change_rows(scenario.scenario_id, comparison.changed)]))
    return True


def _total_row(scenario_id: str, one: AccountChange) -> str:
    return (
        f"{scenario_id}\t{escaped(one.account_id)}\t{one.before.currency}\t{one.before.minor_units}\t"
        f"{one.after.minor_units}\t{one.changed_charges}\n"
    )


def _change_rows(scenario_id: UUID, changed: Iterable[ChangedCharge]) -> Iterator[bytes]:
    head = columns(14) + uuid(scenario_id)
    for one in changed:
        side, before, after = one.side, one.before, one.after
        old = _NO_SIDE if before is None else _amount(before) + integer(before.revision)
        new = _NO_SIDE if after is None else _amount(after) + jsonb(after.lines_json)
        yield b"".join(
            (
                head,
                uuid(one.charge_id),
                text(side.account_id),
                text(side.subscription_id),
                _shared_text(side.price_id),
                text(side.group_key),
                _period(side.period),
                old,
                new,
            )
        )


def _amount(side: BookedSide | DraftSide) -> bytes:
    return bigint(side.amount_minor) + _shared_text(side.currency)


# Of many charges few have a price, a currency and a period of their own.
_shared_text = lru_cache(maxsize=1 << 12)(text)


@lru_cache(maxsize=1 << 14)
def _period(period: Window) -> bytes:
    return instant(period.start) + instant(period.end)


def _write_draft(connection: psycopg.Connection, scenario: Scenario, found: Iterable[Difference]) -> None:
    for one in found:
        connection.execute(
            """
            insert into backtest.draft_change (draft_sha256, base_sha256, kind, entry_id, version, content)
            values (%s, %s, %s, %s, %s, %s::jsonb)
            on conflict do nothing
            """,
            [scenario.draft_sha256, scenario.base_sha256, one.kind, one.entry_id, one.version, one.after_json],
        )


def read_scenarios(connection: psycopg.Connection, digits: str = "") -> Iterator[Scenario]:
    """Yield the scenarios whose id begins with `digits`, the newest first."""
    rows = connection.execute(
        f"""
        select {_COLUMNS}
        from backtest.scenario
        where starts_with(scenario_id::text, %s)
        order by ran_at desc, scenario_id
        """.encode(),
        [digits],
    ).fetchall()
    for row in rows:
        yield Scenario(
            scenario_id=row[0],
            name=row[1],
            draft_sha256=row[2],
            base_sha256=row[3],
            first_day=row[4],
            last_day=row[5],
            usage_digest=row[6],
            books_digest=row[7],
            code_version=row[8],
            accounts_concerned=row[9],
            accounts_in_all=row[10],
            charges_rated=row[11],
            charges_unaffected=row[12],
            charges_changed=row[13],
            unbooked_days=row[14],
            seconds=float(row[15]),
            ran_at=row[16],
        )
