"""Judge prepaid balances inside the transaction that booked them: entries, ledger and balance of each account -> verdicts.

Not here: charges against usage and the ledger (charge_guards), what a verdict says of the rest (checks).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID

import psycopg

from billing_pipeline.amounts import exact_sum, exact_text, to_money
from billing_pipeline.checks import LISTED_ITEMS, Subject, Verdict, equal
from billing_pipeline.periods import RequestedDays
from resources.prepaid_usage import RatedBalances

_AS_IT_SHOULD = "balance = initial balance + ledger"


@dataclass(frozen=True, slots=True)
class _Books:
    """What the books say of one account. Amounts in major units and exact, `ledger_minor` in minor units."""

    currency: str
    initial: Decimal
    # charge -> sum of its entries, and its total as its period keeps it
    entries: Mapping[UUID, Decimal]
    periods: Mapping[UUID, Decimal]
    ledger_minor: int
    balance: Decimal | None

    def problem(self) -> str | None:
        """Return what does not agree, None where all does."""
        for charge_id, amount in self.entries.items():
            kept = self.periods.get(charge_id, Decimal(0))
            if -amount != kept:
                return f"charge {charge_id}: entries {exact_text(amount)}, period {exact_text(-kept)}"
        # Each period's charge is rounded once, so the ledger is the sum of rounded periods.
        expected = to_money(self.initial, self.currency).minor_units - sum(
            to_money(amount, self.currency).minor_units for amount in self.periods.values()
        )
        if expected != self.ledger_minor:
            return f"entries come to {expected} minor units, the ledger to {self.ledger_minor}"
        exact = exact_sum([self.initial, *(-amount for amount in self.periods.values())])
        if self.balance is not None and self.balance != exact:
            return f"entries come to {exact_text(exact)}, the balance is {exact_text(self.balance)}"
        return None


def judge_balances(
    connection: psycopg.Connection, balances: RatedBalances, *, days: RequestedDays, asset: str, inputs_digest: str
) -> tuple[Verdict, ...]:
    """Return a verdict for each requested day, from what this transaction sees; without a prepaid account it passes."""
    day_of = _newest_days(balances, days)
    wrong: dict[date, list[str]] = {day: [] for day in days.days}
    for account_id, books in _read(connection, balances, sorted(day_of)) if day_of else ():
        if (problem := books.problem()) is not None:
            wrong[day_of[account_id]].append(f"{account_id} ({problem})")
    return tuple(
        _balance_equals_ledger(
            Subject(asset=asset, partition_key=day.isoformat(), inputs_digest=inputs_digest), sorted(found)
        )
        for day, found in sorted(wrong.items())
    )


def _newest_days(balances: RatedBalances, days: RequestedDays) -> Mapping[str, date]:
    """Return each account's newest requested day."""
    found: dict[str, date] = {}
    windows = [
        *((one.slot.subscription.account_id, one.slot.period.window) for one in balances.periods.values()),
        *balances.gone.values(),
    ]
    for account_id, window in windows:
        day = days.newest_in(window)
        found[account_id] = max(day, found.get(account_id, day))
    return found


def _read(connection: psycopg.Connection, balances: RatedBalances, accounts: list[str]) -> Iterator[tuple[str, _Books]]:
    wanted = {"accounts": accounts, "charges": [*balances.periods, *balances.gone]}
    entries: dict[str, dict[UUID, Decimal]] = defaultdict(dict)
    for account_id, charge_id, amount in connection.execute(
        """
        select account_id, charge_id, sum(amount_delta)
        from billing.prepaid_entry
        where charge_id = any(%(charges)s)
        group by account_id, charge_id
        """,
        wanted,
    ):
        entries[account_id][charge_id] = amount
    periods: dict[str, dict[UUID, Decimal]] = defaultdict(dict)
    for account_id, charge_id, amount in connection.execute(
        "select account_id, charge_id, exact_amount from billing.prepaid_period where account_id = any(%(accounts)s)",
        wanted,
    ):
        periods[account_id][charge_id] = amount
    for account_id, currency, initial, ledger_minor, balance in connection.execute(_ACCOUNTS, wanted):
        yield account_id, _Books(currency, initial, entries[account_id], periods[account_id], ledger_minor, balance)


_ACCOUNTS = """
    with
    opened as (
        select account_id, sum(amount_delta) as initial_balance
        from billing.prepaid_entry
        where charge_id is null and account_id = any(%(accounts)s)
        group by account_id
    ),
    posted as (
        select account_id, -sum(amount_minor)::bigint as ledger_minor
        from billing.ledger_posting
        where account_id = any(%(accounts)s) and ledger_account = 'prepaid:' || account_id
        group by account_id
    )
    select
        account.account_id, account.currency, coalesce(opened.initial_balance, 0), coalesce(ledger_minor, 0),
        exact_balance
    from catalog.account as account
    left join opened using (account_id)
    left join posted using (account_id)
    left join billing.account_balance_state as state using (account_id)
    where account.account_id = any(%(accounts)s)
"""


def _balance_equals_ledger(subject: Subject, wrong: list[str]) -> Verdict:
    return equal(
        subject,
        guard="balance_equals_ledger",
        expected=_AS_IT_SHOULD,
        actual="; ".join(wrong[:LISTED_ITEMS]) or _AS_IT_SHOULD,
        passed="Of every prepaid account the balance is what it began with and the sum of its ledger.",
        held=f"{len(wrong)} prepaid accounts have a balance that is not what they began with and the sum of their ledger "
        "(see actual). For the bill: nothing of this run is booked. To fix: somebody wrote to billing.prepaid_entry, "
        "billing.prepaid_period or billing.ledger_posting by hand; find out who, post the reverse, and book the day again.",
    )
