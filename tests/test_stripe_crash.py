"""Following Stripe lives through kill -9 at any statement: what is read and applied in the end is as if nothing had happened."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import stripe

from resources.catalog_store import CatalogStore
from resources.database import Database
from resources.settings import PROJECT_ROOT
from resources.stripe_sim.server import RunningSim
from tests.prepaid_books import account, subscription, write_catalog
from tests.stripe_books import Mirror
from tests.stripe_fixtures import START, monthly_price, subscribe
from tests.stripe_fixtures import stripe_client as stripe_client
from tests.stripe_fixtures import stripe_sim as stripe_sim

# Every statement with BILLING_CRASH_STEP=1.
STEP = int(os.environ.get("BILLING_CRASH_STEP", "41"))
KILLED = -9


class Follower:
    """A process that follows, and dies when it is told to."""

    def __init__(self, database_url: str, stripe_url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.stripe_process", database_url, stripe_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT_ROOT,
        )

    def follow(self, **request: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def mirror(database: Database, tmp_path: Path) -> Mirror:
    names = ("acme", "beta")
    texts = {
        "accounts": "".join(account(name) for name in names),
        "subscriptions": "".join(subscription(name).replace(f"s_{name}_paygo", name) for name in names),
    }
    CatalogStore(database).load(write_catalog(tmp_path / "catalog", **texts))
    return Mirror(database, stripe=None)  # type: ignore[arg-type]


@pytest.fixture
def follower(mirror: Mirror, stripe_sim: RunningSim) -> Iterator[Follower]:
    follower = Follower(mirror.database.url, stripe_sim.url)
    yield follower
    follower.close()


class TestKilled:
    def test_at_any_statement_ends_as_if_nothing_had_happened(
        self, mirror: Mirror, follower: Follower, stripe_sim: RunningSim, stripe_client: stripe.StripeClient
    ) -> None:
        """Two renewals, one paid, one in arrears, and one more that is still a draft."""
        price = monthly_price(stripe_client)
        for name in ("acme", "beta"):
            customer = stripe_client.v1.customers.create({"name": name, "metadata": {"bp_account": name}})
            subscribe(stripe_client, customer.id, price, metadata={"bp_subscription": name})
        stripe_sim.remote.decline(customer.id)
        stripe_sim.remote.advance_to(START.replace(month=4))
        stripe_sim.remote.advance(timedelta(hours=2))
        stripe_client.v1.invoices.create({"customer": customer.id})
        whole = follower.follow()
        assert whole["code"] == 0
        expected = mirror.contents()
        assert [row["state"] for row in expected["queue"]] == ["missed", "missed"]
        assert [row["payment_arrears"] for row in expected["arrears"]] == [False, True]
        for statement in range(1, whole["statements"] + 1, STEP):
            mirror.empty()
            assert follower.follow(die_at=statement)["code"] == KILLED
            follower.follow(die_at=statement // 2 + 1)
            assert follower.follow()["code"] == 0
            assert mirror.contents() == expected, f"killed before statement {statement}"
            assert mirror.one("select count(*) from stripe.event_work where state <> 'applied'") == 0
        assert follower.follow()["code"] == 0
        assert mirror.contents() == expected
