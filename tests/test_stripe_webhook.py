"""Webhooks of Stripe: only Stripe's own words, kept before they are answered; row 36, DH-14, X-05."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

from billing_pipeline.errors import BillingError
from console.stripe_webhook import LARGEST_BODY_BYTES, PATH, Acknowledge, WebhookServices, webhook_app
from resources.asgi_server import serving
from resources.database import Database
from resources.stripe_mirror import trueup_queue
from resources.stripe_mirror.signature import (
    SignatureError,
    WebhookSecretError,
    check_signature,
    webhook_secrets,
)
from resources.stripe_mirror.webhook_inbox import WebhookInbox
from tests.stripe_books import Mirror

SECRET, OLD_SECRET = "whsec_new", "whsec_old"
NOW = datetime(2026, 4, 1, 12, tzinfo=UTC)


def signed(payload: str, *, secret: str = SECRET, age_seconds: int = 0) -> str:
    """Return the header that Stripe would send, made by the SDK."""
    timestamp = int(NOW.timestamp()) - age_seconds
    return stripe.WebhookSignature.generate_signature_header(payload, secret, timestamp=timestamp)


class Endpoint:
    """The endpoint on a socket, over a mirror."""

    def __init__(self, url: str, mirror: Mirror) -> None:
        self.url = url
        self.mirror = mirror
        self.client = httpx.Client(base_url=url, trust_env=False)

    def send(self, document: Any, *, header: str | None = None, **options: Any) -> httpx.Response:
        payload = document if isinstance(document, str) else json.dumps(document)
        headers = {"stripe-signature": signed(payload, **options) if header is None else header}
        return self.client.post(PATH, content=payload, headers=headers)

    def kept(self) -> list[str]:
        return [row["event_id"] for row in self.mirror.rows("select event_id from stripe.event order by 1")]


@pytest.fixture
def mirror(database: Database, tmp_path: Path) -> Mirror:
    mirror = Mirror.opened(database, tmp_path / "catalog")
    mirror.now = NOW
    return mirror


@pytest.fixture
def services(mirror: Mirror) -> WebhookServices:
    return WebhookServices(
        inbox=WebhookInbox(mirror.database), secrets=(OLD_SECRET, SECRET), is_live=False, clock=mirror.clock
    )


@pytest.fixture
def endpoint(services: WebhookServices, mirror: Mirror) -> Iterator[Endpoint]:
    with serving(webhook_app(services)) as url:
        endpoint = Endpoint(url, mirror)
        yield endpoint
        endpoint.client.close()


@pytest.fixture
def patient(services: WebhookServices, mirror: Mirror) -> Iterator[Endpoint]:
    """Return an endpoint that answers 2xx when invoices are up to date."""
    with serving(webhook_app(replace(services, acknowledge=Acknowledge.WHEN_TRUED_UP))) as url:
        endpoint = Endpoint(url, mirror)
        yield endpoint
        endpoint.client.close()


def event(mirror: Mirror) -> dict[str, Any]:
    return mirror.stripe.tell(mirror.stripe.customer("acme"), "customer.updated")


class TestSignature:
    """X-05."""

    def check(self, header: str, body: str = "{}", now: datetime = NOW) -> None:
        check_signature(header, body.encode(), (SECRET,), now=now)

    def test_of_the_sdk_is_understood(self) -> None:
        self.check(signed("{}"))

    def test_counts_for_300_seconds_and_not_for_301(self) -> None:
        self.check(signed("{}", age_seconds=300))
        with pytest.raises(SignatureError, match="301 s ago"):
            self.check(signed("{}", age_seconds=301))
        with pytest.raises(SignatureError):
            self.check(signed("{}", age_seconds=-301))

    def test_may_be_one_of_several_while_a_secret_is_replaced(self) -> None:
        old = signed("{}", secret=OLD_SECRET)
        new = signed("{}").partition(",")[2]
        self.check(f"{old},{new}")
        self.check(f"{signed('{}')},v0=abc,v1=def")
        check_signature(old, b"{}", (OLD_SECRET, SECRET), now=NOW)
        with pytest.raises(SignatureError, match="none of our secrets"):
            self.check(old)

    @pytest.mark.parametrize(
        "header", ["", "t=1", "v1=abc", "t=x,v1=abc", "t=1,t=2,v1=abc", "t=\u0661,v1=abc", "nonsense"]
    )
    def test_that_is_none_is_refused(self, header: str) -> None:
        with pytest.raises(SignatureError):
            self.check(header)

    def test_is_of_the_body_to_the_last_byte(self) -> None:
        with pytest.raises(SignatureError):
            self.check(signed('{"a":1}'), '{"a":2}')

    def test_needs_a_secret(self) -> None:
        assert webhook_secrets(" whsec_a , whsec_b,") == ("whsec_a", "whsec_b")
        for nothing in (None, "", " , "):
            with pytest.raises(WebhookSecretError):
                webhook_secrets(nothing)


class TestEvents:
    def test_are_kept_before_they_are_answered(self, endpoint: Endpoint) -> None:
        document = event(endpoint.mirror)
        answer = endpoint.send(document)
        assert (answer.status_code, answer.json()) == (200, {"event": document["id"], "kept": True, "duplicate": False})
        assert endpoint.kept() == [document["id"]]

    def test_that_come_again_have_no_effect(self, endpoint: Endpoint) -> None:
        document = event(endpoint.mirror)
        assert [endpoint.send(document).json()["duplicate"] for _ in range(3)] == [False, True, True]
        endpoint.mirror.apply()
        assert endpoint.send(document).json()["duplicate"]
        assert endpoint.mirror.apply().events == 0

    def test_feed_the_same_inbox_as_the_feed(self, endpoint: Endpoint) -> None:
        """Either is enough, and both together are no more."""
        mirror = endpoint.mirror
        mirror.stripe.customer("beta")
        first, second = mirror.stripe.events[0], event(mirror)
        endpoint.send(second)
        mirror.follow()
        endpoint.send(first)
        assert len(endpoint.kept()) == 3
        assert mirror.one("select count(*) from stripe.event_work where state = 'applied'") == 3

    def test_in_thin_form_are_understood(self, endpoint: Endpoint) -> None:
        mirror = endpoint.mirror
        invoice = mirror.stripe.invoice(mirror.stripe.customer("acme"))
        thin = {
            "id": "evt_thin",
            "object": "v2.core.event",
            "type": "v1.invoice.created",
            "livemode": False,
            "created": "2026-04-01T12:00:00.000Z",
            "related_object": {"id": invoice, "type": "invoice", "url": f"/v1/invoices/{invoice}"},
        }
        assert endpoint.send(thin).status_code == 200
        mirror.apply()
        assert mirror.one("select invoice_id from stripe.invoice") == invoice

    def test_of_other_types_are_answered_and_not_kept(self, endpoint: Endpoint) -> None:
        document = {"id": "evt_1", "object": "event", "type": "charge.succeeded", "created": 1, "data": {}}
        answer = endpoint.send(document)
        assert (answer.status_code, answer.json()["kept"]) == (200, False)
        assert endpoint.kept() == []

    def test_of_the_other_mode_are_refused(self, endpoint: Endpoint) -> None:
        answer = endpoint.send({**event(endpoint.mirror), "livemode": True})
        assert (answer.status_code, endpoint.kept()) == (400, [])
        assert "live mode" in answer.json()["error"]


class TestRefusals:
    """Row 36."""

    def test_of_a_tampered_body(self, endpoint: Endpoint) -> None:
        document = event(endpoint.mirror)
        header = signed(json.dumps(document))
        answer = endpoint.send({**document, "type": "invoice.paid"}, header=header)
        assert (answer.status_code, endpoint.kept()) == (400, [])

    def test_of_a_bad_signature_and_of_none(self, endpoint: Endpoint) -> None:
        document = event(endpoint.mirror)
        answers = [endpoint.send(document, secret="whsec_other"), endpoint.send(document, header="")]
        assert [answer.status_code for answer in answers] == [400, 400]
        assert "whsec" not in "".join(answer.text for answer in answers)
        assert endpoint.kept() == []

    def test_of_an_old_timestamp(self, endpoint: Endpoint) -> None:
        answer = endpoint.send(event(endpoint.mirror), age_seconds=301)
        assert (answer.status_code, endpoint.kept()) == (400, [])

    @pytest.mark.parametrize(
        "body", ["", "nonsense", "[]", "{}", "[" * 99_999, '{"id": "evt_1", "type": "invoice.paid"}']
    )
    def test_of_what_is_no_event(self, endpoint: Endpoint, body: str) -> None:
        assert endpoint.send(body).status_code == 400

    def test_of_a_body_that_is_too_long(self, endpoint: Endpoint) -> None:
        assert endpoint.send("x" * (LARGEST_BODY_BYTES + 1)).status_code == 413

    def test_of_other_methods_and_paths(self, endpoint: Endpoint) -> None:
        assert endpoint.client.get(PATH).status_code == 405
        assert endpoint.client.post("/anything").status_code == 404


class TestStorage:
    def test_that_fails_is_no_2xx(self, endpoint: Endpoint, services: WebhookServices) -> None:
        class Broken(WebhookInbox):
            def keep(self, *_: Any, **__: Any) -> bool:
                raise BillingError("the disk of db.internal is full", bill="", fix="")

        document = event(endpoint.mirror)
        with (
            serving(webhook_app(replace(services, inbox=Broken(endpoint.mirror.database)))) as url,
            httpx.Client(base_url=url, trust_env=False) as client,
        ):
            payload = json.dumps(document)
            answer = client.post(PATH, content=payload, headers={"stripe-signature": signed(payload)})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert "db.internal" not in answer.text
        assert endpoint.send(document).json() == {"event": document["id"], "kept": True, "duplicate": False}

    def test_that_is_out_of_reach_is_no_2xx(self, services: WebhookServices, mirror: Mirror) -> None:
        nowhere = WebhookInbox(Database("postgresql://nobody@127.0.0.1:1/nothing"))
        document = event(mirror)
        with (
            serving(webhook_app(replace(services, inbox=nowhere))) as url,
            httpx.Client(base_url=url, trust_env=False) as client,
        ):
            payload = json.dumps(document)
            answer = client.post(PATH, content=payload, headers={"stripe-signature": signed(payload)})
            assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 503]
        assert answer.status_code == 503

    def test_of_one_event_that_comes_many_times_at_once_is_once(self, endpoint: Endpoint) -> None:
        document = event(endpoint.mirror)
        answers: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: answers.append(endpoint.send(document))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {answer.status_code for answer in answers} == {200}
        assert [answer.json()["duplicate"] for answer in answers].count(False) == 1
        assert endpoint.client.get("/readyz").status_code == 200


class TestTrueUp:
    """DH-14."""

    def test_that_is_not_done_keeps_stripe_waiting(self, patient: Endpoint) -> None:
        mirror = patient.mirror
        invoice = mirror.stripe.invoice(mirror.stripe.customer("acme"))
        created = mirror.stripe.events[-1]
        answers = [patient.send(created) for _ in range(3)]
        assert [(answer.status_code, answer.headers["retry-after"]) for answer in answers] == [(503, "60")] * 3
        # Stored all the same, and once.
        assert patient.kept() == [created["id"]]
        mirror.follow()
        assert patient.send(created).status_code == 503
        with mirror.database.transaction() as connection:
            trueup_queue.done(connection, invoice, now=mirror.now)
        assert patient.send(created).status_code == 200

    def test_is_not_waited_for_where_there_is_none(self, patient: Endpoint) -> None:
        mirror = patient.mirror
        mirror.stripe.invoice(mirror.stripe.customer("acme"), billing_reason="subscription_create")
        created = mirror.stripe.events[-1]
        # Until the invoice was fetched nobody knows what it is.
        assert patient.send(created).status_code == 503
        mirror.follow()
        assert patient.send(created).status_code == 200

    def test_is_not_waited_for_once_the_invoice_is_final(self, patient: Endpoint) -> None:
        mirror = patient.mirror
        invoice = mirror.stripe.invoice(mirror.stripe.customer("acme"))
        created = mirror.stripe.events[-1]
        mirror.follow()
        mirror.tick(minutes=3)
        mirror.stripe.finalize(invoice)
        mirror.now = NOW
        mirror.follow()
        assert patient.send(created).status_code == 200

    def test_is_waited_for_by_the_events_of_new_invoices_alone(self, patient: Endpoint) -> None:
        mirror = patient.mirror
        invoice = mirror.stripe.invoice(mirror.stripe.customer("acme"))
        assert patient.send(mirror.stripe.tell(invoice, "invoice.updated")).status_code == 200

    def test_is_not_waited_for_by_default(self, endpoint: Endpoint) -> None:
        endpoint.mirror.stripe.invoice(endpoint.mirror.stripe.customer("acme"))
        assert endpoint.send(endpoint.mirror.stripe.events[-1]).status_code == 200

    def test_is_waited_for_while_nobody_can_say(self, patient: Endpoint) -> None:
        """An invoice that cannot be fetched is dead after a while, and a person is needed: Stripe still waits."""
        mirror = patient.mirror
        invoice = mirror.stripe.invoice(mirror.stripe.customer("acme"))
        created = mirror.stripe.events[-1]
        patient.send(created)
        mirror.stripe.broken.add(invoice)
        for _ in range(10):
            mirror.apply()
            mirror.now += timedelta(days=1)
        assert mirror.one("select state from stripe.event_work where event_id = %s", created["id"]) == "dead"
        mirror.now = NOW
        assert patient.send(created).status_code == 503
