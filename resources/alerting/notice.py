"""What is told: kinds of incidents, and a notice of one that has begun or ended, as a channel gets it.

Texts hold ids and figures, nothing personal and no secrets. Not here: where notices go (channels).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from billing_pipeline.errors import BillingError


class IncidentKind(StrEnum):
    """What is wrong."""

    RUN_FAILED = "run_failed"
    DAY_SKIPPED = "day_skipped"
    CHECK_HELD = "check_held"
    CHECK_FAILED = "check_failed"
    DECISION_WAITS = "decision_waits"
    GAP_OPEN = "gap_open"
    DEAD_LETTER = "dead_letter"
    STRIPE_DRIFT = "stripe_drift"
    STRIPE_FINDING = "stripe_finding"
    SYNC_LAG = "sync_lag"
    TRUE_UP_MISSED = "true_up_missed"
    CANARY = "canary"
    LIMIT_PASSED = "limit_passed"


class Phase(StrEnum):
    """Whether an incident begins or ends."""

    OPENED = "opened"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Something that is wrong now: `message` says what, what it means for the bill, what to do. `evidence`: how it was seen."""

    subject: str
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A message about an incident. `delivery_id` is the same however often it is delivered."""

    incident_id: int
    kind: IncidentKind
    subject: str
    phase: Phase
    message: str
    opened_at: datetime
    closed_at: datetime | None
    evidence: tuple[Mapping[str, Any], ...]

    @property
    def delivery_id(self) -> str:
        """Return what a receiver knows the message by."""
        return f"incident-{self.incident_id}-{self.phase.value}"

    @property
    def title(self) -> str:
        """Return one line: `incident 12 opened: run_failed daily_billing 2026-03-01`."""
        return f"incident {self.incident_id} {self.phase.value}: {self.kind.value} {self.subject}"

    @property
    def text(self) -> str:
        """Return title and message."""
        return f"{self.title}\n{self.message}"


class ChannelError(BillingError):
    """A channel did not take a notice; it is tried again."""


class Channel(Protocol):
    """A way to people."""

    @property
    def name(self) -> str:
        """Return what deliveries are kept under: the same for as long as the channel is the same."""

    def send(self, notice: Notice) -> None:
        """Deliver `notice`.

        Raises:
            ChannelError: it was not taken.
        """
