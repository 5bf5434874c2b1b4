"""The one place where something is reported as wrong, or as over, and from which messages go out. Over one database.

Reporting writes; `deliver` sends what is due, one message a transaction, so that a channel that fails or a process that dies
loses nothing, and two processes at once send nothing twice. A process that dies between sending and noting sends again:
the notice's id is the same. Not here: channels, what is wrong (conditions).
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from resources.alerting import incidents
from resources.alerting.incidents import OpenIncident
from resources.alerting.notice import Channel, ChannelError, Condition, IncidentKind
from resources.database import Database

LOGGER = logging.getLogger("billing.alerts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What a round of deliveries came to. `problems`: of the channels that took nothing."""

    sent: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertDesk:
    """Incidents of one database, told by `channels`. Of kinds that are `muted` there are none."""

    database: Database
    channels: Sequence[Channel]
    muted: frozenset[IncidentKind] = frozenset()

    def report(self, kind: IncidentKind, condition: Condition, *, now: datetime) -> bool:
        """Say that something is wrong; again while it lasts: nothing but a note. Returns whether it is new."""
        if kind in self.muted:
            return False
        with self.database.transaction(incidents.LOCK) as connection:
            return incidents.open_incident(connection, kind, condition, channels=self._names, now=now)

    def over(self, kind: IncidentKind, subject: str, message: str, *, now: datetime) -> bool:
        """Say that something is wrong no more. Returns whether it was."""
        with self.database.transaction(incidents.LOCK) as connection:
            return incidents.close_incident(connection, kind, subject, message, channels=self._names, now=now)

    def observe(
        self, kind: IncidentKind, conditions: Iterable[Condition], *, closing_message: str, now: datetime
    ) -> tuple[int, int]:
        """Say all that is wrong of a kind; what is not among it any more is over. Returns how many began and ended."""
        found = () if kind in self.muted else conditions
        with self.database.transaction(incidents.LOCK) as connection:
            return incidents.observe(
                connection, kind, found, closing_message=closing_message, channels=self._names, now=now
            )

    def open(self, kind: IncidentKind | None = None) -> tuple[OpenIncident, ...]:
        """Return what is wrong now."""
        with self.database.reading() as connection:
            return incidents.open_incidents(connection, kind)

    def deliver(self, *, now: datetime, at_most: int = 100) -> Delivered:
        """Send what is due. A channel that does not take one message is left alone for the rest of the round."""
        by_name = {channel.name: channel for channel in self.channels}
        sent, problems = 0, list[str]()
        while by_name and sent < at_most:
            with self.database.transaction() as connection:
                waiting = incidents.next_waiting(connection, list(by_name), now=now)
                if waiting is None:
                    break
                try:
                    by_name[waiting.channel].send(waiting.notice)
                except ChannelError as error:
                    LOGGER.warning("%s", error.what)
                    problems.append(error.what)
                    incidents.not_delivered(connection, waiting, problem=error.what, now=now)
                    del by_name[waiting.channel]
                else:
                    incidents.delivered(connection, waiting, now=now)
                    sent += 1
        return Delivered(sent=sent, problems=tuple(problems))

    @property
    def _names(self) -> list[str]:
        return [channel.name for channel in self.channels]
