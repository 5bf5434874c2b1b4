"""Events go to webhook endpoints: signed, in the order they happened, again later while the answer is no 2xx.

Retries go by the virtual clock, signatures by the one that the receiver checks them with (rule `signature_clock`). When
every endpoint has acknowledged `invoice.created`, its draft has its hour from then on.
"""

import asyncio
import hashlib
import hmac
import json
import time
from dataclasses import dataclass

import httpx

from resources.stripe_sim import drafts, webhook_endpoints
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import EVENT, Delivery, World

DELIVER = "deliver"
SIGNATURE_HEADER = "Stripe-Signature"

_TIMEOUT_SECONDS = 10
# Growing pauses, as Stripe says; the very figures are ours.
_PAUSES_SECONDS = (60, 300, 1800, 7200, 18_000, 36_000, 43_200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A delivery that was tried, for the log."""

    at: int
    event: str
    event_type: str
    endpoint: str
    status: int
    """0: nobody answered."""


class Deliveries:
    """The deliveries of a world."""

    def __init__(self, world: World) -> None:
        """Deliver what happens in a world."""
        self._world = world
        self._lock = asyncio.Lock()
        self.attempts: list[Attempt] = []

    def plan(self) -> None:
        """Plan the delivery of events that are new."""
        world = self._world
        events, world.unsent = world.unsent, []
        for event in events:
            for endpoint in webhook_endpoints.wanting(world, event["type"]):
                event["pending_webhooks"] += 1
                self._add(event, endpoint, at=event["_visible_at"])
                if world.event_faults.redelivered > 0:
                    world.event_faults.redelivered -= 1
                    event["pending_webhooks"] += 1
                    self._add(event, endpoint, at=event["_visible_at"])

    def is_due(self) -> bool:
        """Say whether something is to be delivered now."""
        return any(one.due <= self._world.now for one in self._world.deliveries)

    async def run(self) -> None:
        """Deliver what is due, one after the other."""
        self.plan()
        if not self.is_due():
            return
        async with self._lock, httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
            while due := [one for one in self._world.deliveries if one.due <= self._world.now]:
                for delivery in due:
                    await self._deliver(client, delivery)

    def _add(self, event: Row, endpoint: Row, *, at: int) -> None:
        world = self._world
        world.deliveries.append(Delivery(event=event["id"], endpoint=endpoint["id"], first=world.now, due=at))
        if at > world.now:
            world.schedule(at, DELIVER, "")

    async def _deliver(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        world = self._world
        event = world.table(EVENT).get(delivery.event)
        endpoint = world.table(webhook_endpoints.KIND).get(delivery.endpoint)
        if event is None or endpoint is None or endpoint["status"] != "enabled":
            world.deliveries.remove(delivery)
            return
        status = await self._post(client, event, endpoint)
        self.attempts.append(
            Attempt(at=world.now, event=event["id"], event_type=event["type"], endpoint=endpoint["id"], status=status)
        )
        world.changes += 1
        if 200 <= status < 300:
            world.deliveries.remove(delivery)
            self._acknowledged(event)
            return
        pause = _PAUSES_SECONDS[min(delivery.attempts, len(_PAUSES_SECONDS) - 1)]
        delivery.attempts += 1
        delivery.due = world.now + pause
        if delivery.due > delivery.first + world.rules.webhook_retry_seconds:
            world.deliveries.remove(delivery)
            return
        world.schedule(delivery.due, DELIVER, "")

    def _acknowledged(self, event: Row) -> None:
        event["pending_webhooks"] -= 1
        self._world.save(event)
        if event["type"] == "invoice.created" and event["pending_webhooks"] == 0:
            drafts.webhooks_delivered(self._world, event["_object_id"])

    async def _post(self, client: httpx.AsyncClient, event: Row, endpoint: Row) -> int:
        body = json.dumps(rendered(self._world, event), indent=2)
        at = int(time.time()) if self._world.rules.signature_clock == "real" else self._world.now
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (stand-in)",
            SIGNATURE_HEADER: signature(body, secret=endpoint["_secret"], at=at),
        }
        try:
            answer = await client.post(endpoint["url"], content=body.encode(), headers=headers)
        except httpx.HTTPError:
            return 0
        return answer.status_code


def signature(body: str, *, secret: str, at: int) -> str:
    """Return the value of the signature's header: HMAC-SHA256 of `at.body`."""
    digest = hmac.new(secret.encode(), f"{at}.{body}".encode(), hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
