"""Events pushed in bulks while the pipeline runs: from 202 to committed usage. Contenders of the case `steady`.

One endpoint on a socket, one pusher with one connection, durable files; discover, ingest and usage one after the other, as the
sensors request them, without their waiting. What is counted in the end is held against DuckDB's own count of the files.
"""

import math
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pyarrow as pa

from bench.catalog import COUNT_METER
from bench.request_data import BILLABLE, GROUP, RequestRows, lines_query
from bench.task import Stopwatch, Task
from console.push_endpoint import PushServices, push_app
from resources.asgi_server import serving
from resources.database import Database
from resources.lake import Lake
from resources.landing import Landing
from resources.request_receipts import RequestReceiver
from resources.request_store import RequestStore
from resources.source_config import load_sources
from resources.traffic_receipts import TrafficReceiver
from resources.usage_store import UsageStore

_SOURCE, _NAME = "api", "bench"
_EVENT_DAY = date(2026, 3, 1)
# The longest that nobody looks for a file; one that comes wakes him.
_IDLE_SECONDS = 1.0


def push_steadily(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Push bulks at a given rate for some minutes, while the pipeline goes round."""
    bulk = int(task.options["bulk"])
    every = bulk / float(Decimal(task.options["events_per_second"]))
    seconds = 60 * float(task.options["minutes"])
    bulks = math.ceil(seconds / every)
    bodies = _bodies(0, bulks, bulk)
    with _installed(task) as line:
        began = time.perf_counter()
        with ThreadPoolExecutor(max_workers=1) as pool:
            pusher = pool.submit(_push_all, line, bodies, every)
            while not pusher.done() or line.waits():
                line.came.wait(_IDLE_SECONDS)
                line.came.clear()
                line.cycle(stopwatch)
            # What stopped the pusher stops the benchmark.
            pusher.result()
        lasted = time.perf_counter() - began
        # To the end of the last one's turn.
        return line.facts(events=bulks * bulk, pushed_in=bulks * every, counted_in=max(bulks * every, lasted))


def push_in_turns(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Push bulks as fast as one pusher goes, then count them, in turns: so many events are counted as are accepted."""
    bulk, a_turn, most = (int(task.options[name]) for name in ("bulk", "bulks_a_turn", "most_events"))
    seconds = 60 * float(task.options["minutes"])
    pushed_in = counted_in = 0.0
    events = 0
    with _installed(task) as line:
        for turn in count():
            # Made beside the clock.
            bodies = _bodies(turn, a_turn, bulk)
            began = time.perf_counter()
            with stopwatch.part("push"):
                for body in bodies:
                    line.push(body)
            pushed_in += time.perf_counter() - began
            line.cycle(stopwatch)
            counted_in += time.perf_counter() - began
            events += bulk * a_turn
            if counted_in >= seconds or events >= most:
                break
        return line.facts(events=events, pushed_in=pushed_in, counted_in=counted_in)


class _Line:
    """An installation with its endpoint; notes when each file was accepted, and how long until it was counted."""

    def __init__(self, task: Task, client: httpx.Client, landing: Path) -> None:
        self._client = client
        self._landing = landing
        self._database = Database(task.database_url)
        scratch = task.path("scratch")
        lake = Lake(str(task.path("lake")), scratch)
        sources = load_sources(Path(task.catalog))
        self._requests = RequestStore(
            self._database, lake, Landing(str(landing), scratch), sources, scratch, _NAME.encode()
        )
        self._usage = UsageStore(
            database=self._database, lake=lake, scratch_dir=scratch, expectations=self._requests.expected_hours
        )
        self._accepted_at: dict[str, float] = {}
        self._lags: list[float] = []
        self._cycles = 0
        self.came = threading.Event()

    def push(self, body: bytes) -> None:
        """Push a bulk and wait for its 202."""
        answer = self._client.post(f"/v1/ingest/requests/{_SOURCE}", content=body)
        if answer.status_code != 202:
            raise AssertionError(f"a bulk was answered {answer.status_code}: {answer.text}")
        self._accepted_at[answer.json()["file"]] = time.perf_counter()
        self.came.set()

    def waits(self) -> bool:
        """Return whether an accepted bulk is not counted yet."""
        return len(self._lags) < len(self._accepted_at)

    def cycle(self, stopwatch: Stopwatch) -> None:
        """Find, read and count what is there."""
        with stopwatch.part("discover"):
            found = self._requests.discover(seen_at=datetime.now(UTC))
        if not found.delivery_days:
            return
        with stopwatch.part("ingest"):
            self._requests.ingest_days(found.delivery_days, run_id=_NAME, code_version=_NAME)
        with stopwatch.part("usage"):
            builds = self._usage.build_days(self._usage.stale_days(), run_id=_NAME, code_version=_NAME)
        counted_at = time.perf_counter()
        if any(build.state == "held" for build in builds):
            raise AssertionError("the event day was held, so the figures mean nothing")
        # Found before its answer was read: no lag.
        self._lags += [counted_at - self._accepted_at.get(key, counted_at) for key in found.new_files]
        self._cycles += 1

    def facts(self, *, events: int, pushed_in: float, counted_in: float) -> dict[str, Any]:
        """Return what was seen, once everything is counted, and counted right."""
        billable, identities = self._wanted()
        counted = self._counted()
        if counted != billable:
            raise AssertionError(f"{counted} billable events were counted, and {billable} are in the files")
        return {
            "events": events,
            "identities": identities,
            "billable": billable,
            "bulks": len(self._lags),
            "cycles": self._cycles,
            "pushed_in": round(pushed_in, 3),
            "counted_in": round(counted_in, 3),
            "lag_median": round(statistics.median(self._lags), 3),
            "lag_most": round(max(self._lags), 3),
        }

    def _wanted(self) -> tuple[int, int]:
        names = ", ".join(f"'{name}'" for name in BILLABLE)
        row = duckdb.execute(
            f"""
            select
                count(distinct request_id) filter (
                    where method = 'GET' and status_code between 200 and 299 and is_real_vehicle
                        and split_part(endpoint, '/', 5) in ({names})
                ),
                count(distinct request_id)
            from read_json($files, format = 'newline_delimited')
            """,
            {"files": f"{self._landing}/**/*.jsonl"},
        ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    def _counted(self) -> int:
        with self._database.reading() as connection:
            row = connection.execute(
                "select coalesce(sum(request_count), 0) from usage.api_requests where meter_id = %s", [COUNT_METER]
            ).fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def _installed(task: Task) -> Iterator[_Line]:
    # Loads pandas: an import, as those of others are outside of the clock.
    pa.array([0])
    landing, scratch = task.path("landing"), task.path("scratch")
    (landing / "requests").mkdir(parents=True)
    services = PushServices(
        receiver=TrafficReceiver(str(landing), (), scratch),
        requests=RequestReceiver(str(landing), load_sources(Path(task.catalog)), scratch),
        ping=lambda: None,
        statuses=lambda now: [],
    )
    app = push_app(services, {}, request_tokens={_SOURCE: _NAME})
    headers = {"authorization": f"Bearer {_NAME}"}
    with serving(app) as url, httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
        yield _Line(task, client, landing)


def _push_all(line: _Line, bodies: Sequence[bytes], every: float) -> None:
    began = time.perf_counter()
    for number, body in enumerate(bodies):
        time.sleep(max(0.0, began + number * every - time.perf_counter()))
        line.push(body)


def _bodies(part: int, bulks: int, bulk: int) -> list[bytes]:
    """Return bodies of `bulk` events each over all hours of the event day: every so manyth line of a part's data."""
    wanted = bulks * bulk
    rows = max(2 * GROUP, -(-wanted // GROUP) * GROUP)
    query = (
        f"select line from ({lines_query(RequestRows(rows=rows, first_day=_EVENT_DAY, part=part))}) order by position"
    )
    lines = [line for (line,) in duckdb.execute(query).fetchall()]
    step = len(lines) // bulk
    return ["".join(lines[number::step][:bulk]).encode() for number in range(bulks)]
