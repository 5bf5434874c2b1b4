"""The whole month at Stripe's sandbox, where `STRIPE_TEST_KEY` is set to a key of an empty one; and the same code at a stand-in.

`pytest tests/test_stripe_sandbox.py -s` prints what was seen of what Stripe's documentation leaves open (docs/stripe-proof.md).
"""

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing_pipeline.invoicing.states import InvoiceState
from resources.database import Database
from resources.stripe_api.keys import StripeKeyError
from resources.stripe_sim.server import RunningSim
from resources.stripe_sync.sync_store import SyncState
from resources.stripe_sync.true_up import Outcome
from tests.invoicing_world import InvoicingWorld, accounts_of, days_of, subscriptions_of
from tests.stripe_fixtures import API_KEY, START
from tests.stripe_fixtures import stripe_sim as stripe_sim
from tests.stripe_sandbox import ACCOUNT, Sandbox, month_of

KEY = os.environ.get("STRIPE_TEST_KEY", "")
CATALOG = {ACCOUNT: ("fees_and_requests", "USD", "")}
FEES = 1099 + 1299 + 1599


@pytest.fixture(params=["stand-in", "sandbox"])
def sandbox(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Iterator[Sandbox]:
    is_stripe = request.param == "sandbox"
    if is_stripe and not KEY:
        pytest.skip("set STRIPE_TEST_KEY to the secret test key of an empty Stripe sandbox to run this at Stripe")
    period = month_of(datetime.now(UTC) if is_stripe else START)
    books = InvoicingWorld(database, tmp_path / "catalog", now=period.start)
    books.load(accounts=accounts_of(CATALOG), subscriptions=subscriptions_of(CATALOG))
    if is_stripe:
        made = Sandbox(books, KEY, None, period)
    else:
        sim: RunningSim = request.getfixturevalue("stripe_sim")
        made = Sandbox(books, API_KEY, sim.url, period, poll_seconds=0)
    try:
        yield made
    finally:
        made.clean_up()
        for question, answer in made.answers.items():
            sys.stdout.write(f"\n{request.param}: {question} {answer}")


def use(sandbox: Sandbox, day: datetime, quantity: int) -> None:
    sandbox.books.use(ACCOUNT, day.date().isoformat(), quantity)
    sandbox.books.book([sandbox.period.start.date()])


@pytest.mark.timeout(3600)
class TestAMonth:
    def test_at_stripe_ends_with_the_total_of_the_books(self, sandbox: Sandbox) -> None:
        sandbox.begin()
        first, last = sandbox.period.start, sandbox.period.end - timedelta(days=1)
        use(sandbox, first, 700)
        assert [one.state for one in sandbox.sync().outcomes] == [SyncState.IN_STEP]
        assert sum(one.amount for one in sandbox.pending()) == 700 + FEES
        use(sandbox, first, 711)
        sandbox.sync()
        assert sum(one.amount for one in sandbox.pending()) == 711 + FEES
        unchanged = sandbox.sync(verify=True)
        assert (unchanged.writes, len(sandbox.pending())) == (0, 4)

        sandbox.advance_to(sandbox.period.end + timedelta(minutes=5))
        sandbox.mirror()
        (draft,) = sandbox.renewals()
        assert draft.status == "draft"
        use(sandbox, last, 44)
        sandbox.books.build(days_of(sandbox.period))
        report = sandbox.true_up()
        assert [one.outcome for one in report.outcomes] == [Outcome.RIGHT]
        assert sum(sandbox.ours(draft.id or "").values()) == 755 + FEES
        sandbox.note_hold(sandbox.client.v1.invoices.retrieve(draft.id or ""))

        sandbox.advance_to(sandbox.now + timedelta(hours=6))
        final = sandbox.client.v1.invoices.retrieve(draft.id or "")
        assert final.status == "open"
        assert final.total == 755 + FEES
        sandbox.mirror()
        sandbox.sync(verify=True)
        ours = sandbox.books.newest(ACCOUNT, sandbox.period)
        assert (ours.state, ours.total.minor_units) == (InvoiceState.FINAL, final.total)
        assert sandbox.books.disagreements() == ()
        answers = sandbox.ask()
        assert len(answers) == 7


class TestKeys:
    @pytest.mark.parametrize(
        "key", ["sk_live_4eC39HqLyjWDarjtT1zdp7dc", "rk_live_4eC39HqLyjWDarjtT1zdp7dc", "", "none"]
    )
    def test_r42_of_live_accounts_are_refused_before_anything_is_sent(
        self, key: str, database: Database, tmp_path: Path
    ) -> None:
        with pytest.raises(StripeKeyError) as refused:
            Sandbox(InvoicingWorld(database, tmp_path), key, None, month_of(START))
        assert not key or key not in str(refused.value)
