"""The control API under `/_sim/`, for tests and the demo only: clock, faults, rules, the log, totals. No key is asked.

GET  /_sim/state        now, rules, counts of objects, faults that are on
POST /_sim/advance      {"to": seconds} or {"by": seconds}: the clock goes on, and what is due happens
POST /_sim/faults       a fault script, or {"clear": true}
POST /_sim/events       {"doubled", "redelivered", "late", "late_seconds", "reversed_batches"}: what goes wrong with the next events
POST /_sim/rules        {"name": value}
POST /_sim/reset        {"now": seconds}: forgets everything
POST /_sim/populate     {"customers": count, "price": id, "account_prefix"}: customers with a subscription each
POST /_sim/decline      {"customer": id, "decline": true}: payments of that customer fail
GET  /_sim/log          requests so far; ?after=N for those behind the N-th
GET  /_sim/deliveries   webhooks that were tried, with what was answered
GET  /_sim/lines        every line of every invoice, and every pending item
GET  /_sim/totals       per customer: what is on invoices by status, what is pending, the balance
"""

import json
from collections import defaultdict
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from billing_pipeline.errors import BillingError
from resources.stripe_sim.population import populate
from resources.stripe_sim.refusals import ApiError
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World

if TYPE_CHECKING:
    from resources.stripe_sim.application import StripeSim

CONTROL_PREFIX = "/_sim/"


class Control:
    """The control API of one stand-in."""

    def __init__(self, sim: "StripeSim") -> None:
        """Control a stand-in."""
        self._sim = sim

    async def answer(self, method: str, path: str, query: str, body: bytes) -> tuple[int, Any]:
        """Return status and document."""
        name = path.removeprefix(CONTROL_PREFIX)
        try:
            given = json.loads(body) if body else {}
            match method, name:
                case "GET", "state":
                    return 200, self._state()
                case "GET", "log":
                    after = int(parse_qs(query).get("after", ["0"])[0])
                    return 200, [_plain(asdict(line)) for line in self._sim.log if line.number > after]
                case "GET", "deliveries":
                    return 200, [asdict(one) for one in self._sim.deliveries.attempts]
                case "GET", "totals":
                    return 200, totals(self._sim.world)
                case "GET", "lines":
                    return 200, all_lines(self._sim.world)
                case "POST", "advance":
                    now = self._sim.world.now
                    instant = int(given["to"] if "to" in given else now + given["by"])
                    if instant < now:
                        raise ValueError(f"the clock says {now} and only goes forward, not to {instant}")
                    happened = await self._sim.advance(instant)
                    return 200, {"now": self._sim.world.now, "happened": happened}
                case "POST", "faults":
                    if given.get("clear"):
                        self._sim.faults.clear()
                    else:
                        self._sim.faults.add(given)
                    return 200, {"faults": list(self._sim.faults.documents())}
                case "POST", "events":
                    return 200, self._event_faults(given)
                case "POST", "reset":
                    self._sim.reset(now=given["now"])
                    return 200, self._state()
                case "POST", "populate":
                    return 200, populate(
                        self._sim.world,
                        count=given["customers"],
                        price=given["price"],
                        account_prefix=given.get("account_prefix", "account-"),
                    )
                case "POST", "rules":
                    self._sim.world.rules = self._sim.world.rules.with_changes(given)
                    return 200, asdict(self._sim.world.rules)
                case "POST", "decline":
                    declining = self._sim.world.declining
                    (declining.add if given.get("decline", True) else declining.discard)(given["customer"])
                    return 200, {"declining": sorted(declining)}
        except (ApiError, BillingError, KeyError, ValueError, TypeError) as error:
            return 400, {"error": str(error)}
        return 404, {"error": f"no {method} {path}"}

    def _state(self) -> dict[str, Any]:
        world = self._sim.world
        return {
            "now": world.now,
            "rules": asdict(world.rules),
            "objects": {name: len(table) for name, table in world.tables.items()},
            "faults": list(self._sim.faults.documents()),
            "events": asdict(world.event_faults),
            "requests": self._sim.requests,
        }

    def _event_faults(self, given: dict[str, Any]) -> dict[str, Any]:
        faults = self._sim.world.event_faults
        names = {field.name for field in fields(faults)}
        for name, value in given.items():
            if name not in names:
                raise ValueError(f"{name} is none of {', '.join(sorted(names))}")
            setattr(faults, name, int(value))
        return asdict(faults)


def totals(world: World) -> dict[str, Any]:
    """Return what every customer is billed, in minor units of its currency."""
    found: dict[str, dict[str, Any]] = {}
    for customer in world.table("customer").oldest():
        invoices: dict[str, int] = defaultdict(int)
        lines = 0
        for invoice in world.table("invoice").find(customer=customer["id"]):
            invoices[invoice["status"]] += invoice["total"]
            lines += len(world.lines.get(invoice["id"], ()))
        pending = list(world.table("invoiceitem").find(customer=customer["id"], pending=True))
        found[customer["id"]] = {
            "balance": customer["balance"],
            "credit_notes": sum(
                note["amount"]
                for note in world.table("credit_note").find(customer=customer["id"])
                if note["status"] == "issued"
            ),
            "currency": customer["currency"],
            "invoices": dict(invoices),
            "lines": lines,
            "pending": sum(item["amount"] for item in pending),
            "pending_items": len(pending),
        }
    return found


def all_lines(world: World) -> list[dict[str, Any]]:
    """Return every line of every invoice and every pending item, oldest invoice first, pending items last."""
    on_invoices = [
        _shown_line(line, invoice["customer"], invoice["id"], invoice["status"], line["id"], line.get("_item"))
        for invoice in world.table("invoice").oldest()
        for line in world.lines.get(invoice["id"], ())
    ]
    pending = world.table("invoiceitem").find(pending=True)
    return on_invoices + [_shown_line(item, item["customer"], None, "pending", None, item["id"]) for item in pending]


def _shown_line(
    row: Row, customer: str, invoice: str | None, status: str, line: str | None, item: str | None
) -> dict[str, Any]:
    return {
        "customer": customer,
        "invoice": invoice,
        "status": status,
        "line": line,
        "item": item,
        "amount": row["amount"],
        "metadata": row["metadata"],
    }


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """Return a log line as JSON can have it: decimals as text."""
    found: dict[str, Any] = json.loads(json.dumps(document, default=str))
    return found
