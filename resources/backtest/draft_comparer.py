"""Rate accounts with a draft and hold them beside their books, part after part; of many, a process beside ours takes parts too.

Both read one snapshot, and rate as bookings do. Not here: comparing (billing_pipeline.backtest), reading books (books), what is
kept (scenario_rows).
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from datetime import date
from functools import partial
from uuid import UUID

import psycopg
from psycopg import sql

from billing_pipeline.backtest import Comparison, compare, together
from billing_pipeline.catalog import Catalog, Kind, restore_catalog
from billing_pipeline.catalog.differences import Difference, differences
from billing_pipeline.charges import Charge
from billing_pipeline.draft_reach import DraftReach
from billing_pipeline.periods import RequestedDays, Window
from resources.backtest.books import Books, are_current, put_off
from resources.booking_scope import BookingScope, read_scope
from resources.catalog_store import current_catalog
from resources.charge_usage import rated_charges
from resources.collector import collector_paused
from resources.database import Database
from resources.helper_process import HelperProcess, NoAnswerError
from resources.prepaid_usage import rate_balances

# Of fewer accounts ours has done all before another process has read the catalog.
ACCOUNTS_FOR_A_PROCESS = 2_000
_ACCOUNTS_A_PART = 500

# How many more accounts are done.
Told = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPart:
    """Some of the accounts. `digests`: of each charge that is booked of them (`books_digest`)."""

    comparison: Comparison
    charges_rated: int
    charges_unaffected: int
    digests: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class _DraftScope(BookingScope):
    """What is rated: of what is concerned, what the draft can change."""

    draft_reach: DraftReach

    def concerns(self, subscription_id: str, price_id: str, period: Window) -> bool:
        """Tell whether a charge for `period` is rated."""
        return super().concerns(subscription_id, price_id, period) and self.draft_reach.changes(
            subscription_id, price_id, period
        )


class DraftComparer:
    """Compares accounts in one snapshot. Both sides look at the same periods: those that either catalog concerns."""

    def __init__(
        self,
        connection: psycopg.Connection,
        base: Catalog,
        draft: Catalog,
        found: Sequence[Difference],
        days: RequestedDays,
        code_version: str,
    ) -> None:
        self.base, self.draft, self.days, self.code_version = base, draft, days, code_version
        self.concerned = frozenset(account for one in found for account in one.accounts)
        subscriptions = {key: one for key, one in draft.subscriptions.items() if one.account_id in self.concerned}
        self._catalog = replace(draft, subscriptions=subscriptions)
        self._connection = connection
        self._scope = _either(read_scope(connection, base, days), read_scope(connection, self._catalog, days))
        self._reach: DraftReach | None = None
        if are_current(connection, base, days.days, code_version=code_version):
            looked_at = put_off(connection).union(self._scope.by_subscription)
            self._reach = DraftReach(base, draft, found, looked_at=looked_at)
        self._rated_scope = self._scope
        if self._reach is not None:
            fields = {one.name: getattr(self._scope, one.name) for one in dataclass_fields(self._scope)}
            self._rated_scope = _DraftScope(**fields, draft_reach=self._reach)
        self._balances = rate_balances(connection, self._catalog, self._rated_scope)

    def compare(self, accounts: Collection[str]) -> ComparedPart:
        """Rate some accounts with the draft and hold them beside their books."""
        left = set(accounts)
        subscriptions = {key: one for key, one in self._catalog.subscriptions.items() if one.account_id in left}
        catalog = replace(self._catalog, subscriptions=subscriptions)
        books = Books(self._connection, self._scope, self._reach)
        rated, parts = 0, []
        for its_accounts, charges in rated_charges(self._connection, catalog, self._rated_scope):
            left.difference_update(its_accounts)
            with_balances = {**charges, **self._balances.of_accounts(its_accounts)}
            rated += len(with_balances)
            parts.append(_beside_books(books, its_accounts, with_balances))
        # Accounts that have no subscription in the draft.
        parts.append(_beside_books(books, left, {}))
        return ComparedPart(
            comparison=together(parts),
            charges_rated=rated,
            charges_unaffected=books.unaffected_charges,
            digests=tuple(books.digests),
        )


def _beside_books(books: Books, accounts: Collection[str], charges: Mapping[UUID, Charge]) -> Comparison:
    booked, unaffected = books.of_accounts(accounts)
    return compare(
        booked, charges, unaffected=unaffected, read_lines=lambda charge_ids: books.lines(booked, charge_ids)
    )


def _either(one: BookingScope, other: BookingScope) -> BookingScope:
    """Return the scope of what either concerns."""
    together = dict(one.together)
    for subscription_id, window in other.together.items():
        before = together.get(subscription_id, window)
        together[subscription_id] = Window(min(before.start, window.start), max(before.end, window.end))
    return replace(one, in_advance=one.in_advance | other.in_advance, together=together)


def compare_all(
    comparer: DraftComparer, connection: psycopg.Connection, database: Database, told: Told
) -> ComparedPart:
    """Compare every account that is concerned. `connection` is the comparer's, in a repeatable-read transaction.

    Raises as `DraftComparer.compare`, also for what another process failed at: it is done again here.
    """
    accounts = sorted(comparer.concerned)
    left = deque(accounts[start : start + _ACCOUNTS_A_PART] for start in range(0, len(accounts), _ACCOUNTS_A_PART))
    done: list[ComparedPart] = []

    def take(answer: Callable[[Sequence[str]], ComparedPart]) -> None:
        while left:
            try:
                part = left.popleft()
            except IndexError:
                return
            try:
                done.append(answer(part))
            except NoAnswerError:
                left.append(part)
                return
            told(len(part))

    with ExitStack() as stack:
        if len(accounts) >= ACCOUNTS_FOR_A_PROCESS:
            helper = _beside(comparer, connection, database, stack)
            if helper is not None:
                theirs = stack.enter_context(ThreadPoolExecutor(1, "backtest")).submit(take, helper.ask)
                # Whoever raises leaves nothing to the other.
                stack.callback(left.clear)
                take(comparer.compare)
                theirs.result()
        # All of it, or what a process that has died leaves.
        take(comparer.compare)
    return ComparedPart(
        comparison=together([one.comparison for one in done]),
        charges_rated=sum(one.charges_rated for one in done),
        charges_unaffected=sum(one.charges_unaffected for one in done),
        digests=tuple(digest for one in done for digest in one.digests),
    )


def _beside(
    comparer: DraftComparer, connection: psycopg.Connection, database: Database, stack: ExitStack
) -> HelperProcess[Sequence[str], ComparedPart] | None:
    """Return a process that compares in the snapshot of `connection`, or None where the system starts no more of them."""
    row = connection.execute("select pg_export_snapshot()").fetchone()
    assert row is not None
    contents = tuple((one.kind, one.json) for one in comparer.draft.contents)
    begin = partial(comparing_beside, database, str(row[0]), contents, tuple(comparer.days.days), comparer.code_version)
    try:
        return stack.enter_context(closing(HelperProcess[Sequence[str], ComparedPart](begin)))
    except OSError:
        return None


@contextmanager
def comparing_beside(
    database: Database,
    snapshot: str,
    draft_contents: Sequence[tuple[Kind, str]],
    days: Sequence[date],
    code_version: str,
) -> Iterator[Callable[[Sequence[str]], ComparedPart]]:
    """Yield what compares accounts: the work of a process beside the one whose transaction has exported `snapshot`."""
    with collector_paused(), database.transaction() as connection:
        connection.execute("set transaction isolation level repeatable read")
        connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
        base, draft = current_catalog(connection), restore_catalog(draft_contents)
        found = differences(base, draft)
        yield DraftComparer(connection, base, draft, found, RequestedDays(days), code_version).compare
