"""Propose a catalog for logs that nobody has priced yet: an account per client, one plan, every endpoint billable. Pure.

A proposal to look at and to edit, not a price list. Callers -> the TOML files of a catalog folder, by name.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from resources.caller_reader import Callers

CURRENCY = "USD"
_ACCOUNT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_METERS = """\
[[meter]]
id = "api_requests"
aggregation = "count"
unit = "request"
"""
_PRICES = """\
# Proposed. Amounts are text in major units of the currency, and exact.
[[price]]
id = "requests"
meter = "api_requests"
currency = "{currency}"

[[price.versions]]
version = 1
effective_from = {since}T00:00:00Z
model = "graduated"
tiers = [
    {{ up_to = "1000", unit_price = "0.0125" }},
    {{ up_to = "10000", unit_price = "0.0095" }},
    {{ unit_price = "0.0060" }},
]
"""
_PLANS = """\
[[plan]]
id = "metered"
prices = ["requests"]
"""


def propose_catalog(callers: Callers) -> Mapping[str, str]:
    """Return the files of a catalog in which every client seen is an account, from the month of the first request on."""
    since = (callers.first_day or date(2020, 1, 1)).replace(day=1)
    accounts = tuple(zip(_account_ids(callers.clients), callers.clients, strict=True))
    return {
        "billable.toml": _billable(callers.endpoints),
        "meters.toml": _METERS,
        "prices.toml": _PRICES.format(currency=CURRENCY, since=since),
        "plans.toml": _PLANS,
        "accounts.toml": "# Proposed: an account for each client id seen, the busiest first.\n"
        + "\n".join(_account(account_id, client) for account_id, client in accounts),
        "subscriptions.toml": "# Proposed: every account on the one plan, by calendar months in UTC.\n"
        + "\n".join(_subscription(account_id, since) for account_id, _ in accounts),
    }


def _billable(endpoints: Sequence[tuple[str, str]]) -> str:
    lines = [f"    {{ method = {_text(method)}, endpoint = {_text(endpoint)} }}," for method, endpoint in endpoints]
    return "\n".join(
        (
            "# Proposed: every endpoint that the profile knows and that was called. Take out what is free.",
            "version = 1",
            "success_statuses = [[200, 299]]",
            "endpoints = [",
            *lines,
            "]",
            "",
        )
    )


def _account(account_id: str, client: str) -> str:
    return "\n".join(
        (
            "[[account]]",
            f"id = {_text(account_id)}",
            f"name = {_text(client)}",
            'time_zone = "UTC"',
            f"currency = {_text(CURRENCY)}",
            f"clients = [{{ id = {_text(client)} }}]",
            "",
        )
    )


def _subscription(account_id: str, since: date) -> str:
    return "\n".join(
        (
            "[[subscription]]",
            f"id = {_text(f'sub_{account_id}')}",
            f"account = {_text(account_id)}",
            'plan = "metered"',
            f"starts_at = {since}T00:00:00Z",
            "",
        )
    )


def _account_ids(clients: Sequence[str]) -> Iterator[str]:
    """Yield a distinct account id for each client: the client's own where it can be one, else a number."""
    taken = set(clients)
    for position, client in enumerate(clients, 1):
        if _ACCOUNT_ID.fullmatch(client):
            yield client
            continue
        numbered = f"account_{position:06}"
        while numbered in taken:
            numbered += "_"
        taken.add(numbered)
        yield numbered


def _text(value: str) -> str:
    """Return a TOML string: JSON's escapes are TOML's too, once DEL is written as one."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
