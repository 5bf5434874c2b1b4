"""Rate stored usage with a draft catalog and keep what would change. Writes to `backtest.*` alone: nothing is charged or booked.

One snapshot for everything; the production's rating rates, over all periods that touch the range. Only accounts for whom the draft
says something else are looked at, and of them only charges that it can change are rated, where the books are of the usage and the
code of now. Not here: rating beside the books (draft_comparer), comparing (billing_pipeline.backtest).
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from threading import Lock
from time import perf_counter
from uuid import UUID, uuid5

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.backtest import AccountChange, Comparison
from billing_pipeline.catalog import Catalog, Kind, restore_catalog
from billing_pipeline.catalog.differences import Change, Difference, differences
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import RequestedDays
from resources.backtest.books import books_digest
from resources.backtest.draft_comparer import ComparedPart, DraftComparer, compare_all
from resources.backtest.scenario_rows import Scenario, read_scenarios, write_scenario
from resources.catalog_store import catalog_release, current_catalog
from resources.collector import collector_paused
from resources.database import Database

# Made once with uuid4. Never change it: ids of kept scenarios are made from it.
_NAMESPACE = UUID("a3a5f3a0-7a49-4a43-9f0f-8f1d2d9f7c55")
_NOTHING = "nothing was rated, and no charge or ledger row is ever written by a backtest"

Progress = Callable[[str, int, int], None]


class BacktestRefusedError(BillingError):
    """A draft that stored usage cannot answer for."""


class ScenarioUnknownError(BillingError):
    """No scenario, or several, begin so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """A scenario with its figures. `differences`: what the draft says differently. `is_new` False: it had run before."""

    scenario: Scenario
    comparison: Comparison
    differences: tuple[Difference, ...]
    is_new: bool


@dataclass(frozen=True, slots=True)
class BacktestStore:
    """The backtests of one database."""

    database: Database

    def run(
        self,
        draft: Catalog,
        *,
        first: date,
        last: date,
        name: str,
        code_version: str,
        on_progress: Progress | None = None,
    ) -> Backtest:
        """Rate every billing period that touches the days `first` to `last` (both included) with `draft`, and keep the scenario.

        With the same draft, catalog, usage and books it is the same scenario, and its figures are the same.

        Raises:
            CatalogNotLoadedError: there is no catalog to hold it against.
            BacktestRefusedError: the draft measures differently, which stored usage cannot answer.
            BeyondLastTierError, NegativeQuantityError, NoPriceVersionError: usage that the draft's prices do not cover.
        """
        progress = on_progress or _no_progress
        began = perf_counter()
        with collector_paused(), self.database.transaction() as connection:
            connection.execute("set transaction isolation level repeatable read")
            base = current_catalog(connection)
            found = differences(base, draft)
            _refuse_other_measures(found)
            comparer = DraftComparer(connection, base, draft, found, RequestedDays(_days(first, last)), code_version)
            compared = compare_all(comparer, connection, self.database, _Told(progress, len(comparer.concerned)).done)
            scenario = _scenario(connection, comparer, compared, name=name, days=(first, last))
            scenario = replace(scenario, seconds=perf_counter() - began)
            progress("writing what changes", 0, 1)
            is_new = write_scenario(connection, scenario, compared.comparison, found)
            progress("writing what changes", 1, 1)
        return Backtest(scenario=scenario, comparison=compared.comparison, differences=found, is_new=is_new)

    def scenarios(self) -> tuple[Scenario, ...]:
        """Return every scenario, the newest first."""
        with self.database.reading() as connection:
            return tuple(read_scenarios(connection))

    def find(self, digits: str) -> tuple[Scenario, tuple[AccountChange, ...]]:
        """Return the scenario whose id begins with `digits`, and its accounts.

        Raises:
            ScenarioUnknownError: there is none, or several.
        """
        with self.database.reading() as connection:
            found = tuple(read_scenarios(connection, digits))
            if len(found) != 1:
                raise ScenarioUnknownError(
                    f"{len(found) or 'no'} backtests begin with {digits!r}",
                    bill="nothing is shown",
                    fix="take an id, or more of its digits, from `billing backtests`",
                )
            rows = connection.execute(
                """
                select account_id, currency, before_minor, after_minor, changed_charges
                from backtest.account_total
                where scenario_id = %s
                order by account_id, currency
                """,
                [found[0].scenario_id],
            ).fetchall()
        return found[0], tuple(
            AccountChange(
                account_id=row[0], before=Money(row[2], row[1]), after=Money(row[3], row[1]), changed_charges=row[4]
            )
            for row in rows
        )

    def draft_of(self, scenario: Scenario) -> Catalog:
        """Return the scenario's draft, put together again from the catalog it was held against and what it said differently."""
        with self.database.reading() as connection:
            base = catalog_release(connection, scenario.base_sha256)
            rows = connection.execute(
                """
                select kind, entry_id, version, content::text
                from backtest.draft_change
                where draft_sha256 = %s and base_sha256 = %s
                """,
                [scenario.draft_sha256, scenario.base_sha256],
            ).fetchall()
        contents = {(one.kind, one.entry_id, one.version): one.json for one in base.contents}
        for kind, entry_id, version, content in rows:
            key = (Kind(kind), entry_id, version)
            if content is None:
                contents.pop(key)
            else:
                contents[key] = content
        return restore_catalog((key[0], content) for key, content in sorted(contents.items()))


def _no_progress(step: str, done: int, total: int) -> None:
    """Show nothing."""


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _refuse_other_measures(found: Iterable[Difference]) -> None:
    """Let pass drafts that change prices, plans and subscriptions; usage is stored as the current meters measure it.

    Raises:
        BacktestRefusedError: a meter, the billable rule or an account's clients are others.
    """
    problems = [
        f"{one.kind} {one.entry_id}: {', '.join(field.field for field in one.fields) or one.change}"
        for one in found
        if (one.kind is Kind.METER and one.change is not Change.REMOVED)
        or one.kind is Kind.BILLABLE_RULE
        or (one.kind is Kind.ACCOUNT and any(field.field.startswith("clients") for field in one.fields))
    ]
    if problems:
        raise BacktestRefusedError(
            f"the draft measures usage differently ({'; '.join(problems[:5])}); stored usage is of the meters that are loaded",
            bill=_NOTHING,
            fix="backtest prices and plans with the meters as they are; to try a meter, load the draft into a copy of the "
            "installation (another BILLING_HOME) and build its days",
        )


class _Told:
    """Tells how many accounts are done, from several threads."""

    def __init__(self, progress: Progress, accounts: int) -> None:
        self._progress, self._accounts, self._done, self._lock = progress, accounts, 0, Lock()
        self.done(0)

    def done(self, accounts: int) -> None:
        """Tell that so many more are done."""
        with self._lock:
            self._done += accounts
            self._progress("rating with the draft", self._done, self._accounts)


def _scenario(
    connection: psycopg.Connection,
    comparer: DraftComparer,
    compared: ComparedPart,
    *,
    name: str,
    days: tuple[date, date],
) -> Scenario:
    usage_digest, unbooked = _usage_built(connection, days)
    base, draft, its_books_digest = comparer.base, comparer.draft, books_digest(compared.digests)
    inputs = (draft.sha256, base.sha256, *map(str, days), usage_digest, its_books_digest, comparer.code_version)
    row = connection.execute("select now()").fetchone()
    assert row is not None
    return Scenario(
        scenario_id=uuid5(_NAMESPACE, "|".join(inputs)),
        name=name,
        draft_sha256=draft.sha256,
        base_sha256=base.sha256,
        first_day=days[0],
        last_day=days[1],
        usage_digest=usage_digest,
        books_digest=its_books_digest,
        code_version=comparer.code_version,
        accounts_concerned=len(comparer.concerned),
        accounts_in_all=len(base.accounts.keys() | draft.accounts.keys()),
        charges_rated=compared.charges_rated,
        charges_unaffected=compared.charges_unaffected,
        charges_changed=len(compared.comparison.changed),
        unbooked_days=unbooked,
        seconds=0,
        ran_at=row[0],
    )


def _usage_built(connection: psycopg.Connection, days: tuple[date, date]) -> tuple[str, int]:
    """Return the digest of all builds of usage up to the range's end, and how many days of the range are not booked as built.

    Periods begin before the range, so their usage does too.
    """
    rows = connection.execute(
        """
        select
            build.asset, build.partition_key, build.inputs_digest, build.rules_digest,
            booked.inputs_digest is distinct from build.inputs_digest as is_unbooked
        from usage.build as build
        left join billing.booked_day as booked
            on booked.event_day = build.partition_key and booked.usage_asset = build.asset
        where build.partition_key <= %s
        order by build.asset, build.partition_key
        """,
        [days[1]],
    ).fetchall()
    digest = hashlib.sha256()
    for asset, day, inputs, rules, _ in rows:
        digest.update(f"{asset}|{day}|{inputs}|{rules}\n".encode())
    return digest.hexdigest(), len({row[1] for row in rows if row[4] and row[1] >= days[0]})
