"""The demo's Stripe: two customers, made once; what was begun and not ended is begun anew. The canary's files, counted by hand."""

import json
from pathlib import Path

from resources import demo_canary
from resources.demo_stripe import API_KEY, CANARY, CUSTOMERS, START, serving_demo_stripe
from resources.stripe_sim import state_file
from tests.stripe_fixtures import sdk_client


class TestServing:
    def test_goes_on_where_an_earlier_demo_ended(self, tmp_path: Path) -> None:
        with serving_demo_stripe(tmp_path) as stripe:
            assert stripe.clock() == START
            stripe.advance_to(CANARY.renews_at)
        with serving_demo_stripe(tmp_path) as stripe, sdk_client(stripe.url, api_key=API_KEY) as sdk:
            assert stripe.clock() == CANARY.renews_at
            subscriptions = sdk.v1.subscriptions.list().data
        assert {one.metadata["bp_subscription"] for one in subscriptions} == {
            customer.subscription_id for customer in CUSTOMERS
        }

    def test_begins_anew_where_not_all_customers_were_made(self, tmp_path: Path) -> None:
        with serving_demo_stripe(tmp_path):
            pass
        kept = state_file.load(tmp_path / "stripe.state")
        table = kept.world.tables["subscription"]
        rows = list(table.oldest())
        kept.world.tables["subscription"] = type(table)(table.kind)
        kept.world.tables["subscription"].put(rows[0])
        state_file.save(tmp_path / "stripe.state", kept)
        with serving_demo_stripe(tmp_path) as stripe:
            counts = stripe.remote.state()["objects"]
        assert (counts["customer"], counts["subscription"]) == (2, 2)


class TestCanary:
    def test_makes_a_hundred_requests_a_day_of_which_ten_are_late(self, tmp_path: Path) -> None:
        first, second = demo_canary.write_first_delivery(tmp_path), demo_canary.write_second_delivery(tmp_path)
        counted = [len(path.read_text().splitlines()) for path in (*first, *second)]
        assert counted == [100, 90, 100, 10]
        lines = [json.loads(line) for path in (*first, *second) for line in path.read_text().splitlines()]
        assert len({line["request_id"] for line in lines}) == 300
        assert (demo_canary.ON_TIME_MINOR, demo_canary.LATE_MINOR) == (2900, 100)

    def test_writes_nothing_again(self, tmp_path: Path) -> None:
        demo_canary.write_first_delivery(tmp_path)
        assert demo_canary.write_first_delivery(tmp_path) == ()
