"""Print a prepaid account: what it used in its billing period, what is left, who waits for money, its newest entries.

Figures come from PostgreSQL as they are; nothing is calculated here. Not here: reading them (balance_reader).
"""

import json
from datetime import datetime

from rich.console import Console
from rich.markup import escape

from billing_pipeline.amounts import exact_text
from console.arithmetic import grouped, plain
from console.screen import count, page, table
from resources.balance_reader import (
    AccountBalance,
    BalanceReader,
    LedgerRow,
    balance_as_json,
    ledger_as_json,
)
from resources.database import Database
from resources.runtime import running
from resources.settings import Settings


def show_balance(settings: Settings, account_id: str, *, now: datetime) -> None:
    """Print the account as of `now`.

    Raises:
        UnknownEntryError: there is no such account.
        NotPrepaidError: no balance pays for anything of it.
    """
    with running(settings) as runtime:
        print_balance(page(), runtime.database, account_id, now=now)


def show_balance_json(settings: Settings, account_id: str, *, now: datetime) -> None:
    """Print the same as one JSON object, for a program; raises as `show_balance`."""
    with running(settings) as runtime:
        print_balance_json(page(), runtime.database, account_id, now=now)


def print_balance(console: Console, database: Database, account_id: str, *, now: datetime) -> None:
    """Print the account on `console`; raises as `show_balance`."""
    found, ledger = BalanceReader(database).billing(account_id, now=now)
    start, end = (f"{at:%Y-%m-%d %H:%M}" for at in (found.period.start, found.period.end))
    console.print(f"[bold]Balance of {escape(account_id)}[/], billing period {start} to {end} UTC")
    facts = table("", "", "")
    facts.title = None
    facts.show_header = False
    for name, value in _facts(found):
        facts.add_row(name, escape(value))
    console.print(facts)
    if ledger:
        _print_ledger(console, ledger)


def print_balance_json(console: Console, database: Database, account_id: str, *, now: datetime) -> None:
    """Print the account as JSON on `console`; raises as `show_balance`."""
    found, ledger = BalanceReader(database).billing(account_id, now=now)
    text = json.dumps({**balance_as_json(found), "ledger": ledger_as_json(ledger)}, indent=2, ensure_ascii=False)
    console.print(text, markup=False, soft_wrap=True)


def _facts(found: AccountBalance) -> list[tuple[str, str]]:
    profile = found.profile
    since = f" since {found.arrears_since:%Y-%m-%d %H:%M} UTC" if found.arrears_since else ""
    reasons = [
        name
        for name, at in (("payment", found.payment_arrears_since), ("balance", found.balance_arrears_since))
        if at is not None
    ]
    delay = "" if found.sync_delay_seconds is None else f", traffic known until {count(found.sync_delay_seconds)} s ago"
    newest = f"{found.last_bucket_at:%Y-%m-%d %H:%M} UTC" if found.last_bucket_at else "none"
    return [
        (
            "Balance",
            f"{grouped(exact_text(found.current_balance))} {profile.currency} ({found.booked_balance} in the ledger)",
        ),
        ("Quota left", f"{count(found.remaining_included_quota)} of {count(profile.included_quota_bytes)} byte"),
        (
            "Used",
            f"{count(found.total_bytes)} byte: {count(found.uplink_bytes)} up, {count(found.downlink_bytes)} down",
        ),
        (
            "Price",
            f"{exact_text(profile.unit_price)} {profile.currency} a {profile.unit} by {profile.price_id}:{profile.version}",
        ),
        ("Speed", found.throttle_state.value),
        ("Access", found.suspend_state.value),
        ("Arrears", f"{' and '.join(reasons)}{since}" if reasons else "none"),
        ("Newest minute", newest + delay),
    ]


def _print_ledger(console: Console, ledger: tuple[LedgerRow, ...]) -> None:
    numbers = ("paid bytes", "included", "x", "amount", "balance after")
    shown = table(f"Newest {len(ledger)} entries", "minute (UTC)", "node", "what", *numbers, "price", numbers=numbers)
    for row in ledger:
        shown.add_row(
            f"{row.bucket_start:%Y-%m-%d %H:%M}",
            escape(row.node or "-"),
            row.entry_type.replace("_", " "),
            count(row.rated_bytes),
            count(row.included_bytes),
            plain(row.multiplier),
            plain(row.amount_delta),
            plain(row.balance_after),
            escape(row.pricing_rule_version),
        )
    console.print(shown)
