"""Serve the stand-in for Stripe's API until Ctrl-C, and say how an installation is told about it.

For trying out, for the demo and for development. Not here: what the stand-in answers (resources/stripe_sim).
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from billing_pipeline.errors import BillingError
from console.screen import notes
from resources.asgi_server import LOCAL_HOST
from resources.stripe_sim.application import StripeSim
from resources.stripe_sim.rules import Rules, rule_table
from resources.stripe_sim.server import keeping_application, serve_stripe

TEST_KEY = "sk_test_standin"

_BOOLEANS = {"true": True, "false": False}


class RuleTextError(BillingError):
    """A rule of the command line cannot be read."""


def run_stripe_sim(*, port: int, start: str | None, state: Path | None, speed: float, rules: Sequence[str]) -> None:
    """Serve the stand-in on http://127.0.0.1:`port`.

    `start`: what its clock says at first (ISO, UTC unless it says otherwise), now if not given. With `state` the file's
    clock and objects go on. `speed`: seconds of its clock in a real one, 0: it stands until it is advanced. `rules`: NAME=VALUE.

    Raises:
        RuleTextError: a rule or the start cannot be read. StateFileError: the file cannot be used.
        ServerStartError: the port is taken.
    """
    application: StripeSim = keeping_application(
        now=read_start(start), rules=read_rules(rules), state=state, speed=speed
    )
    url = f"http://{LOCAL_HOST}:{port}"
    sys.stdout.write(variables(url))
    sys.stdout.flush()
    clock = datetime.fromtimestamp(application.world.now, UTC)
    notes().print(f"A stand-in for Stripe on {url}; its clock says {clock:%Y-%m-%d %H:%M} UTC. Ctrl-C ends it.")
    serve_stripe(application, port=port)


def variables(url: str) -> str:
    """Return the shell lines that point an installation to the stand-in."""
    return (
        "# For the shell that runs billing\n"
        f"export BILLING_STRIPE_URL={url}\n"
        f"export STRIPE_API_KEY={TEST_KEY}\n"
        f"# Its clock: curl -X POST {url}/_sim/advance -d '{{\"by\": 3600}}'\n"
    )


def read_rules(texts: Sequence[str]) -> Rules:
    """Return the rules, changed as `NAME=VALUE` say.

    Raises:
        RuleTextError: one cannot be read. RuleUnknownError: there is no such rule.
    """
    changes: dict[str, Any] = {}
    kinds = {row.name: type(row.default) for row in rule_table()}
    for text in texts:
        name, mark, value = text.partition("=")
        kind = kinds.get(name)
        if kind is int and value.lstrip("-").isdecimal():
            changes[name] = int(value)
        elif kind is bool and value in _BOOLEANS:
            changes[name] = _BOOLEANS[value]
        elif kind is str and mark:
            changes[name] = value
        else:
            raise RuleTextError(
                f"{text!r} is no rule of the stand-in, or of another type.",
                bill="Nothing was started.",
                fix=f"Write NAME=VALUE, as operation_rate=25. Rules: {', '.join(kinds)}.",
            )
    return Rules().with_changes(changes)


def read_start(text: str | None) -> datetime:
    """Return the instant that the stand-in's clock begins at.

    Raises:
        RuleTextError: it cannot be read.
    """
    if text is None:
        return datetime.now(UTC)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise RuleTextError(
            f"{text!r} is no instant.", bill="Nothing was started.", fix="Write 2026-03-01 or 2026-03-01T10:00:00Z."
        ) from None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
