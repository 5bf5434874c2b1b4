"""Accounts that are booked batch by batch come to the books of all at once, corrections and reversals too."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from resources import charge_usage
from resources.catalog_store import CatalogStore
from resources.charge_store import ChargeStore, DayBooking
from resources.database import Database
from tests.test_billing_schedule import BILLABLE, METERS, PLANS, PRICES
from tests.test_charge_store import book, day, money_of, use

ACCOUNTS = ("acme", "beta", "gamma", "delta")
DAYS = [day("2026-03-09"), day("2026-03-10"), day("2026-03-31")]


def load(database: Database, folder: Path, *, cancelled: Sequence[str] = ()) -> None:
    """Load a catalog in which each account has a subscription; of `cancelled` it ends before the days that are booked."""
    folder.mkdir(exist_ok=True)
    ends = "changes = [{ at = 2026-03-02T00:00:00Z, cancel = true }]\n"
    texts = {
        "billable": BILLABLE,
        "meters": METERS,
        "prices": PRICES,
        "plans": PLANS,
        "accounts": "".join(f'[[account]]\nid = "{name}"\nname = "{name}"\ncurrency = "USD"\n' for name in ACCOUNTS),
        "subscriptions": "".join(
            f'[[subscription]]\nid = "s_{name}"\naccount = "{name}"\nplan = "basic"\nquantities = {{ seat = 3 }}\n'
            f"starts_at = 2026-01-01T00:00:00Z\n{ends if name in cancelled else ''}"
            for name in ACCOUNTS
        ),
    }
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    CatalogStore(database).load(folder)


def told(bookings: Sequence[DayBooking]) -> list[tuple[object, ...]]:
    """Return what bookings say, their guards too."""
    return [
        (
            one.day,
            one.charges_rated,
            one.revisions_booked,
            one.delta_by_currency,
            one.held,
            one.top_accounts,
            [(verdict.guard, verdict.status, verdict.inputs_digest) for verdict in one.verdicts],
        )
        for one in bookings
    ]


class Story:
    """The same changes on a database of its own."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder, self.store = database, folder, ChargeStore(database)
        self.said: list[object] = []

    def tell(self, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Book, correct, cancel an account, and book what nothing has changed, in batches of about `slots`."""
        monkeypatch.setattr(charge_usage, "BATCH_SLOTS", slots)
        load(self.database, self.folder)
        for number, account in enumerate(ACCOUNTS, 1):
            use(self.database, account, "2026-03-09T09:00", 100 * number)
        self.said.append(told(book(self.store, DAYS)))
        use(self.database, "beta", "2026-03-10T09:00", 7)
        self.said.append(told(book(self.store, DAYS)))
        load(self.database, self.folder, cancelled=["gamma"])
        self.said.append(told(book(self.store, DAYS)))
        self.said.append(told(book(self.store, DAYS)))


def test_batches_of_one_account_come_to_the_same_books(
    database: Database, second_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Story(database, tmp_path / "one"), Story(second_database, tmp_path / "other")
    one.tell(1, monkeypatch)
    other.tell(1_000_000, monkeypatch)
    assert one.said == other.said
    assert money_of(database) == money_of(second_database)
    assert isinstance(one.said[-1], list)
    assert all(booking[2] == 0 for booking in one.said[-1])
