"""Fault scripts: what goes wrong with the next requests, by operation, a number of times or until an instant.

A fault before the commit leaves nothing done; one after it leaves everything done and the client without the answer.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from billing_pipeline.errors import BillingError


class FaultInvalidError(BillingError):
    """A fault script cannot be read."""


class Fault(StrEnum):
    """What can go wrong."""

    DROP_BEFORE = "drop_before"
    """The connection ends before anything is done."""
    DROP_AFTER = "drop_after"
    """The connection ends when everything is done: the answer is lost."""
    RATE_LIMIT = "rate_limit"
    """429, before the idempotency layer."""
    LOCK_TIMEOUT = "lock_timeout"
    """429 with code `lock_timeout`: another request holds the object."""
    UNAVAILABLE = "unavailable"
    """503, before anything is done."""
    ERROR_BEFORE = "error_before"
    """500 of an execution that changed nothing; kept under the key like any answer."""
    ERROR_AFTER = "error_after"
    """500 though everything is done; kept under the key."""
    HTML = "html"
    """502 with a page that is no JSON, as a proxy answers."""
    SLOW = "slow"
    """The answer takes `seconds` of real time; meanwhile the key is in use."""


@dataclass(slots=True, kw_only=True)
class FaultScript:
    """A fault for the requests whose operation matches. `times`: how often; none: until `until` (virtual) or the end."""

    fault: Fault
    operation: str
    times: int | None = None
    after: int = 0
    """Let so many matching requests through first."""
    until: int | None = None
    seconds: float = 0

    def document(self) -> dict[str, Any]:
        """Return the script as JSON."""
        return {
            "fault": self.fault,
            "operation": self.operation,
            "times": self.times,
            "after": self.after,
            "until": self.until,
            "seconds": self.seconds,
        }


class FaultScripts:
    """The scripts that are on, in the order they were given."""

    def __init__(self) -> None:
        """Begin with none."""
        self._scripts: list[FaultScript] = []

    def add(self, document: Mapping[str, Any]) -> FaultScript:
        """Switch a fault on. `operation`: a regular expression over names as `POST /v1/invoiceitems/{}`.

        Raises:
            FaultInvalidError: it cannot be read.
        """
        try:
            known = {**document, "fault": Fault(document["fault"]), "operation": document.get("operation", ".*")}
            re.compile(known["operation"])
            script = FaultScript(**known)
        except (KeyError, TypeError, ValueError, re.error) as error:
            raise FaultInvalidError(
                f"no fault script: {error}",
                bill="nothing was changed",
                fix=f"send fault (one of {', '.join(Fault)}), operation, and times or until",
            ) from error
        self._scripts.append(script)
        return script

    def clear(self) -> None:
        """Switch all faults off."""
        self._scripts.clear()

    def take(self, operation: str, *, now: int) -> FaultScript | None:
        """Return the fault of a request that came now, and count it."""
        self._scripts = [one for one in self._scripts if one.until is None or now < one.until]
        for script in self._scripts:
            if re.search(script.operation, operation) is None:
                continue
            if script.after > 0:
                script.after -= 1
                continue
            if script.times is not None:
                script.times -= 1
                if script.times <= 0:
                    self._scripts.remove(script)
            return script
        return None

    def documents(self) -> Iterable[dict[str, Any]]:
        """Return what is still on."""
        return [script.document() for script in self._scripts]
