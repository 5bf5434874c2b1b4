"""Law 10: personal data that stands in deliveries is in no table, lake file, log, message or leftover afterwards."""

import gzip
import json
import logging
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow.parquet as pq
import pytest
from psycopg import sql

from resources import request_reader
from resources.database import Database
from resources.request_reader import BulkReadError
from tests.request_files import (
    API_REQUEST,
    AS_OF,
    AVRO_SCHEMA,
    NGINX_REQUEST,
    WEB_REQUEST,
    Deliveries,
    api_line,
    api_source,
    avro_bytes,
    avro_fields,
    avro_request,
    day_key,
    json_line,
)

DAY = date(2026, 3, 1)
# Each is found nowhere in the project, so that a hit is a leak.
EMAIL = "jane.quuxfield@example.org"
NAME = "Jane Quuxfield"
ADDRESS = "203.0.113.177"
ADDRESS_6 = "2001:db8::dead:77"
VIN = "WVWZZZ1JZXW386752"
CARD = "4111111111111111"
BEARER = "eyJhbGciOiJIUzI1NiJ9.quux.c2ln"
AGENT = "QuuxBrowser/9.1 (Jane)"
PATH_ID = "36ab27d0-fd9d-4455-823a-ce30af709ffc"
QUERY_TOKEN = "qt-8842-quux"
PLANTED = [EMAIL, NAME, ADDRESS, ADDRESS_6, VIN, CARD, BEARER, AGENT, PATH_ID, QUERY_TOKEN]
# Values that no identifier may look like; VIN, card and path id could be one, and a source that says so is believed.
NO_IDENTIFIERS = [EMAIL, NAME, ADDRESS, ADDRESS_6, BEARER, AGENT]
PERSON = {
    "email": EMAIL,
    "name": NAME,
    "remote_addr": ADDRESS,
    "nested": {"vin": VIN, "list": [ADDRESS_6, {"card": CARD}]},
    "authorization": f"Bearer {BEARER}",
    "user_agent": AGENT,
}
PRIVATE_PATH = f"/v2.0/vehicles/{PATH_ID}/odometer?token={QUERY_TOKEN}&email={EMAIL}&vin={VIN}"


def accepted_lines() -> list[bytes]:
    paths = [
        PRIVATE_PATH,
        f"/users/{EMAIL}",
        f"/cards/{CARD}",
        f"https://{ADDRESS}/{VIN}",
        f"/%zz/{PATH_ID}",
        f"/../{VIN}",
    ]
    return [
        api_line(request_id=f"good-{number}", endpoint=path, **PERSON) for number, path in enumerate(paths, 1)
    ]  # fmt: skip


def refused_lines() -> list[bytes]:
    good = api_line(endpoint=PRIVATE_PATH, **PERSON)
    everywhere = [
        api_line(**{field: value}) for field in API_REQUEST for value in NO_IDENTIFIERS if field != "endpoint"
    ]
    return [
        *everywhere,
        api_line(request_id="shape-1", endpoint=[EMAIL]),
        api_line(request_id="shape-2", timestamp={"at": EMAIL}),
        api_line(request_id="\ud800" + EMAIL),
        good[:-20] + b"\n",
        good.replace(b'"', b"'"),
        good.replace(b"{", b'{"client_id": "' + EMAIL.encode() + b'", ', 1),
        good.replace(b"Jane", b"J\xe9ne" + NAME.encode()),
        good.replace(b"Jane", b"\0" + NAME.encode()),
        api_line(ignored="x" * 1_100_000, email=EMAIL),
        json.dumps({"email": EMAIL, "deep": 1}).encode().replace(b"1", b"[" * 40 + b"]" * 40) + b"\n",
        f"{NAME} <{EMAIL}> {ADDRESS} {BEARER} {AGENT}\n".encode(),
        f'["{EMAIL}"]\n'.encode(),
        good[: len(good) // 2],
    ]


def deliver_everything(deliveries: Deliveries) -> None:
    """Put personal data into every kind of file and every place in it."""
    files: dict[str, bytes] = {
        "mixed.jsonl": b"".join(accepted_lines() + refused_lines()),
        "truncated.jsonl.gz": gzip.compress(b"".join(accepted_lines()) * 200)[:-9],
        "utf16.jsonl": b"".join(accepted_lines()).decode().encode("utf-16"),
        "binary.jsonl": bytes(range(32)) * 40 + " ".join(PLANTED).encode(),
        "wrong_profile.jsonl": (json.dumps(PERSON) + "\n").encode() * 1_200,
        "nested.jsonl.gz": gzip.compress(gzip.compress(b"".join(accepted_lines()))),
        "avro_among_lines.jsonl": avro_bytes([avro_request(endpoint=PRIVATE_PATH)]),
    }
    for name, content in files.items():
        deliveries.deliver(day_key(DAY, name), content)
    private = {
        "remote_addr": ADDRESS,
        "http_user_agent": AGENT,
        "http_x_forwarded_for": ADDRESS_6,
        "http_referer": f"https://x/{EMAIL}",
        "request": f"GET /api/dashboard/{PATH_ID}/ping?_={QUERY_TOKEN} HTTP/1.1",
    }
    deliveries.deliver(
        day_key(DAY, "a.jsonl", "nginx"),
        json_line(NGINX_REQUEST, **private)
        + json_line(NGINX_REQUEST, remote_addr=ADDRESS, request=f"{EMAIL} {VIN}")
        + json_line(NGINX_REQUEST, remote_addr=[ADDRESS], http_user_agent=AGENT)
        + json_line(NGINX_REQUEST, remote_user=NAME, http_user_agent="J\u00e9 " + AGENT),
    )
    deliveries.deliver(
        day_key(DAY, "a.jsonl", "web"),
        json_line(WEB_REQUEST, path=f"/erddap/tabledap/{PATH_ID}?{QUERY_TOKEN}")
        + json_line(WEB_REQUEST, path=f"/images/{EMAIL}", source=ADDRESS)
        + json_line(WEB_REQUEST, client=EMAIL),
    )
    person = {"email": EMAIL, "vin": VIN, "user_agent": AGENT}
    records = [
        avro_request(1, endpoint=PRIVATE_PATH, **person),
        avro_request(2, client_id=EMAIL, **person),
        avro_request(3, method=NAME, **person),
    ]
    good = avro_bytes(records, avro_fields(**dict.fromkeys(person, "string")))
    deliveries.deliver(day_key(DAY, "a.avro", "avro"), good)
    deliveries.deliver(day_key(DAY, "cut.avro", "avro"), good[:-30])
    other = {
        **AVRO_SCHEMA,
        "name": "Person",
        "doc": EMAIL,
        "fields": [{"name": "email", "type": "string", "doc": NAME}],
    }
    deliveries.deliver(day_key(DAY, "other.avro", "avro"), avro_bytes([{"email": EMAIL}], other))
    kinds = {"type": "enum", "name": "Kind", "symbols": ["Quuxfield", VIN]}
    enum = avro_bytes([avro_request(is_real_vehicle=VIN)], avro_fields(is_real_vehicle=kinds))
    deliveries.deliver(day_key(DAY, "enum.avro", "avro"), enum)


SOURCES = [
    api_source(),
    api_source("nginx_json", name="nginx", landing="requests/nginx"),
    api_source("web_requests_json", name="web", landing="requests/web"),
    api_source("billable_request_avro", name="avro", landing="requests/avro"),
]


@pytest.fixture
def deliveries(database: Database, tmp_path: Path) -> Deliveries:
    return Deliveries(database, tmp_path, SOURCES)


def leaks(text: str) -> list[str]:
    """Return what is in `text`, in any case and with the escapes of JSON and URLs."""
    folded = text.lower()
    return [
        value
        for value in PLANTED
        for form in {value, value.replace("@", "%40"), json.dumps(value)[1:-1], value.replace(" ", "%20")}
        if form.lower() in folded
    ]


def every_table(database: Database) -> Iterator[tuple[str, str]]:
    """Yield each table's name and all of its rows as text."""
    with psycopg.connect(database.url) as connection:
        tables = connection.execute(
            "select table_schema, table_name from information_schema.tables"
            " where table_schema not in ('pg_catalog', 'information_schema')"
        ).fetchall()
        for schema, table in tables:
            rows = connection.execute(
                sql.SQL("select whole::text from {} as whole").format(sql.Identifier(schema, table))
            ).fetchall()
            yield f"{schema}.{table}", "\n".join(row[0] for row in rows)


class TestPersonalData:
    def test_is_nowhere_after_ingest(
        self, deliveries: Deliveries, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.DEBUG)
        deliver_everything(deliveries)
        found = deliveries.store.discover(seen_at=AS_OF)
        progress: list[Any] = []
        done = deliveries.store.ingest_days(
            found.delivery_days, run_id="run", code_version="test", on_progress=lambda *said: progress.append(said)
        )

        statuses = deliveries.rows("select status, count(*) from core.source_file group by 1 order by 1")
        assert statuses == [("accepted", 4), ("rejected", 9)]
        assert len(deliveries.lake_rows()) == len(accepted_lines()) + 2 + 2 + 1
        ((quarantined,),) = deliveries.rows("select count(*) from core.quarantine")
        assert quarantined >= len(refused_lines())

        for name, text in every_table(deliveries.database):
            assert leaks(text) == [], name
        files = [path for folder in (deliveries.lake_dir, deliveries.scratch_dir) for path in folder.rglob("*")]
        for path in files:
            if path.is_file():
                assert leaks(path.read_bytes().decode("latin-1")) == [], path
        for path in deliveries.lake_dir.rglob("*.parquet"):
            table = pq.read_table(path)
            assert leaks(repr(table.to_pylist()) + repr(table.schema.metadata)) == []
        output = capfd.readouterr()
        for text in (
            caplog.text,
            output.out,
            output.err,
            repr(found),
            repr(done),
            repr(progress),
            repr(deliveries.store),
        ):
            assert leaks(text) == []

    def test_is_found_by_this_test_where_it_is(self, deliveries: Deliveries) -> None:
        deliver_everything(deliveries)
        delivered = b"".join(path.read_bytes() for path in deliveries.landing_dir.rglob("*") if path.is_file())
        assert set(leaks(delivered.decode("latin-1"))) == set(PLANTED)

    def test_is_in_no_message_when_the_work_fails(
        self, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def out_of_disk(*_: object, **__: object) -> None:
            raise duckdb.IOException(f"could not write {EMAIL} {ADDRESS}")

        monkeypatch.setattr(request_reader._Reading, "_run", out_of_disk)
        deliver_everything(deliveries)
        deliveries.store.discover(seen_at=AS_OF)
        with pytest.raises(BulkReadError) as caught:
            deliveries.store.ingest_days([DAY], run_id="run", code_version="test")
        chain: BaseException | None = caught.value
        while chain is not None:
            assert leaks(repr(chain)) == []
            chain = chain.__cause__ or chain.__context__
        assert leaks(caplog.text) == []
        assert deliveries.rows("select count(*) from core.lake_generation") == [(0,)]

    def test_of_a_caller_is_hashed_with_a_key_so_that_it_cannot_be_guessed(
        self, database: Database, tmp_path: Path
    ) -> None:
        names = []
        for number, key in enumerate((b"one key", b"another key", b"one key")):
            source = api_source("nginx_json", name=f"nginx{number}", landing=f"in/{number}")
            deliveries = Deliveries(database, tmp_path, [source], key=key)
            deliveries.deliver(
                f"in/{number}/2026-03-0{number + 1}/a.jsonl", json_line(NGINX_REQUEST, remote_addr=ADDRESS)
            )
            deliveries.ingest()
            names.append(deliveries.lake_rows("client_id", date(2026, 3, number + 1)))
        assert names[0] == names[2]
        assert names[0] != names[1]
