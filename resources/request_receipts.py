"""Keep pushed request events: a body -> one durable file of JSON lines in the landing folder of its source, as if dropped there.

The file is the delivery as it came, found and read like every other one. Its name is the digest of its content: the same body
again, after an answer that was lost, is the same file; the same events in another body are repeats by their ids. Needs no
database. Not here: HTTP (console/push_endpoint), cutting a body (pushed_events), reading (request_store).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from billing_pipeline.errors import BillingError
from billing_pipeline.sources.pushed_events import MOST_EVENTS, NoEventsError, TooManyEventsError, event_lines
from resources.inflate import is_packed
from resources.pushed_files import PushedFiles
from resources.source_config import SourceConfig


class EventsRefusedError(BillingError):
    """A pushed body of which nothing is kept. Nothing of it is quoted."""


class TooManyEventsPushedError(EventsRefusedError):
    """It holds more events than one body may."""


class NotJsonSourceError(EventsRefusedError):
    """The source is not one of JSON lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedEvents:
    """What is kept of a body, `key` below the landing place. `duplicate`: it was there already."""

    key: str
    events: int
    duplicate: bool


class RequestReceiver:
    """Receives for the request sources of one installation. Safe to use from several threads."""

    def __init__(self, landing_url: str, sources: Iterable[SourceConfig], scratch_dir: Path) -> None:
        self._files = PushedFiles(landing_url, scratch_dir)
        self._sources = {source.name: source for source in sources}

    def knows(self, source_name: str) -> bool:
        """Return whether there is a source of this name."""
        return source_name in self._sources

    def receive(self, source_name: str, body: bytes, *, received_at: datetime) -> ReceivedEvents:
        """Return when the body is on durable storage; the same body again changes nothing. The source must be known.

        Raises:
            NotJsonSourceError: the source's files are not JSON lines.
            EventsRefusedError, TooManyEventsPushedError: it holds no events, or more than MOST_EVENTS.
            DiskError, ObjectStoreError: it cannot be kept; the sender sends it again.
        """
        source = self._sources[source_name]
        if source.profile.framing != "lines":
            raise NotJsonSourceError(
                f"source {source.name} is delivered as {source.profile.framing}, so no JSON can be pushed to it",
                bill="nothing was kept",
                fix="drop its files into its landing folder, or push to a source whose profile has framing lines",
            )
        content, events = _lines(body)
        digest = hashlib.sha256(content).hexdigest()
        today = received_at.astimezone(UTC).date()
        # Sent again after midnight it is still the file of the evening before.
        before, key = (_key(source, day.isoformat(), digest) for day in (today - timedelta(days=1), today))
        if self._files.holds(before):
            key = before
        is_new = self._files.keep(key, content, sha256=digest)
        return ReceivedEvents(key=key, events=events, duplicate=not is_new)


def _key(source: SourceConfig, day: str, digest: str) -> str:
    return "/".join(part for part in (source.landing, day, "pushed", f"{digest}.jsonl") if part)


def _lines(body: bytes) -> tuple[bytes, int]:
    if is_packed(body[:16]):
        raise _refused("it is packed, or Avro", "send the events as plain JSON")
    try:
        return event_lines(body)
    except NoEventsError as error:
        raise _refused(error.problem, "send a JSON array of events, or one event a line") from None
    except TooManyEventsError:
        raise TooManyEventsPushedError(
            f"the body has more than {MOST_EVENTS:,} events",
            bill="nothing of it was kept",
            fix=f"send it in parts of at most {MOST_EVENTS:,} events",
        ) from None


def _refused(problem: str, fix: str) -> EventsRefusedError:
    return EventsRefusedError(f"the body cannot be taken: {problem}", bill="nothing of it was kept", fix=fix)
