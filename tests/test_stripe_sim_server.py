"""The stand-in as a server: faults, webhooks, the feed under faults, the state file, pages, parameters, many drafts."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st
from stripe._encode import _api_encode

from billing_pipeline.errors import BillingError
from console.stripe_sim import RuleTextError, read_rules, read_start
from resources.asgi_server import serving
from resources.settings import PROJECT_ROOT
from resources.stripe_sim.parameters import read_form
from resources.stripe_sim.remote import SimControlError, SimRemote
from resources.stripe_sim.rules import Rules
from resources.stripe_sim.server import RunningSim, keeping_application
from resources.stripe_sim.state_file import StateFileError
from resources.stripe_sim.tables import Kind, Table
from tests.stripe_fixtures import START, monthly_price, sdk_client, subscribe
from tests.stripe_fixtures import stripe_client as stripe_client
from tests.stripe_fixtures import stripe_sim as stripe_sim
from tests.stripe_scenario import metered_price, send_usage

APRIL = START.replace(month=4)
HOUR = timedelta(hours=1)


class Receiver:
    """A webhook endpoint that keeps what it gets and answers what it is told to."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, Any], str, bytes]] = []
        self.answers: list[int] = []
        self.asks: str | None = None
        self.asked: list[int] = []

    @contextmanager
    def listening(self) -> Iterator[str]:
        """Listen while the block runs, and yield the URL."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.asks is not None:
                    key = {"Authorization": "Bearer sk_test_1"}
                    answer = httpx.get(f"{receiver.asks}/v1/customers", headers=key, timeout=10)
                    receiver.asked.append(len(answer.json()["data"]))
                receiver.got.append((json.loads(body), self.headers["Stripe-Signature"], body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class TestFaults:
    @pytest.mark.parametrize(("fault", "made"), [("drop_before", 0), ("drop_after", 1)])
    def test_a_dropped_connection_leaves_everything_or_nothing_done(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient, fault: str, made: int
    ) -> None:
        stripe_sim.remote.fault(fault, "POST /v1/customers")
        with pytest.raises(stripe.APIConnectionError):
            stripe_client.v1.customers.create({"name": "A"}, {"idempotency_key": "k"})
        assert len(stripe_client.v1.customers.list().data) == made
        stripe_client.v1.customers.create({"name": "A"}, {"idempotency_key": "k"})
        assert len(stripe_client.v1.customers.list().data) == 1
        log = [one for one in stripe_sim.remote.log() if one["method"] == "POST"]
        assert [one["status"] for one in log] == [0, 200]
        assert [one["executed"] for one in log] == [bool(made), not made]
        assert [one["replayed"] for one in log] == [False, bool(made)]

    def test_an_error_after_the_commit_is_answered_again(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient
    ) -> None:
        stripe_sim.remote.fault("error_after", "POST /v1/customers")
        for _ in range(2):
            with pytest.raises(stripe.APIError):
                stripe_client.v1.customers.create({}, {"idempotency_key": "k"})
        assert len(stripe_client.v1.customers.list().data) == 1

    def test_a_client_that_gave_up_does_not_stop_what_it_asked_for(self, stripe_sim: RunningSim) -> None:
        stripe_sim.remote.fault("slow", "POST /v1/customers", seconds=0.5)
        with sdk_client(stripe_sim.url, timeout_seconds=0.1) as hasty, pytest.raises(stripe.APIConnectionError):
            hasty.v1.customers.create({}, {"idempotency_key": "k"})
        with sdk_client(stripe_sim.url, retries=5) as patient:
            patient.v1.customers.create({}, {"idempotency_key": "k"})
            assert len(patient.v1.customers.list().data) == 1

    def test_hours_of_503_end_by_the_virtual_clock(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient
    ) -> None:
        stripe_sim.remote.fault("unavailable", until=START + 3 * HOUR)
        for _ in range(3):
            with pytest.raises(stripe.APIError) as caught:
                stripe_client.v1.customers.list()
            assert caught.value.http_status == 503
            stripe_sim.remote.advance(HOUR)
        stripe_client.v1.customers.list()

    def test_come_after_so_many_requests_and_so_often(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient
    ) -> None:
        stripe_sim.remote.fault("rate_limit", "GET /v1/customers", after=1, times=2)
        answers = []
        for _ in range(4):
            try:
                stripe_client.v1.customers.list()
                answers.append(200)
            except stripe.RateLimitError:
                answers.append(429)
        assert answers == [200, 429, 429, 200]

    def test_a_page_that_is_no_json_is_no_answer(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient
    ) -> None:
        stripe_sim.remote.fault("html")
        with pytest.raises(stripe.APIError) as caught:
            stripe_client.v1.customers.list()
        assert caught.value.http_status == 502

    def test_an_answer_from_memory_is_lost_too(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient
    ) -> None:
        stripe_sim.remote.fault("drop_after", "POST /v1/customers", times=2)
        for _ in range(2):
            with pytest.raises(stripe.APIConnectionError):
                stripe_client.v1.customers.create({}, {"idempotency_key": "k"})
        stripe_client.v1.customers.create({}, {"idempotency_key": "k"})
        assert len(stripe_client.v1.customers.list().data) == 1

    def test_a_lock_timeout_is_a_429_of_its_own(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient
    ) -> None:
        stripe_sim.remote.fault("lock_timeout")
        with pytest.raises(stripe.RateLimitError) as caught:
            stripe_client.v1.customers.list()
        assert caught.value.error.code == "lock_timeout"

    def test_that_cannot_be_read_are_refused(self, stripe_sim: RunningSim) -> None:
        for fault, operation in (("nothing", ".*"), ("slow", "(")):
            with pytest.raises(SimControlError):
                stripe_sim.remote.fault(fault, operation)


class TestKeys:
    @pytest.mark.parametrize("key", ["sk_live_1", "nonsense", "rk_live_2"])
    def test_of_no_sandbox_are_refused_and_never_shown_whole(self, stripe_sim: RunningSim, key: str) -> None:
        with sdk_client(stripe_sim.url, api_key=key + "0123456789") as client:
            with pytest.raises(stripe.AuthenticationError) as caught:
                client.v1.customers.list()
            assert "0123456789" not in str(caught.value)
        assert "0123456789" not in json.dumps(stripe_sim.remote.log())


class TestWebhooks:
    def test_are_signed_so_that_the_sdk_takes_them(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient
    ) -> None:
        receiver = Receiver()
        with receiver.listening() as url:
            endpoint = stripe_client.v1.webhook_endpoints.create({"url": url, "enabled_events": ["customer.created"]})
            customer = stripe_client.v1.customers.create({"name": "Acme"})
            stripe_sim.remote.advance(timedelta(0))
        ((_, signature, body),) = receiver.got
        event = stripe_client.construct_event(body, signature, str(endpoint.secret))
        assert (event.type, event.data.object["id"]) == ("customer.created", customer.id)
        with pytest.raises(stripe.SignatureVerificationError):
            stripe_client.construct_event(body + b" ", signature, str(endpoint.secret))
        (event,) = stripe_client.v1.events.list({"type": "customer.created"}).data
        assert event.pending_webhooks == 0

    def test_carry_virtual_time_if_signature_clock_says_so(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient
    ) -> None:
        stripe_sim.remote.rules(signature_clock="virtual")
        receiver = Receiver()
        with receiver.listening() as url:
            stripe_client.v1.webhook_endpoints.create({"url": url, "enabled_events": ["*"]})
            stripe_client.v1.customers.create({})
            stripe_sim.remote.advance(timedelta(0))
        assert receiver.got[0][1].startswith(f"t={int(START.timestamp())},v1=")

    def test_come_again_until_they_are_acknowledged_and_the_draft_waits_an_hour_from_then(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient
    ) -> None:
        receiver = Receiver()
        receiver.answers = [500, 404, 200]
        customer = stripe_client.v1.customers.create({}).id
        subscribe(stripe_client, customer, monthly_price(stripe_client))
        with receiver.listening() as url:
            stripe_client.v1.webhook_endpoints.create({"url": url, "enabled_events": ["invoice.created"]})
            stripe_sim.remote.advance_to(APRIL)
            (draft,) = stripe_client.v1.invoices.list({"status": "draft"}).data
            assert draft.webhooks_delivered_at is None
            stripe_sim.remote.advance(HOUR)
            # Tried at once, after 60 and after another 300 seconds.
            held = stripe_client.v1.invoices.retrieve(draft.id)
            assert held.webhooks_delivered_at == draft.created + 360
            assert (held.status, held.automatically_finalizes_at) == ("draft", draft.created + 360 + 3600)
            stripe_sim.remote.advance(HOUR)
        assert stripe_client.v1.invoices.retrieve(draft.id).status == "paid"
        assert len({event["id"] for event, _, _ in receiver.got}) == 1
        assert [one["status"] for one in stripe_sim.remote.deliveries()] == [500, 404, 200]

    def test_may_be_answered_by_asking_the_stand_in_while_its_clock_runs(self) -> None:
        application = keeping_application(now=START, rules=Rules(), state=None, speed=1000)
        receiver = Receiver()
        with (
            serving(application, own_date=True) as url,
            sdk_client(url) as client,
            SimRemote(url) as remote,
            receiver.listening() as hook,
        ):
            receiver.asks = url
            client.v1.webhook_endpoints.create({"url": hook, "enabled_events": ["customer.created"]})
            client.v1.customers.create({})
            while not receiver.asked:
                assert remote.now >= START
        assert receiver.asked[0] == 1


class TestTheFeedUnderFaults:
    def events(self, client: stripe.StripeClient) -> list[tuple[str, str]]:
        """Return (type, object) of the feed, oldest first."""
        listed = client.v1.events.list({"limit": 100}).data
        return [(event.type, event.data.object["id"]) for event in reversed(listed)]

    def test_an_event_comes_doubled_under_another_id(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient
    ) -> None:
        stripe_sim.remote.event_faults(doubled=1)
        customer = stripe_client.v1.customers.create({}).id
        assert self.events(stripe_client) == [("customer.created", customer)] * 2
        assert len({event.id for event in stripe_client.v1.events.list().data}) == 2

    def test_an_event_comes_late_between_older_ones(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient
    ) -> None:
        stripe_sim.remote.event_faults(late=1, late_seconds=600)
        late = stripe_client.v1.customers.create({}).id
        stripe_sim.remote.advance(timedelta(seconds=300))
        early = stripe_client.v1.customers.create({}).id
        assert self.events(stripe_client) == [("customer.created", early)]
        stripe_sim.remote.advance(timedelta(seconds=300))
        assert self.events(stripe_client) == [("customer.created", late), ("customer.created", early)]

    def test_events_of_one_instant_come_in_reverse(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient
    ) -> None:
        customer = stripe_client.v1.customers.create({}).id
        invoice = stripe_client.v1.invoices.create({"customer": customer})
        stripe_client.v1.invoices.add_lines(invoice.id, {"lines": [{"amount": 100}]})
        before = len(self.events(stripe_client))
        stripe_sim.remote.event_faults(reversed_batches=1)
        stripe_client.v1.invoices.pay(invoice.id)
        types = [event_type for event_type, _ in self.events(stripe_client)[before:]]
        assert types.index("invoice.paid") < types.index("invoice.finalized")

    def test_a_webhook_is_sent_twice(self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient) -> None:
        receiver = Receiver()
        stripe_sim.remote.event_faults(redelivered=1)
        with receiver.listening() as url:
            stripe_client.v1.webhook_endpoints.create({"url": url, "enabled_events": ["customer.created"]})
            stripe_client.v1.customers.create({})
            stripe_sim.remote.advance(timedelta(0))
        assert len(receiver.got) == 2
        assert len({event["id"] for event, _, _ in receiver.got}) == 1

    def test_an_event_keeps_its_object_as_it_was(self, stripe_client: stripe.StripeClient) -> None:
        customer = stripe_client.v1.customers.create({"name": "Before"})
        stripe_client.v1.customers.update(customer.id, {"name": "After"})
        updated, created = stripe_client.v1.events.list().data
        assert created.data.object["name"] == "Before"
        assert (updated.data.object["name"], updated.data.previous_attributes["name"]) == ("After", "Before")


class TestTheControlApi:
    def test_shows_every_line_and_total(self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient) -> None:
        v1 = stripe_client.v1
        customer = v1.customers.create({}).id
        invoice = v1.invoices.create({"customer": customer}).id
        v1.invoices.add_lines(invoice, {"lines": [{"amount": 700, "metadata": {"bp_key": "a"}}]})
        v1.invoices.pay(invoice)
        v1.credit_notes.create({"invoice": invoice, "amount": 100, "credit_amount": 100})
        v1.invoice_items.create({"customer": customer, "amount": 30, "metadata": {"bp_key": "b"}})
        shown = [(one["status"], one["amount"], one["metadata"]["bp_key"]) for one in stripe_sim.remote.lines()]
        assert shown == [("paid", 700, "a"), ("pending", 30, "b")]
        assert stripe_sim.remote.totals()[customer] == {
            "balance": -100,
            "credit_notes": 100,
            "currency": "usd",
            "invoices": {"paid": 700},
            "lines": 1,
            "pending": 30,
            "pending_items": 1,
        }

    def test_lets_no_clock_go_back(self, stripe_sim: RunningSim) -> None:
        with pytest.raises(SimControlError):
            stripe_sim.remote.advance_to(START - HOUR)
        assert stripe_sim.remote.advance_to(START) == START


class TestTheStateFile:
    def test_goes_on_where_it_ended_with_keys_and_timers(self, tmp_path: Path) -> None:
        state = tmp_path / "sim" / "state"
        application = keeping_application(now=START, rules=Rules(), state=state)
        with serving(application, own_date=True) as url, sdk_client(url) as client:
            customer = client.v1.customers.create({"name": "Acme"}, {"idempotency_key": "k"}).id
            subscribe(client, customer, monthly_price(client))
            metered_price(client)
            send_usage(client, customer, "5", identifier="i")
        # No orderly end: what was answered is in the file.
        again = keeping_application(now=APRIL, rules=Rules(), state=state)
        with serving(again, own_date=True) as url, sdk_client(url) as client, SimRemote(url) as remote:
            assert remote.now == START
            assert client.v1.customers.create({"name": "Acme"}, {"idempotency_key": "k"}).id == customer
            with pytest.raises(stripe.InvalidRequestError):
                send_usage(client, customer, "5", identifier="i")
            remote.advance_to(APRIL)
            assert len(client.v1.invoices.list({"status": "draft", "customer": customer}).data) == 1

    def test_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        state = tmp_path / "state"
        state.write_text("no pickle")
        with pytest.raises(StateFileError):
            keeping_application(now=START, rules=Rules(), state=state)


class TestRepeats:
    def test_the_same_requests_give_the_same_ids(self, stripe_sim: RunningSim) -> None:
        seen = []
        for _ in range(2):
            stripe_sim.remote.reset(START)
            with sdk_client(stripe_sim.url) as client:
                customer = client.v1.customers.create({}).id
                subscribe(client, customer, monthly_price(client))
                stripe_sim.remote.advance_to(APRIL + HOUR)
                seen.append([(event.id, event.type) for event in client.v1.events.list({"limit": 100}).data])
        assert seen[0] == seen[1]


class TestPages:
    @settings(max_examples=150)
    @given(
        colours=st.lists(st.tuples(st.sampled_from("rgb"), st.integers(0, 3)), max_size=25),
        changes=st.lists(st.tuples(st.integers(0, 24), st.sampled_from("rgbx")), max_size=10),
        colour=st.sampled_from([None, "r", "g"]),
        limit=st.integers(1, 7),
        cursor=st.integers(0, 24),
        direction=st.sampled_from(["starting_after", "ending_before", None]),
        window=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    )
    def test_are_what_a_plain_walk_over_everything_gives(
        self,
        colours: list[tuple[str, int]],
        changes: list[tuple[int, str]],
        colour: str | None,
        limit: int,
        cursor: int,
        direction: str | None,
        window: tuple[int, int],
    ) -> None:
        table = Table(Kind(name="ball", prefix="b", url="", indexes={"colour": lambda row: row["colour"]}))
        at = 0
        for number, (name, step) in enumerate(colours):
            at += step
            table.put({"id": f"b_{number}", "colour": name, "created": at})
        for number, name in changes:
            row = table.get(f"b_{number}")
            if row is not None and name == "x":
                table.remove(row["id"])
            elif row is not None:
                row["colour"] = name
                table.put(row)
        rows = [row for number in range(len(colours)) if (row := table.get(f"b_{number}")) is not None]
        if table.get(f"b_{cursor}") is None:
            direction = None
        low, high = window
        page = table.page(
            filters={} if colour is None else {"colour": colour},
            limit=limit,
            first=lambda row: row["created"] <= high,
            beyond=lambda row: row["created"] < low,
            **({} if direction is None else {direction: f"b_{cursor}"}),  # type: ignore[arg-type]
        )
        fitting = [
            row
            for row in reversed(rows)
            if low <= row["created"] <= high
            and (colour is None or row["colour"] == colour)
            and (direction != "starting_after" or int(row["id"][2:]) < cursor)
            and (direction != "ending_before" or int(row["id"][2:]) > cursor)
        ]
        wanted = fitting[-limit:] if direction == "ending_before" else fitting[:limit]
        assert list(page.rows) == wanted
        assert page.has_more == (len(fitting) > limit)

    def test_go_through_everything_in_both_directions(self, stripe_client: stripe.StripeClient) -> None:
        made = [stripe_client.v1.customers.create({}).id for _ in range(25)]
        newest_first = stripe_client.v1.customers.list({"limit": 7})
        assert [one.id for one in newest_first.auto_paging_iter()] == made[::-1]
        oldest_first = stripe_client.v1.customers.list({"limit": 7, "ending_before": made[0]})
        assert [one.id for one in oldest_first.auto_paging_iter()] == made[1:]

    def test_refuse_limits_and_cursors_that_cannot_be(self, stripe_client: stripe.StripeClient) -> None:
        for params in ({"limit": 0}, {"limit": 101}, {"starting_after": "cus_none"}):
            with pytest.raises(stripe.InvalidRequestError):
                stripe_client.v1.customers.list(params)  # type: ignore[arg-type]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answering(remote: SimRemote) -> dict[str, Any]:
    """Return the state of a stand-in that is about to answer."""
    for _ in range(200):
        try:
            return remote.state()
        except SimControlError:
            time.sleep(0.05)
    raise AssertionError("the stand-in does not answer")


PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="[]\x00"), min_size=1, max_size=8)
NESTED = st.recursive(
    st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.dictionaries(PLAIN, inner, min_size=1, max_size=3) | st.lists(inner, min_size=1, max_size=3),
    max_leaves=10,
)


class TestParameters:
    @given(st.dictionaries(PLAIN, NESTED, max_size=4))
    @settings(max_examples=150)
    def test_of_a_form_are_read_as_the_sdk_writes_them(self, params: dict[str, Any]) -> None:
        text = urlencode(list(_api_encode(params))).replace("%5B", "[").replace("%5D", "]")
        assert read_form(text) == as_mappings(params)

    @pytest.mark.parametrize(
        ("params", "code", "param"),
        [
            ({"customer": "c", "nothing": "1"}, "parameter_unknown", "nothing"),
            ({"customer": "c", "period": {"start": 1}}, "parameter_missing", "period[end]"),
            ({"customer": "c", "period": {"start": 1, "end": 2, "x": 3}}, "parameter_unknown", "period[x]"),
            ({"customer": "c", "amount": "1.0"}, "parameter_invalid_integer", "amount"),
            ({"customer": "c", "discountable": "yes"}, None, "discountable"),
            ({"customer": "c", "tax_behavior": "sometimes"}, None, "tax_behavior"),
            ({"customer": {"id": "c"}}, None, "customer"),
            ({"customer": "c", "expand": "invoice"}, None, "expand"),
            ({"customer": "c", "metadata": {"k" * 41: "v"}}, None, f"metadata[{'k' * 41}]"),
            ({"customer": "c", "metadata": {"k": "v" * 501}}, None, "metadata[k]"),
        ],
    )
    def test_that_are_wrong_are_named(
        self, stripe_client: stripe.StripeClient, params: Any, code: str | None, param: str
    ) -> None:
        with pytest.raises(stripe.InvalidRequestError) as caught:
            stripe_client.v1.invoice_items.create(params)
        assert (caught.value.code, caught.value.param, caught.value.http_status) == (code, param, 400)

    def test_of_another_operation_are_unknown(self, stripe_client: stripe.StripeClient) -> None:
        # The SDK's docs still show it; the type has none.
        lines: Any = {"lines": [{"amount": 1, "currency": "usd"}]}
        customer = stripe_client.v1.customers.create({}).id
        invoice = stripe_client.v1.invoices.create({"customer": customer}).id
        with pytest.raises(stripe.InvalidRequestError) as caught:
            stripe_client.v1.invoices.add_lines(invoice, lines)
        assert (caught.value.code, caught.value.param) == ("parameter_unknown", "lines[0][currency]")

    def test_expand_what_is_asked_for(self, stripe_client: stripe.StripeClient) -> None:
        customer = stripe_client.v1.customers.create({"name": "Acme"}).id
        subscribe(stripe_client, customer, monthly_price(stripe_client))
        (invoice,) = stripe_client.v1.invoices.list({"expand": ["data.customer", "data.payments"]}).data
        assert isinstance(invoice.customer, stripe.Customer)
        assert invoice.payments
        assert invoice.payments.data[0].amount_paid == 2900
        with pytest.raises(stripe.InvalidRequestError):
            stripe_client.v1.invoices.retrieve(invoice.id, {"expand": ["nothing"]})

    def test_of_an_operation_that_does_not_exist_are_a_404(self, stripe_sim: RunningSim) -> None:
        answer = httpx.get(f"{stripe_sim.url}/v1/nothing", headers={"Authorization": "Bearer sk_test_1"})
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "invalid_request_error"


class TestTheCommand:
    def test_serves_and_says_how_to_use_it(self, tmp_path: Path) -> None:
        run = "from console.cli import main; main()"
        arguments = ["stripe-sim", "--port", str(free_port()), "--start", "2026-03-01", "--speed", "3600"]
        process = subprocess.Popen(
            [sys.executable, "-c", run, *arguments, "--state", str(tmp_path / "state"), "--rule", "operation_rate=25"],
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(4)]
            url = lines[1].removeprefix("export BILLING_STRIPE_URL=")
            with SimRemote(url) as remote:
                state = answering(remote)
                assert state["rules"]["operation_rate"] == 25
                # A running clock: an hour of it is a second.
                while remote.now < START + HOUR:
                    time.sleep(0.05)
        finally:
            process.terminate()
            process.communicate(timeout=20)
        assert (tmp_path / "state").exists()

    @pytest.mark.parametrize("text", ["nothing=1", "operation_rate", "operation_rate=x", "meter_decimals=1"])
    def test_refuses_rules_that_cannot_be_read(self, text: str) -> None:
        with pytest.raises(RuleTextError):
            read_rules([text])

    def test_reads_rules_and_instants(self) -> None:
        rules = read_rules(["operation_rate=25", "meter_decimals=true", "meter_last_order=receipt"])
        assert (rules.operation_rate, rules.meter_decimals, rules.meter_last_order) == (25, True, "receipt")
        assert read_start("2026-03-01") == START
        assert read_start("2026-03-01T02:00:00+02:00") == START
        assert read_start(None).tzinfo is UTC
        with pytest.raises(BillingError):
            read_start("soon")


class TestManyDrafts:
    def test_are_listed_and_finalized(self) -> None:
        application = keeping_application(now=START, rules=Rules(), state=None)
        with serving(application, own_date=True) as url, sdk_client(url) as client, SimRemote(url) as remote:
            price = monthly_price(client)
            remote.populate(customers=DRAFTS, price=price)
            remote.advance_to(APRIL)
            drafts = sum(1 for _ in client.v1.invoices.list({"status": "draft", "limit": 100}).auto_paging_iter())
            assert drafts == DRAFTS
            remote.advance(HOUR)
            assert client.v1.invoices.list({"status": "draft"}).data == []


DRAFTS = 400


def as_mappings(value: Any) -> Any:
    """Return nested lists as the form has them: mappings from places to values."""
    if isinstance(value, list):
        return {str(place): as_mappings(one) for place, one in enumerate(value)}
    if isinstance(value, dict):
        return {key: as_mappings(one) for key, one in value.items()}
    return value


class TestLatency:
    def test_of_an_answer_is_not_that_of_a_delayed_acknowledgement(self, stripe_sim: RunningSim) -> None:
        """40 ms for each answer on a connection that is kept, unless the server sends its body without waiting."""
        took = []
        for _ in range(12):
            began = time.perf_counter()
            stripe_sim.remote.state()
            took.append(time.perf_counter() - began)
        assert min(took[1:]) < 0.03
