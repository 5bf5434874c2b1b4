"""Rate stored usage with a draft catalog and keep what would change. Writes to `backtest.*` alone: nothing is charged or booked.

One snapshot for everything; the production's `rated_batches` rates, over all periods that touch the range. Only accounts for
whom the draft says something else are looked at. The other side is what is booked. Not here: comparing (billing_pipeline.backtest).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from time import perf_counter
from uuid import UUID, uuid5

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.backtest import AccountChange, ChargeSide, Comparison, compare
from billing_pipeline.catalog import Catalog, Kind, restore_catalog
from billing_pipeline.catalog.differences import Change, Difference, differences
from billing_pipeline.charges import Charge, ChargeKey
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import RequestedDays, Window
from resources.booking_scope import BookingScope, read_scope
from resources.catalog_store import catalog_release, current_catalog
from resources.charge_usage import rated_batches
from resources.database import Database
from resources.prepaid_usage import rate_balances

# Made once with uuid4. Never change it: ids of kept scenarios are made from it.
_NAMESPACE = UUID("a3a5f3a0-7a49-4a43-9f0f-8f1d2d9f7c55")
_NOTHING = "nothing was rated, and no charge or ledger row is ever written by a backtest"

Progress = Callable[[str, int, int], None]


class BacktestRefusedError(BillingError):
    """A draft that stored usage cannot answer for."""


class ScenarioUnknownError(BillingError):
    """No scenario, or several, begin so."""


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
    charges_changed: int
    unbooked_days: int
    seconds: float
    ran_at: datetime


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
        with self.database.transaction() as connection:
            connection.execute("set transaction isolation level repeatable read")
            base = current_catalog(connection)
            found = differences(base, draft)
            _refuse_other_measures(found)
            concerned = {account for one in found for account in one.accounts}
            days = RequestedDays(_days(first, last))
            progress("reading what is booked", 0, 1)
            scope = read_scope(connection, base, days)
            before = _booked_sides(connection, scope, concerned)
            progress("reading what is booked", 1, 1)
            progress("rating with the draft", 0, 1)
            after = _draft_sides(connection, draft, days, concerned)
            progress("rating with the draft", 1, 1)
            comparison = compare(before, after)
            scenario = _scenario(
                connection,
                name,
                draft,
                base,
                (first, last),
                before,
                comparison,
                code_version,
                len(concerned),
                len(after),
            )
            scenario = replace(scenario, seconds=perf_counter() - began)
            is_new = _keep(connection, scenario, comparison, found)
        return Backtest(scenario=scenario, comparison=comparison, differences=found, is_new=is_new)

    def scenarios(self) -> tuple[Scenario, ...]:
        """Return every scenario, the newest first."""
        with self.database.reading() as connection:
            return _read_scenarios(connection, "true", {})

    def find(self, digits: str) -> tuple[Scenario, tuple[AccountChange, ...]]:
        """Return the scenario whose id begins with `digits`, and its accounts.

        Raises:
            ScenarioUnknownError: there is none, or several.
        """
        with self.database.reading() as connection:
            found = _read_scenarios(connection, "starts_with(scenario_id::text, %(digits)s)", {"digits": digits})
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


def _booked_sides(
    connection: psycopg.Connection, scope: BookingScope, accounts: Iterable[str]
) -> dict[UUID, ChargeSide]:
    rows = connection.execute(
        """
        select distinct on (charge_id)
            charge_id, account_id, subscription_id, price_id, group_key, period_start, period_end, amount_minor, currency,
            lines::text
        from billing.charge_revision
        where account_id = any(%(accounts)s) and period_start < %(end)s and period_end > %(start)s
        order by charge_id, revision desc
        """,
        {"accounts": sorted(accounts), "start": scope.span.start, "end": scope.span.end},
    )
    found = {}
    for charge_id, account_id, subscription_id, price_id, group_key, start, end, units, currency, lines in rows:
        period = Window(start, end)
        if scope.concerns(subscription_id, price_id, period):
            key = ChargeKey(subscription_id=subscription_id, price_id=price_id, period=period, group_key=group_key)
            amount = Money(units, currency)
            found[charge_id] = ChargeSide(key=key, account_id=account_id, amount=amount, lines_json=_canonical(lines))
    return found


@lru_cache(maxsize=1 << 16)
def _canonical(lines: str) -> str:
    """Return the arithmetic as JSON that two sides can be compared by: PostgreSQL orders the keys of jsonb its own way."""
    return json.dumps(json.loads(lines), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _draft_sides(
    connection: psycopg.Connection, draft: Catalog, days: RequestedDays, accounts: set[str]
) -> dict[UUID, ChargeSide]:
    """Return every charge of the accounts as the draft has it, rated from all stored usage of its period."""
    subscriptions = {key: one for key, one in draft.subscriptions.items() if one.account_id in accounts}
    part = replace(draft, subscriptions=subscriptions)
    scope = replace(read_scope(connection, part, days), reshaped={})
    balances = rate_balances(connection, part, scope)
    sides: dict[UUID, ChargeSide] = {}
    # Of a year there are more charges than fit into memory with all that they are made of.
    for _, usage in rated_batches(connection, part, scope):
        sides.update((charge_id, _side(charge)) for charge_id, charge in usage.charges.items())
    sides.update((charge_id, _side(period.charge)) for charge_id, period in balances.periods.items())
    return sides


def _side(charge: Charge) -> ChargeSide:
    return ChargeSide(
        key=charge.key,
        account_id=charge.account_id,
        amount=charge.amount,
        lines_json=_canonical(charge.lines_json),
    )


def _scenario(
    connection: psycopg.Connection,
    name: str,
    draft: Catalog,
    base: Catalog,
    days: tuple[date, date],
    before: Mapping[UUID, ChargeSide],
    comparison: Comparison,
    code_version: str,
    concerned: int,
    rated: int,
) -> Scenario:
    usage_digest, unbooked = _usage_built(connection, days)
    books = hashlib.sha256()
    for charge_id in sorted(before):
        books.update(f"{charge_id}|{before[charge_id].amount}|{before[charge_id].lines_json}\n".encode())
    inputs = (draft.sha256, base.sha256, *map(str, days), usage_digest, books.hexdigest(), code_version)
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
        books_digest=books.hexdigest(),
        code_version=code_version,
        accounts_concerned=concerned,
        accounts_in_all=len(base.accounts.keys() | draft.accounts.keys()),
        charges_rated=rated,
        charges_changed=len(comparison.changed),
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


def _keep(
    connection: psycopg.Connection, scenario: Scenario, comparison: Comparison, found: Iterable[Difference]
) -> bool:
    row = connection.execute(
        """
        insert into backtest.scenario (
            scenario_id, name, draft_sha256, base_sha256, first_day, last_day, usage_digest, books_digest, code_version,
            accounts_concerned, accounts_in_all, charges_rated, charges_changed, unbooked_days, seconds, ran_at
        )
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict do nothing
        returning scenario_id
        """,
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
            scenario.charges_changed,
            scenario.unbooked_days,
            round(scenario.seconds, 3),
            scenario.ran_at,
        ],
    ).fetchone()
    if row is None:
        return False
    _keep_draft(connection, scenario, found)
    with connection.cursor() as cursor:
        with cursor.copy("copy backtest.account_total from stdin") as copy:
            for one in comparison.accounts:
                copy.write_row(
                    (
                        scenario.scenario_id,
                        one.account_id,
                        one.before.currency,
                        one.before.minor_units,
                        one.after.minor_units,
                        one.changed_charges,
                    )
                )
        with cursor.copy("copy backtest.changed_charge from stdin") as copy:
            for charge in comparison.changed:
                key = charge.side.key
                sides = [
                    (side.amount.minor_units, side.amount.currency, side.lines_json) if side else (None, None, None)
                    for side in (charge.before, charge.after)
                ]
                copy.write_row(
                    (
                        scenario.scenario_id,
                        charge.charge_id,
                        charge.side.account_id,
                        key.subscription_id,
                        key.price_id,
                        key.group_key,
                        key.period.start,
                        key.period.end,
                        *sides[0],
                        *sides[1],
                    )
                )
    return True


def _keep_draft(connection: psycopg.Connection, scenario: Scenario, found: Iterable[Difference]) -> None:
    for one in found:
        connection.execute(
            """
            insert into backtest.draft_change (draft_sha256, base_sha256, kind, entry_id, version, content)
            values (%s, %s, %s, %s, %s, %s::jsonb)
            on conflict do nothing
            """,
            [scenario.draft_sha256, scenario.base_sha256, one.kind, one.entry_id, one.version, one.after_json],
        )


def _read_scenarios(
    connection: psycopg.Connection, condition: str, parameters: Mapping[str, object]
) -> tuple[Scenario, ...]:
    rows = connection.execute(
        f"""
        select
            scenario_id, name, draft_sha256, base_sha256, first_day, last_day, usage_digest, books_digest, code_version,
            accounts_concerned, accounts_in_all, charges_rated, charges_changed, unbooked_days, seconds, ran_at
        from backtest.scenario
        where {condition}
        order by ran_at desc, scenario_id
        """.encode(),
        parameters,
    ).fetchall()
    return tuple(
        Scenario(
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
            charges_changed=row[12],
            unbooked_days=row[13],
            seconds=float(row[14]),
            ran_at=row[15],
        )
        for row in rows
    )
