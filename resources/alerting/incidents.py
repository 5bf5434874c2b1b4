"""Keep incidents: what is wrong is opened once, seen again for as long as it lasts, and closed with a word about its end.

Messages for every channel are written with the incident, in one transaction, so that none is lost. In the caller's
transaction. Not here: what is wrong (conditions), sending (desk).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from resources.alerting.notice import Condition, IncidentKind, Notice, Phase

FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(hours=1)
LOCK = "alerts/incidents"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIncident:
    """An incident that has not ended."""

    incident_id: int
    kind: IncidentKind
    subject: str
    message: str
    opened_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A message that is to be delivered now."""

    channel: str
    notice: Notice
    attempts: int


def open_incident(
    connection: psycopg.Connection, kind: IncidentKind, condition: Condition, *, channels: Sequence[str], now: datetime
) -> bool:
    """Note that something is wrong; a message goes out for it when it is new. Returns whether it is."""
    row = connection.execute(
        """
        insert into alerts.incident (kind, subject, message, opened_at, seen_at)
        values (%(kind)s, %(subject)s, %(message)s, %(now)s, %(now)s)
        on conflict (kind, subject) where closed_at is null do update set seen_at = excluded.seen_at
        returning incident_id, xmax = 0
        """,
        {"kind": kind.value, "subject": condition.subject, "message": condition.message, "now": now},
    ).fetchone()
    assert row is not None
    incident_id, is_new = row
    _note(connection, incident_id, condition.evidence, now)
    if is_new:
        _write_deliveries(connection, incident_id, Phase.OPENED, channels)
    return bool(is_new)


def close_incident(
    connection: psycopg.Connection,
    kind: IncidentKind,
    subject: str,
    message: str,
    *,
    channels: Sequence[str],
    now: datetime,
) -> bool:
    """Note that something has ended, and why that is known; a message goes out for it. Returns whether it was open."""
    row = connection.execute(
        """
        update alerts.incident
        set closed_at = greatest(%(now)s, opened_at), closing_message = %(message)s
        where kind = %(kind)s and subject = %(subject)s and closed_at is null
        returning incident_id
        """,
        {"kind": kind.value, "subject": subject, "message": message, "now": now},
    ).fetchone()
    if row is None:
        return False
    _write_deliveries(connection, row[0], Phase.CLOSED, channels)
    return True


def observe(
    connection: psycopg.Connection,
    kind: IncidentKind,
    conditions: Iterable[Condition],
    *,
    closing_message: str,
    channels: Sequence[str],
    now: datetime,
) -> tuple[int, int]:
    """Make the open incidents of a kind those that are found now; return how many were opened and closed."""
    found = {condition.subject: condition for condition in conditions}
    known = {one.subject for one in open_incidents(connection, kind)}
    opened = sum(open_incident(connection, kind, condition, channels=channels, now=now) for condition in found.values())
    closed = sum(
        close_incident(connection, kind, subject, closing_message, channels=channels, now=now)
        for subject in sorted(known - set(found))
    )
    return opened, closed


def open_incidents(connection: psycopg.Connection, kind: IncidentKind | None = None) -> tuple[OpenIncident, ...]:
    """Return what is wrong, the oldest first; of one kind where it is given."""
    rows = connection.execute(
        """
        select incident_id, kind, subject, message, opened_at, seen_at
        from alerts.incident
        where closed_at is null and (%(kind)s::text is null or kind = %(kind)s)
        order by incident_id
        """,
        {"kind": None if kind is None else kind.value},
    )
    return tuple(
        OpenIncident(
            incident_id=row[0],
            kind=IncidentKind(row[1]),
            subject=row[2],
            message=row[3],
            opened_at=row[4],
            seen_at=row[5],
        )
        for row in rows
    )


def next_waiting(connection: psycopg.Connection, channels: Sequence[str], *, now: datetime) -> Waiting | None:
    """Return a message that is due, its row locked; messages that somebody else is sending are left out.

    That an incident has ended waits until it was told that it began.
    """
    row = connection.execute(
        """
        select delivery.incident_id, phase, channel, attempts, kind, subject, message, opened_at, closed_at, closing_message
        from alerts.delivery
        join alerts.incident using (incident_id)
        where delivered_at is null and channel = any(%(channels)s) and (not_before is null or not_before <= %(now)s)
            and not (
                phase = 'closed' and exists (
                    select from alerts.delivery as before
                    where before.incident_id = delivery.incident_id and before.channel = delivery.channel
                        and before.phase = 'opened' and before.delivered_at is null
                )
            )
        order by delivery.incident_id, phase desc, channel
        limit 1
        for update of delivery skip locked
        """,
        {"channels": list(channels), "now": now},
    ).fetchone()
    if row is None:
        return None
    incident_id, phase, channel, attempts, kind, subject, message, opened_at, closed_at, closing = row
    return Waiting(
        channel=channel,
        attempts=attempts,
        notice=Notice(
            incident_id=incident_id,
            kind=IncidentKind(kind),
            subject=subject,
            phase=Phase(phase),
            message=message if phase == Phase.OPENED else closing,
            opened_at=opened_at,
            closed_at=closed_at if phase == Phase.CLOSED else None,
            evidence=_evidence(connection, incident_id),
        ),
    )


def delivered(connection: psycopg.Connection, waiting: Waiting, *, now: datetime) -> None:
    """Note that a message was taken."""
    connection.execute(
        """
        update alerts.delivery
        set delivered_at = %s, attempts = attempts + 1, problem = null
        where incident_id = %s and phase = %s and channel = %s
        """,
        [now, waiting.notice.incident_id, waiting.notice.phase.value, waiting.channel],
    )


def not_delivered(connection: psycopg.Connection, waiting: Waiting, *, problem: str, now: datetime) -> None:
    """Note that a message was not taken; it is due again after a wait that grows to an hour, for ever."""
    wait = min(FIRST_WAIT * 2 ** min(waiting.attempts, 16), LONGEST_WAIT)
    connection.execute(
        """
        update alerts.delivery
        set attempts = attempts + 1, problem = %s, not_before = %s
        where incident_id = %s and phase = %s and channel = %s
        """,
        [problem, now + wait, waiting.notice.incident_id, waiting.notice.phase.value, waiting.channel],
    )


def _note(connection: psycopg.Connection, incident_id: int, evidence: Mapping[str, Any], now: datetime) -> None:
    if not evidence:
        return
    text = json.dumps(dict(evidence), sort_keys=True, default=str)
    connection.execute(
        "insert into alerts.evidence (incident_id, digest, evidence, noted_at) values (%s, %s, %s, %s) on conflict do nothing",
        [incident_id, hashlib.sha256(text.encode()).hexdigest(), Jsonb(json.loads(text)), now],
    )


def _evidence(connection: psycopg.Connection, incident_id: int) -> tuple[Mapping[str, Any], ...]:
    rows = connection.execute(
        "select evidence from alerts.evidence where incident_id = %s order by noted_at, digest", [incident_id]
    )
    return tuple(evidence for (evidence,) in rows)


def _write_deliveries(connection: psycopg.Connection, incident_id: int, phase: Phase, channels: Sequence[str]) -> None:
    # That it is over is told wherever it was told that it began.
    connection.execute(
        """
        insert into alerts.delivery (incident_id, phase, channel)
        select %(incident)s, %(phase)s, unnest(%(channels)s::text[])
        union
        select %(incident)s, %(phase)s, channel from alerts.delivery where incident_id = %(incident)s
        on conflict do nothing
        """,
        {"incident": incident_id, "phase": phase.value, "channels": list(channels)},
    )
