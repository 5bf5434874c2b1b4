"""Read an exporter's snapshots: (source, window) -> pages of snapshots, every one once, or an error of that source.

What an exporter says is believed only where it can be: the node and environment that the source names, a cursor that moves,
instants inside the window that was asked for. Not here: HTTP, TLS and credentials (exporter_transport), the words of a
snapshot or of Xray (billing_pipeline/sources), what is done with it (traffic_store).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeAlias

from billing_pipeline.periods import as_utc
from billing_pipeline.records import Reason
from billing_pipeline.sources.prometheus_text import PrometheusTextError
from billing_pipeline.sources.traffic_snapshots import (
    BodyUnreadableError,
    Pseudonymise,
    SnapshotReading,
    SnapshotRejection,
    TrafficSnapshot,
    decode_json,
    is_name,
    parse_snapshot,
)
from billing_pipeline.sources.xray_outputs import XrayFormat, XrayNodeError, XrayOutputError, read_output
from resources.exporter_transport import (
    ExporterAnswerError,
    ExporterConnection,
    ExporterError,
    ExporterErrorKind,
    ExporterHttpError,
)
from resources.traffic_config import TrafficSource

_Key: TypeAlias = TrafficSnapshot | tuple[str, Reason, str | None]

_LATEST = "/v1/snapshots/latest"
_WINDOW = "/v1/snapshots/window"
_NOT_FOUND = 404
_LONGEST_CURSOR = 1024
# Seventy-two hours of a snapshot a minute, one on each page, are 4,320.
_MOST_PAGES = 10_000


class ExporterIdentityError(ExporterError):
    """Another node or environment answers at this address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPage:
    """One page of a window: snapshots in the exporter's order, none of them on the page before, and what was refused.

    `has_more`: another page follows. A window was read to its end when a page without it has come.
    """

    snapshots: tuple[TrafficSnapshot, ...]
    rejected: tuple[SnapshotRejection, ...]
    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    readings: tuple[tuple[_Key, SnapshotReading], ...]
    next_cursor: str | None


class ExporterClient:
    """The snapshots of one source. Connects at the first question; close it, or use it in a `with`."""

    def __init__(
        self,
        source: TrafficSource,
        environ: Mapping[str, str],
        *,
        allow_http: bool = False,
        pseudonymise: Pseudonymise | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`environ` holds what the source's `..._env` fields name. `allow_http`: development only. `clock` (aware) dates the
        answers: a snapshot from more than five minutes later is refused. `pause` waits between attempts.
        """
        self._source = source
        self._pseudonymise = pseudonymise
        self._clock = clock
        self._connection = ExporterConnection(source, environ, allow_http=allow_http, pause=pause)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._source.name!r})"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def latest(self) -> TrafficSnapshot | None:
        """Return the newest snapshot; None while the exporter has none.

        Of a source whose format is an output of Xray: what `base_url` itself says now, dated by the clock.

        Raises:
            ExporterIdentityError: it is of another node or environment.
            ExporterAnswerError: it is no snapshot.
            ExporterError: it cannot be reached, or refuses (see exporter_transport).
        """
        if self._source.format != "snapshots":
            return self._output(self._source.format)
        try:
            value = self._decoded(self._connection.get(_LATEST, {}))
        except ExporterHttpError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        reading = self._reading(value, 1)
        if isinstance(reading, TrafficSnapshot):
            return reading
        # Before their first reading, old exporters answer the zero date.
        if reading.reason is Reason.SENTINEL_TIME:
            return None
        raise self._answer(f"its latest snapshot is refused: {reading.reason}, field {reading.field}")

    def window(self, since: datetime, until: datetime) -> Iterator[WindowPage]:
        """Yield the pages of the snapshots collected in `[since, until]`, both ends included, as they are read.

        A snapshot that a page repeats from the page before is left out. The last page has `has_more` False.

        Raises:
            ExporterIdentityError: another node or environment answers.
            ExporterAnswerError: it is no page, its cursor does not move, or it is about another window.
            ExporterError: it cannot be reached, or refuses (see exporter_transport).
        """
        since, until = as_utc(since), as_utc(until)
        cursors: list[str] = []
        before: frozenset[_Key] = frozenset()
        for _ in range(_MOST_PAGES):
            page = self._page(since, until, cursors[-1] if cursors else None)
            fresh = [(key, reading) for key, reading in page.readings if key not in before]
            if page.next_cursor is not None:
                if page.next_cursor in cursors or not fresh:
                    raise self._answer("its pages do not come to an end: the cursor does not move")
                cursors.append(page.next_cursor)
            # A dict keeps the first of what one page says twice.
            snapshots = {key: one for key, one in fresh if isinstance(one, TrafficSnapshot)}
            yield WindowPage(
                snapshots=tuple(snapshots.values()),
                rejected=tuple(one for _, one in fresh if isinstance(one, SnapshotRejection)),
                has_more=page.next_cursor is not None,
            )
            if page.next_cursor is None:
                return
            before = frozenset(key for key, _ in page.readings)
        raise self._answer(f"its window has more than {_MOST_PAGES} pages")

    def _output(self, output_format: XrayFormat) -> TrafficSnapshot:
        source, body = self._source, self._connection.get("", {})
        try:
            return read_output(
                body,
                output_format=output_format,
                env=source.env,
                node=source.node,
                collected_at=self._clock(),
                pseudonymise=self._pseudonymise,
            )
        except XrayNodeError as error:
            raise ExporterIdentityError(source.name, ExporterErrorKind.IDENTITY, error.what, fix=error.fix) from None
        except (XrayOutputError, BodyUnreadableError, PrometheusTextError) as error:
            raise self._answer(error.what) from None

    def _page(self, since: datetime, until: datetime, cursor: str | None) -> _Page:
        parameters = {"since": _rfc3339(since), "until": _rfc3339(until), "limit": str(self._source.limit)}
        if cursor is not None:
            parameters["cursor"] = cursor
        value = self._decoded(self._connection.get(_WINDOW, parameters))
        if not isinstance(value, Mapping) or not isinstance(value.get("has_more"), bool):
            raise self._answer("it does not answer with a page of snapshots")
        # Go writes a slice without elements as null.
        documents = value.get("snapshots") or []
        if not isinstance(documents, list):
            raise self._answer("the snapshots of its page are no list")
        named = value.get("env") or "", value.get("node_id") or ""
        # An empty page of a published exporter names nobody.
        if documents or named != ("", ""):
            self._check_identity(*named)
        readings = [self._reading(document, position) for position, document in enumerate(documents, 1)]
        for one in readings:
            if isinstance(one, TrafficSnapshot) and not since <= one.collected_at <= until:
                raise self._answer("it answers about another window than the one that was asked for")
        return _Page(
            readings=tuple((_key(*pair), pair[1]) for pair in zip(documents, readings, strict=True)),
            next_cursor=self._next_cursor(value) if value["has_more"] else None,
        )

    def _next_cursor(self, page: Mapping[str, object]) -> str:
        cursor = page.get("next_cursor")
        if not isinstance(cursor, str) or not 0 < len(cursor) <= _LONGEST_CURSOR:
            raise self._answer("there is another page, and no cursor that leads to it")
        return cursor

    def _reading(self, value: object, position: int) -> SnapshotReading:
        reading = parse_snapshot(value, as_of=self._clock(), pseudonymise=self._pseudonymise, position=position)
        if isinstance(reading, TrafficSnapshot):
            self._check_identity(reading.env, reading.node)
        return reading

    def _check_identity(self, env: object, node: object) -> None:
        source = self._source
        if (env, node) != (source.env, source.node):
            raise ExporterIdentityError(
                source.name,
                ExporterErrorKind.IDENTITY,
                f"it answers as {_shown(env)}:{_shown(node)}, not as {source.env}:{source.node}",
                fix="correct base_url, or env and node of this source; rows of one node must not be booked on another",
            )

    def _decoded(self, body: bytes) -> object:
        try:
            return decode_json(body)
        except BodyUnreadableError as error:
            # Its excerpt is for whoever wrote the body; here it would carry a stranger's text into our tables.
            raise self._answer(f"{len(body)} bytes with status 200 are no JSON: {error.problem}") from None

    def _answer(self, problem: str) -> ExporterAnswerError:
        return ExporterAnswerError(
            self._source.name,
            ExporterErrorKind.MALFORMED,
            problem,
            fix="check that base_url is the exporter and no proxy or sign-in page before it, and the exporter's version",
        )


def _key(document: object, reading: SnapshotReading) -> _Key:
    """Return what tells a snapshot that comes again: all it says; of a refused one its instant as written, and why."""
    if isinstance(reading, TrafficSnapshot):
        return reading
    written = document.get("collected_at") if isinstance(document, Mapping) else None
    return str(written), reading.reason, reading.field


def _shown(name: object) -> str:
    """Return a name out of an answer for a message: a plain one as it is, anything else not at all."""
    return name if isinstance(name, str) and is_name(name) else "(no plain name)"


def _rfc3339(instant: datetime) -> str:
    return instant.replace(tzinfo=None).isoformat() + "Z"
