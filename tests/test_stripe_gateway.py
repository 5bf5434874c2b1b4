"""Calls to Stripe over real sockets with the real SDK: time limits, patience, pace, keys, plain values both ways."""

import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.stripe_sync.backoff import Backoff
from resources.settings import Settings
from resources.stripe_api.calls import IdempotencyKey, Operation, StripeCall, UnsendableValueError, sendable
from resources.stripe_api.errors import (
    StripeDeniedError,
    StripeKeyReusedError,
    StripeRefusedError,
    StripeUnavailableError,
    Trouble,
)
from resources.stripe_api.gateway import Attempt, ReadOnlyGatewayError, StripeGateway, open_gateway
from resources.stripe_api.keys import StripeKeyError, StripeMode, read_mode
from resources.stripe_api.limiter import Pace, PaceError, RateLimiter, read_pace
from tests.scripted_stripe import Asked, Reply, ScriptedStripe, refusal, scripted_stripe

TEST_KEY = "sk_test_4eC39HqLyjWDarjtT1zdp7dc"
LIVE_KEY = "sk_live_4eC39HqLyjWDarjtT1zdp7dc"
KEY = IdempotencyKey(text="bp:abc:create:1")
CREATE = StripeCall(
    operation=Operation.INVOICE_ITEMS_CREATE, params={"customer": "cus_1", "amount": 1250, "currency": "usd"}
)


class FakeTime:
    """A monotonic clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def clock(self) -> float:
        with self._lock:
            return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds
            self.slept.append(seconds)


@pytest.fixture
def stripe() -> Iterator[ScriptedStripe]:
    with scripted_stripe() as server:
        yield server


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def gateway_to(stripe: ScriptedStripe, time: FakeTime, **options: object) -> StripeGateway:
    """Return a gateway whose waits cost no time."""
    settings = {"clock": time.clock, "sleep": time.sleep, "chance": lambda: 0.5, "timeout_seconds": 2.0} | options
    return StripeGateway(api_key=TEST_KEY, base_url=stripe.url, **settings)  # type: ignore[arg-type]


class TestWaits:
    def test_grow_up_to_the_longest_and_end_with_the_total(self) -> None:
        backoff = Backoff(first_seconds=1, longest_seconds=8, total_seconds=20)
        assert [backoff.wait_seconds(attempt=n, waited_seconds=0, chance=1) for n in (1, 2, 3, 4, 9)] == [1, 2, 4, 8, 8]
        assert backoff.wait_seconds(attempt=5, waited_seconds=13, chance=0.5) == 6
        assert backoff.wait_seconds(attempt=5, waited_seconds=15, chance=0.5) is None

    @given(st.integers(1, 200), st.floats(0, 0.999), st.floats(0, 0.999))
    def test_are_never_shorter_than_the_one_before(self, attempt: int, first: float, second: float) -> None:
        backoff = Backoff(total_seconds=1e9)
        before = backoff.wait_seconds(attempt=attempt, waited_seconds=0, chance=first)
        after = backoff.wait_seconds(attempt=attempt + 1, waited_seconds=0, chance=second)
        assert before is not None
        assert after is not None
        assert after >= before or after >= backoff.longest_seconds / 2


class TestPatience:
    def test_waits_out_429_with_growing_waits_and_one_key(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        limited = refusal(429, code="rate_limit", kind="rate_limit_error")
        stripe.replies(limited, limited, limited, limited, Reply())
        answer = gateway_to(stripe, time).write(CREATE, KEY)
        assert answer.body["id"] == "ii_1"
        assert stripe.keys() == [KEY.text] * 5
        assert time.slept == sorted(time.slept)
        assert len(set(time.slept)) == 4

    def test_takes_503_503_200_as_one_call(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        down = Reply(status=503, body="upstream is away")
        stripe.replies(down, down, Reply())
        assert gateway_to(stripe, time).write(CREATE, KEY).replayed is False
        assert stripe.keys() == [KEY.text] * 3

    def test_sends_a_dropped_call_again_with_its_key_and_sees_a_replay(
        self, stripe: ScriptedStripe, time: FakeTime
    ) -> None:
        stripe.replies(Reply(drop=True), Reply(headers={"Idempotent-Replayed": "true", "Request-Id": "req_7"}))
        answer = gateway_to(stripe, time).write(CREATE, KEY)
        assert (answer.replayed, answer.request_id) == (True, "req_7")
        assert stripe.keys() == [KEY.text] * 2

    def test_sends_a_refused_call_once(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        stripe.replies(refusal(400, code="parameter_invalid_integer", message="Invalid integer"))
        with pytest.raises(StripeRefusedError) as caught:
            gateway_to(stripe, time).write(CREATE, KEY)
        assert (caught.value.status, caught.value.code, len(stripe.asked)) == (400, "parameter_invalid_integer", 1)
        assert "billing retry" in caught.value.fix

    def test_does_not_wait_for_an_operation_that_is_not_there(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        stripe.replies(refusal(501, message="not modelled"))
        with pytest.raises(StripeRefusedError, match="not modelled"):
            gateway_to(stripe, time).write(CREATE, KEY)
        assert (len(stripe.asked), time.slept) == (1, [])

    def test_names_what_is_missing_a_key_used_twice_and_a_key_without_rights(
        self, stripe: ScriptedStripe, time: FakeTime
    ) -> None:
        gateway = gateway_to(stripe, time)
        stripe.replies(refusal(404, code="resource_missing"))
        with pytest.raises(StripeRefusedError) as missing:
            gateway.retrieve_invoice("in_1")
        assert missing.value.is_missing
        stripe.replies(refusal(400, kind="idempotency_error"))
        with pytest.raises(StripeKeyReusedError):
            gateway.write(CREATE, KEY)
        stripe.replies(refusal(401, message=f"Invalid API Key provided: {TEST_KEY[:8]}*****dc"))
        with pytest.raises(StripeDeniedError) as denied:
            gateway.write(CREATE, KEY)
        assert "sk_test" not in str(denied.value)

    def test_ends_and_says_that_the_outcome_is_unknown(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        stripe.replies(Reply(status=500, body={"error": {"message": "oops", "type": "api_error"}}))
        gateway = gateway_to(stripe, time, backoff=Backoff(total_seconds=10))
        with pytest.raises(StripeUnavailableError) as caught:
            gateway.write(CREATE, KEY)
        assert caught.value.outcome_unknown
        assert caught.value.trouble is Trouble.SERVER
        assert sum(time.slept) <= 10

    def test_of_a_rate_limit_ends_with_nothing_done(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        stripe.replies(refusal(429, kind="rate_limit_error"))
        with pytest.raises(StripeUnavailableError) as caught:
            gateway_to(stripe, time, backoff=Backoff(total_seconds=5)).write(CREATE, KEY)
        assert not caught.value.outcome_unknown

    def test_ends_at_once_when_stripe_repeats_a_stored_failure(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        failure = {"error": {"type": "api_error", "message": "oops"}}
        stripe.replies(Reply(status=500, body=failure, headers={"Idempotent-Replayed": "true"}))
        with pytest.raises(StripeUnavailableError) as caught:
            gateway_to(stripe, time).write(CREATE, KEY)
        assert caught.value.result_is_stored
        assert len(stripe.asked) == 1

    def test_of_one_call_spares_the_others_while_stripe_is_down(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        gateway = gateway_to(stripe, time, backoff=Backoff(total_seconds=5))
        stripe.replies(Reply(status=503, body=""))
        for _ in range(20):
            with pytest.raises(StripeUnavailableError):
                gateway.retrieve_customer("cus_1")
        asked = len(stripe.asked)
        assert asked < 10
        stripe.replies(Reply(body={"id": "cus_1", "object": "customer"}))
        time.sleep(61)
        assert gateway.retrieve_customer("cus_1")["id"] == "cus_1"
        assert len(stripe.asked) == asked + 1

    def test_gives_up_a_call_that_hangs_and_tries_again(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        slept = threading.Event()

        def answer(asked: Asked) -> Reply:
            if asked is stripe.asked[0]:
                slept.wait(0.6)
            return Reply()

        stripe.answer = answer
        gateway_to(stripe, time, timeout_seconds=0.2).write(CREATE, KEY)
        slept.set()
        assert stripe.keys() == [KEY.text] * 2


class TestWhatTheSdkIsTold:
    def test_is_a_time_limit_and_no_retries_of_its_own(self) -> None:
        gateway = StripeGateway(api_key=TEST_KEY)
        requestor = gateway._client._requestor
        assert requestor._options.max_network_retries == 0
        assert requestor._client._timeout == (5.0, 20.0)  # type: ignore[union-attr]


class TestKeys:
    @pytest.mark.parametrize(
        ("key", "mode", "url"),
        [
            (LIVE_KEY, StripeMode.TEST, None),
            (TEST_KEY, StripeMode.LIVE, None),
            (LIVE_KEY, StripeMode.LIVE, "http://127.0.0.1:12111"),
            (LIVE_KEY, StripeMode.LIVE, "https://stripe.example.com"),
            (TEST_KEY, StripeMode.TEST, "http://stripe.example.com"),
            ("", StripeMode.TEST, None),
            ("pk_test_4eC39HqLyjWDarjtT1zdp7dc", StripeMode.TEST, None),
            (TEST_KEY + "\n", StripeMode.TEST, None),
        ],
    )
    def test_of_the_wrong_kind_or_to_the_wrong_address_are_refused_and_not_shown(
        self, key: str, mode: StripeMode, url: str | None
    ) -> None:
        with pytest.raises(StripeKeyError) as caught:
            StripeGateway(api_key=key, mode=mode, base_url=url)
        assert not key or key.strip() not in str(caught.value)

    def test_of_the_right_kind_open_a_gateway(self) -> None:
        assert repr(StripeGateway(api_key=LIVE_KEY, mode=StripeMode.LIVE)) == "StripeGateway(live at Stripe)"
        assert StripeGateway(api_key="rk_test_x", base_url="http://localhost:1").mode is StripeMode.TEST

    def test_are_in_no_log_no_repr_and_no_error(
        self, stripe: ScriptedStripe, time: FakeTime, caplog: pytest.LogCaptureFixture
    ) -> None:
        seen: list[Attempt] = []
        gateway = gateway_to(stripe, time, journal=seen.append)
        with caplog.at_level(logging.DEBUG):
            stripe.replies(refusal(429, kind="rate_limit_error"), refusal(400, message="wrong"))
            with pytest.raises(StripeRefusedError) as caught:
                gateway.write(CREATE, KEY)
        shown = f"{caplog.text}{seen}{gateway!r}{caught.value!r}{caught.value}"
        assert TEST_KEY not in shown
        assert [one.outcome for one in seen] == ["rate_limit", "StripeRefusedError"]
        assert caught.value.__cause__ is None

    def test_come_from_the_environment_and_stay_out_of_the_settings_repr(self) -> None:
        settings = Settings.from_environment({"STRIPE_API_KEY": TEST_KEY, "STRIPE_WEBHOOK_SECRET": "whsec_x"})
        assert open_gateway(settings).mode is StripeMode.TEST
        assert TEST_KEY not in repr(settings)
        assert "whsec_x" not in repr(settings)
        with pytest.raises(StripeKeyError, match="not set"):
            open_gateway(Settings.from_environment({}))
        with pytest.raises(StripeKeyError, match="'prod'"):
            read_mode("prod")


class TestValues:
    @given(st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=-(10**9), max_value=10**9))
    def test_that_are_decimals_go_out_written_in_full(self, amount: Decimal) -> None:
        text = sendable({"unit_amount_decimal": [amount]})["unit_amount_decimal"][0]
        assert "e" not in text.lower()
        assert Decimal(text) == amount

    def test_that_are_no_exact_numbers_are_refused(self) -> None:
        for value in (0.1, Decimal("NaN"), Decimal("1e-13"), object()):
            with pytest.raises(UnsendableValueError):
                StripeCall(operation=Operation.INVOICE_ITEMS_CREATE, params={"amount": value})

    def test_on_the_wire_are_plain(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        call = StripeCall(
            operation=Operation.INVOICE_ITEMS_CREATE,
            params={"unit_amount_decimal": Decimal("1E-7"), "period": {"start": 1, "end": 2}, "discountable": False},
        )
        gateway_to(stripe, time).write(call, KEY)
        assert stripe.asked[0].params == {
            "unit_amount_decimal": "0.0000001",
            "period[start]": "1",
            "period[end]": "2",
            "discountable": "false",
        }
        assert str(call).startswith('POST /v1/invoiceitems {"unit_amount_decimal": "0.0000001"')

    def test_that_come_as_floats_are_read_by_their_digits(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        stripe.replies(Reply(body={"object": "list", "data": [{"id": "s", "aggregated_value": 12.1}]}))
        call = StripeCall(operation=Operation.METER_SUMMARIES_LIST, ids=("mtr_1",), params={"customer": "cus_1"})
        (summary,) = gateway_to(stripe, time).pages(call)
        assert summary["aggregated_value"] == Decimal("12.1")


class TestLists:
    def test_are_read_to_the_last_page(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        stripe.answer = lambda asked: page_of(range(250, 0, -1), asked)
        found = [one["id"] for one in gateway_to(stripe, time).list_invoices(status="draft")]
        assert found == [f"in_{n}" for n in range(250, 0, -1)]
        assert [one.params["limit"] for one in stripe.asked] == ["100"] * 3

    def test_after_an_object_are_read_upwards(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        stripe.answer = lambda asked: page_of(range(250, 0, -1), asked)
        found = [one["id"] for one in gateway_to(stripe, time).list_events(ending_before="in_20")]
        assert found == [f"in_{n}" for n in range(21, 251)]

    def test_of_thin_events_follow_the_addresses_of_their_pages(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        first = {"data": [{"id": "evt_1", "object": "v2.core.event"}], "next_page_url": "/v2/core/events?page=two"}
        last = {"data": [{"id": "evt_2", "object": "v2.core.event"}], "next_page_url": None}
        stripe.answer = lambda asked: Reply(body=last if asked.params.get("page") == "two" else first)
        types = ["v1.billing.meter.error_report_triggered"]
        assert [one["id"] for one in gateway_to(stripe, time).list_thin_events(types=types)] == ["evt_1", "evt_2"]

    def test_tell_the_servers_time(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        gateway = gateway_to(stripe, time)
        assert gateway.server_time is None
        gateway.retrieve_customer("cus_1")
        assert gateway.server_time == datetime(2026, 3, 1, 12, tzinfo=UTC)


def page_of(numbers: range, asked: Asked) -> Reply:
    """Return the page that Stripe would: newest first, after or before a cursor."""
    ids = [f"in_{n}" for n in numbers]
    limit = int(asked.params["limit"])
    if before := asked.params.get("ending_before"):
        newer = ids[: ids.index(before)]
        found, has_more = newer[-limit:], len(newer) > limit
    else:
        after = asked.params.get("starting_after")
        rest = ids[ids.index(after) + 1 :] if after else ids
        found, has_more = rest[:limit], len(rest) > limit
    data = [{"id": one, "object": "invoice"} for one in found]
    return Reply(body={"object": "list", "data": data, "has_more": has_more})


class TestReadOnly:
    def test_gateways_write_nothing(self, stripe: ScriptedStripe, time: FakeTime) -> None:
        with pytest.raises(ReadOnlyGatewayError):
            gateway_to(stripe, time, read_only=True).write(CREATE, KEY)
        with pytest.raises(ReadOnlyGatewayError):
            gateway_to(stripe, time).read(CREATE)
        assert stripe.asked == []


class TestPace:
    def test_holds_in_every_second_for_each_operation_and_for_all(self) -> None:
        time = FakeTime()
        limiter = RateLimiter(Pace(per_operation=25, overall=40), clock=time.clock, sleep=time.sleep)
        calls: list[tuple[float, str]] = []
        for number in range(2000):
            operation = ("create", "list", "update")[number % 3] if number % 5 else "create"
            with limiter.turn(operation):
                calls.append((time.clock(), operation))
        for limit, wanted in ((40, None), (25, "create"), (25, "list")):
            times = [at for at, operation in calls if wanted in (None, operation)]
            assert all(times[index + limit] - times[index] > 1 for index in range(len(times) - limit))
        # Close to the limit, not only below it.
        assert calls[-1][0] < 2000 / 40 * 1.1

    def test_keeps_the_number_of_calls_under_way(self) -> None:
        limiter = RateLimiter(Pace(per_operation=1000, overall=1000, in_flight=3))
        under_way, most, lock = 0, 0, threading.Lock()
        three = threading.Barrier(3, timeout=5)

        def call() -> None:
            nonlocal under_way, most
            with limiter.turn("create"):
                with lock:
                    under_way += 1
                    most = max(most, under_way)
                three.wait()
                with lock:
                    under_way -= 1

        threads = [threading.Thread(target=call) for _ in range(12)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert most == 3

    def test_is_four_fifths_of_what_stripe_allows_unless_configured(self) -> None:
        assert Pace.of(StripeMode.LIVE) == Pace(per_operation=25, overall=80)
        assert Pace.of(StripeMode.TEST) == Pace(per_operation=20, overall=20)
        assert read_pace("50", StripeMode.LIVE) == Pace(per_operation=50, overall=80)
        for text in ("0", "fast", "-3", "1e3"):
            with pytest.raises(PaceError):
                read_pace(text, StripeMode.LIVE)
