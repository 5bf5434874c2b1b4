"""Request events that are pushed: 202 means stored and counted once, a refusal that nothing was (FP-01, FP-21)."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.sources.profile import load_profile, shipped_profiles
from billing_pipeline.sources.pushed_events import MOST_EVENTS, NoEventsError, TooManyEventsError, event_lines
from console.push_endpoint import PushServices, PushTokensError, push_app, request_push_tokens
from resources.asgi_server import serving
from resources.database import Database
from resources.landing import Landing
from resources.request_receipts import RequestReceiver
from resources.settings import PROJECT_ROOT
from resources.source_config import SourceConfig, SourcesError, load_sources
from resources.traffic_receipts import TrafficReceiver
from tests.chain import DAYS, RUN, SOURCES, Call, Installation, lines, write_catalog
from tests.request_files import api_source
from tests.test_s3 import endpoint as endpoint
from tests.test_s3 import s3 as s3

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
TOKENS = {"api": "token-of-api", "auth": "token-of-auth"}
SECRET = "jane.doe@example.com"
API = "/v1/ingest/requests/api"
OTHER_API = (
    SOURCES.replace('name = "auth"', 'name = "other"')
    .replace("requests/auth", "requests/other")
    .replace("_avro", "_json")
)


def bulk(number: int, *, first: int = 0) -> list[Call]:
    """Return billable requests over all hours of a day, of ids from `first` on."""
    midnight = datetime(DAYS[0].year, DAYS[0].month, DAYS[0].day, tzinfo=UTC)
    step = timedelta(days=1) / number
    return [Call(request_id=f"r-{first + index}", at=midnight + index * step) for index in range(number)]


def array(calls: Sequence[Call]) -> bytes:
    """Return the calls as one JSON array, over many lines."""
    return json.dumps([json.loads(call.line()) for call in calls], indent=1).encode()


def write_pushed_catalog(folder: Path, **texts: str) -> Path:
    """Write the catalog of the chain, whose sources deliver when they like, and return its folder."""
    (folder / "profiles").mkdir(parents=True)
    for name in ("billable_request_json", "billable_request_avro"):
        text = shipped_profiles()[name].decode().replace('expected_hours = "every"', 'expected_hours = "none"')
        (folder / "profiles" / f"{name}.toml").write_text(text)
    return write_catalog(folder, **texts)


@contextmanager
def connected(installed: "Served") -> Iterator[httpx.Client]:
    """Serve on a real socket, and yield a client with the token of source api."""
    headers = {"authorization": f"Bearer {TOKENS['api']}"}
    with serving(installed.app) as url, httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
        yield client


class Served:
    """An installation whose endpoint listens on a socket; `now` is what its clock says."""

    def __init__(self, home: Path, catalog: Path, database: Database) -> None:
        self.installation = Installation(home=home, database=database, catalog_dir=catalog)
        self.now = NOW
        settings = self.installation.settings
        self.landing = Path(settings.landing_url)
        services = PushServices(
            receiver=TrafficReceiver(settings.landing_url, (), settings.scratch_dir),
            requests=RequestReceiver(settings.landing_url, load_sources(catalog), settings.scratch_dir),
            ping=lambda: None,
            statuses=lambda now: [],
            clock=lambda: self.now,
        )
        self.app = push_app(services, {"jp": "token-of-jp"}, request_tokens=TOKENS)

    def files(self) -> list[Path]:
        return sorted(path for path in self.landing.rglob("*") if path.is_file())

    def count(self) -> None:
        """Do what the sensors request."""
        stores = self.installation
        for source in ("api", "auth", "other"):
            (self.landing / "requests" / source).mkdir(parents=True, exist_ok=True)
        found = stores.requests.discover(seen_at=self.now)
        stores.requests.ingest_days(found.delivery_days, run_id=RUN, code_version=RUN)
        stores.usage.build_days(stores.usage.stale_days(), run_id=RUN, code_version=RUN)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.installation.database.connect() as connection:
            return connection.execute(sql.encode()).fetchall()

    def counted(self) -> int:
        return int(
            self.rows("select coalesce(sum(request_count), 0) from usage.api_requests where meter_id = 'requests'")[0][
                0
            ]
        )


@pytest.fixture
def served(database: Database, tmp_path: Path) -> Iterator[tuple[Served, httpx.Client]]:
    """Serve an installation, with a client that has the token of source api."""
    installed = Served(tmp_path, write_pushed_catalog(tmp_path / "catalog"), database)
    installed.installation.catalog.load(tmp_path / "catalog")
    with connected(installed) as client:
        yield installed, client


class TestABulk:
    """FP-01."""

    def test_of_1000_is_accepted_and_counted_once_and_of_1001_refused(
        self, served: tuple[Served, httpx.Client]
    ) -> None:
        installed, client = served
        calls = bulk(MOST_EVENTS)
        began = time.monotonic()
        answer = client.post(API, content=lines(calls))
        (file,) = installed.files()
        key = file.relative_to(installed.landing).as_posix()
        assert (answer.status_code, answer.json()) == (202, {"events": 1000, "file": key, "duplicate": False})
        assert file.read_bytes() == lines(calls)
        installed.count()
        assert installed.counted() == 1000
        assert time.monotonic() - began < 60

        too_many = client.post(API, content=lines(bulk(MOST_EVENTS + 1, first=5000)))
        assert too_many.status_code == 413
        assert "1,000 events" in too_many.json()["error"]
        assert "send it in parts" in too_many.json()["error"]
        assert installed.files() == [file]

        # The answer was lost: the same body, on the same day, after midnight, and as it is when somebody packs it anew.
        for days, again in ((0, lines(calls)), (1, lines(calls)), (4, lines(calls)), (4, array(calls))):
            installed.now = NOW + timedelta(days=days)
            retried = client.post(API, content=again)
            assert (retried.status_code, retried.json()["events"]) == (202, 1000)
            assert (retried.json()["file"] == key) == (days < 2)
            assert retried.json()["duplicate"] == (days < 2)
        # One that overlaps: its repeats are found by their ids.
        installed.now = NOW
        assert client.post(API, content=lines(bulk(MOST_EVENTS)[500:] + bulk(3, first=7000))).status_code == 202
        installed.count()
        assert installed.counted() == 1003

    def test_with_bad_lines_counts_the_others_and_has_a_row_of_quarantine_for_each(
        self, served: tuple[Served, httpx.Client], caplog: pytest.LogCaptureFixture
    ) -> None:
        installed, client = served
        bad = b'{"request_id": "' + SECRET.encode() + b'", "bad\n'
        answers = [
            client.post(API, content=lines(bulk(40)) + bad + b"\n" + lines(bulk(2, first=100))),
            client.post(API, content=b"[" + lines(bulk(1, first=200)) + b", 7," + lines(bulk(1, first=300)) + b"]"),
        ]
        assert [answer.json()["events"] for answer in answers] == [43, 3]
        installed.count()
        assert installed.counted() == 44
        keys = [answer.json()["file"] for answer in answers]
        quarantined = installed.rows(
            "select key, line_number, quarantine.reason from core.quarantine join core.source_file using (file_id)"
        )
        assert set(quarantined) == {(keys[0], 41, "bad_json"), (keys[1], 2, "not_an_object")}
        assert not any(SECRET in text for text in [*(answer.text for answer in answers), caplog.text])

    def test_with_the_id_of_another_source_is_another_event(self, database: Database, tmp_path: Path) -> None:
        """FP-21, its first half: two sources are two tenants' namespaces of ids."""
        catalog = write_pushed_catalog(tmp_path / "catalog", sources=OTHER_API)
        receiver = RequestReceiver(str(tmp_path / "landing"), load_sources(catalog), tmp_path / "scratch")
        for source in ("api", "other"):
            receiver.receive(source, lines(bulk(48)), received_at=NOW)
        installed = Served(tmp_path, catalog, database)
        installed.installation.catalog.load(catalog)
        installed.count()
        assert installed.counted() == 96


class TestRefused:
    @pytest.mark.parametrize(
        ("path", "token", "status", "what"),
        [
            (API, "", 401, "bearer"),
            (API, "wrong", 401, "bearer"),
            (API, "token-of-auth", 403, "/v1/ingest/requests/auth"),
            (API, "token-of-jp", 403, "snapshots"),
            ("/v1/ingest/snapshots", "token-of-api", 403, "events"),
            ("/v1/status", "token-of-api", 403, "events"),
            ("/v1/ingest/requests/nobody", "token-of-api", 404, "sources.toml"),
            ("/v1/ingest/requests/", "token-of-api", 404, "no such address"),
            ("/v1/ingest/requests/api/more", "token-of-api", 404, "no such address"),
            ("/v1/ingest/requests/auth", "token-of-auth", 422, "avro"),
        ],
    )
    def test_is_who_has_no_right_to_push_there(
        self, refusing: tuple[Served, httpx.Client], path: str, token: str, status: int, what: str
    ) -> None:
        installed, client = refusing
        method = "GET" if path == "/v1/status" else "POST"
        answer = client.request(
            method, path, content=lines(bulk(1)), headers={"authorization": f"Bearer {token}".strip()}
        )
        assert (answer.status_code, what in answer.json()["error"]) == (status, True)
        assert installed.files() == []

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 422),
            (b" \n\n", 422),
            (b"[]", 422),
            (b'[{"a": "' + SECRET.encode(), 422),
            (b'[{"a": 1} {"b": 2}]', 422),
            (b'[{"a": 1}] {"b": 2}', 422),
            (b"[" * 100_000, 422),
            (b'["\xff"]', 422),
            (b"\x1f\x8b\x08 packed", 422),
            (b"Obj\x01 avro", 422),
            (b"[" + b"1," * MOST_EVENTS + b"1]", 413),
            (b"x\n" * (1 << 20), 413),
        ],
        ids=range(12),
    )
    def test_is_a_body_that_holds_no_events_or_too_many(
        self, refusing: tuple[Served, httpx.Client], body: bytes, status: int
    ) -> None:
        installed, client = refusing
        answer = client.post(API, content=body)
        assert (answer.status_code, SECRET in answer.text) == (status, False)
        assert "nothing of it was kept" in answer.json()["error"]
        assert installed.files() == []

    def test_is_a_packed_or_endless_body_and_another_method(self, refusing: tuple[Served, httpx.Client]) -> None:
        installed, client = refusing
        assert client.post(API, content=b"x", headers={"content-encoding": "gzip"}).status_code == 415
        assert client.post(API, content=b" " * ((32 << 20) + 1)).status_code == 413
        answer = client.get(API)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert installed.files() == []

    def test_is_one_token_of_two_sources(self) -> None:
        services = PushServices(receiver=None, ping=lambda: None, statuses=lambda now: [])  # type: ignore[arg-type]
        with pytest.raises(PushTokensError):
            push_app(services, {"jp": "same"}, request_tokens={"api": "same"})

    def test_is_a_full_disk_with_try_again(self, refusing: tuple[Served, httpx.Client]) -> None:
        installed, client = refusing
        installed.landing.parent.mkdir(parents=True, exist_ok=True)
        installed.landing.write_text("a file where the folder should be")
        try:
            answer = client.post(API, content=lines(bulk(1)))
        finally:
            installed.landing.unlink()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert str(installed.landing) not in answer.text


@pytest.fixture(scope="class")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, httpx.Client]]:
    """Serve an installation without a database: nothing that is refused needs one."""
    folder = tmp_path_factory.mktemp("refusing")
    installed = Served(folder, write_catalog(folder / "catalog"), Database(""))
    with connected(installed) as client:
        yield installed, client


class TestToken:
    def test_is_in_the_variable_that_the_source_names_and_never_in_an_error(self, tmp_path: Path) -> None:
        entry = '[[source]]\nname = "api"\nlanding = "a"\nprofile = "billable_request_json"\ntoken_env = "{}"\n'
        (tmp_path / "sources.toml").write_text(entry.format("API_TOKEN"))
        sources = load_sources(tmp_path)
        assert request_push_tokens(sources, {"API_TOKEN": "a token\n"}) == {"api": "a token"}
        assert request_push_tokens([*sources, replace(sources[0], token_env="")], {}) == {}
        (tmp_path / "sources.toml").write_text(entry.format("s3cret-token"))
        with pytest.raises(SourcesError, match="token_env") as refused:
            load_sources(tmp_path)
        assert "s3cret" not in str(refused.value)


_KILLED_AT = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from resources.request_receipts import RequestReceiver
from resources.source_config import load_sources
folder, step, now = Path(sys.argv[1]), int(sys.argv[2]), datetime.fromisoformat(sys.argv[3])
left = step
def dying(work):
    def done(*arguments):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return work(*arguments)
    return done
os.fchmod, os.fsync, os.replace = dying(os.fchmod), dying(os.fsync), dying(os.replace)
receiver = RequestReceiver(str(folder / "landing"), load_sources(folder / "catalog"), folder / "scratch")
receiver.receive("api", (folder / "body").read_bytes(), received_at=now)
"""


class TestKeeping:
    @pytest.mark.parametrize("step", [0, 1, 2, 3, 5])
    def test_when_killed_at_any_step_and_tried_again_keeps_one_file(self, tmp_path: Path, step: int) -> None:
        """Before the mode, the bytes, the name, the first folder, and among the folders."""
        body = lines(bulk(3))
        (tmp_path / "body").write_bytes(body)
        sources = load_sources(write_catalog(tmp_path / "catalog"))
        landing, scratch = tmp_path / "landing", tmp_path / "scratch"
        arguments = [sys.executable, "-c", _KILLED_AT, str(tmp_path), str(step), NOW.isoformat()]
        died = subprocess.run(arguments, cwd=PROJECT_ROOT, check=False, capture_output=True)
        assert died.returncode == -9
        kept = RequestReceiver(str(landing), sources, scratch).receive("api", body, received_at=NOW)
        assert kept.duplicate == (step > 2)
        found = list(Landing(str(landing), scratch).list("requests/api"))
        assert [file.key for file in found] == [kept.key]
        assert (landing / kept.key).read_bytes() == body

    @pytest.mark.parametrize(
        ("changes", "key"),
        [
            ({}, "requests/api/2026-03-04/pushed/"),
            ({"landing": ""}, "2026-03-04/pushed/"),
            ({"delivery_day": "modified"}, "requests/api/2026-03-04/pushed/"),
        ],
    )
    def test_puts_the_file_where_its_source_finds_it(self, tmp_path: Path, changes: dict[str, Any], key: str) -> None:
        source: SourceConfig = api_source(load_profile("nginx_json"), **changes)
        kept = RequestReceiver(str(tmp_path), [source], tmp_path / "s").receive("api", b"{}", received_at=NOW)
        assert kept.key.startswith(key)
        (file,) = Landing(str(tmp_path), tmp_path / "s").list(source.landing)
        assert source.owns(file)
        if source.delivery_day == "key":
            assert source.delivery_day_of(file) == NOW.date()

    def test_keeps_objects_in_a_bucket_as_well(self, s3: Any, tmp_path: Path) -> None:
        url = "s3://logs/landing"
        receiver = RequestReceiver(url, [api_source()], tmp_path / "scratch")
        first, again = (
            receiver.receive("api", lines(bulk(3)), received_at=NOW + timedelta(days=days)) for days in (0, 1)
        )
        assert (first.duplicate, again.duplicate, again.key) == (False, True, first.key)
        landing = Landing(url, tmp_path / "scratch")
        assert [file.key for file in landing.list("requests/api/")] == [first.key]
        with landing.fetched(first.key) as path:
            assert path.read_bytes() == lines(bulk(3))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


class TestEventLines:
    @given(
        events=st.lists(JSON, min_size=1, max_size=6),
        indent=st.sampled_from([None, 0, 2]),
        mark=st.sampled_from([b"", b"\xef\xbb\xbf", b" \n"]),
    )
    def test_of_an_array_are_its_elements_in_order(self, events: list[Any], indent: int | None, mark: bytes) -> None:
        body = json.dumps(events, indent=indent, ensure_ascii=False).encode(errors="surrogatepass")
        try:
            body.decode()
        except UnicodeDecodeError:
            with pytest.raises(NoEventsError):
                event_lines(mark + body)
            return
        content, count = event_lines(mark + body)
        assert count == len(events)
        assert [json.loads(line) for line in content.decode().removesuffix("\n").split("\n")] == events

    @given(body=st.binary(max_size=60).filter(lambda body: b"[" not in body))
    def test_of_lines_are_the_body_itself_and_every_line_that_is_not_blank_counts(self, body: bytes) -> None:
        inked = sum(1 for line in body.split(b"\n") if line.strip())
        if not inked:
            with pytest.raises(NoEventsError):
                event_lines(body)
        else:
            assert event_lines(body) == (body, inked)

    def test_keep_numbers_and_repeated_keys_as_they_were_written(self) -> None:
        body = b'[{"a":1.10,"a":' + b"9" * 5000 + b'},\r\n{"b":[1,\r\n2]}\n]'
        content, count = event_lines(body)
        assert (content, count) == (b'{"a":1.10,"a":' + b"9" * 5000 + b'}\n{"b":[1,  2]}\n', 2)

    def test_are_at_most_a_thousand(self) -> None:
        assert event_lines(b"{}\n\n" * MOST_EVENTS)[1] == MOST_EVENTS
        assert event_lines(b"[" + b",".join([b"{}"] * MOST_EVENTS) + b"]")[1] == MOST_EVENTS
        with pytest.raises(TooManyEventsError):
            event_lines(b"{}\n\n" * MOST_EVENTS + b"{}")
