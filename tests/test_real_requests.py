"""Real logs of five sites through the store: every line accounted for, counts equal to a count made with plain tools.

The count here knows nothing of this project's parsers, templates or profiles: it reads JSON, splits strings and has its own
patterns. Skips without the data.
"""

import gzip
import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import fastavro
import psycopg
import pytest

from resources.database import Database
from tests.request_files import KEY, Deliveries, api_source

DAY = date(2026, 3, 1)
NGINX_PATTERNS = {
    r"/": "/",
    r"/login": "/login",
    r"/api/account/signup": "/api/account/signup",
    r"/api/dashboard": "/api/dashboard",
    r"/api/dashboard/permission": "/api/dashboard/permission",
    r"/api/dashboard/[^/]+": "/api/dashboard/{dashboard_id}",
    r"/api/dashboard/[^/]+/ping": "/api/dashboard/{dashboard_id}/ping",
    r"/api/dashboard/[^/]+/wobs": "/api/dashboard/{dashboard_id}/wobs",
    r"/api/dashboard/[^/]+/wobs/[^/]+": "/api/dashboard/{dashboard_id}/wobs/{wob_id}",
    r"/api/dashboard/[^/]+/wobs/[^/]+/widget": "/api/dashboard/{dashboard_id}/wobs/{wob_id}/widget",
    r"/api/explore": "/api/explore",
    r"/api/geocode": "/api/geocode",
    r"/api/organization": "/api/organization",
    r"/socket\.io/1/": "/socket.io/1/",
    r"/socket\.io/1/[^/]+/[^/]+": "/socket.io/1/{transport}/{session_id}",
    r"/camo/.*": "/camo/{rest:path}",
    r"/images/.*": "/images/{rest:path}",
}
WEB_PATTERNS = {
    r"/": "/",
    r"/favicon\.ico": "/favicon.ico",
    r"/robots\.txt": "/robots.txt",
    r"/api/dashboard": "/api/dashboard",
    r"/api/dashboard/[^/]+": "/api/dashboard/{dashboard_id}",
    r"/api/dashboard/[^/]+/ping": "/api/dashboard/{dashboard_id}/ping",
    r"/api/dashboard/[^/]+/wobs/[^/]+": "/api/dashboard/{dashboard_id}/wobs/{wob_id}",
    r"/erddap/subscriptions/add\.html": "/erddap/subscriptions/add.html",
    r"/erddap/version": "/erddap/version",
    r"/erddap/tabledap/[^/]+": "/erddap/tabledap/{dataset}",
    **{
        rf"/{name}/.*": f"/{name}/{{rest:path}}"
        for name in ("erddap", "images", "shuttle", "history", "blog", "presentations", "projects", "articles")
    },
    r"/socket\.io/.*": "/socket.io/{rest:path}",
}
# client, day, status, template
Group = tuple[str, date, int, str]


def template(path: str, patterns: Mapping[str, str]) -> str:
    """Return the template of a path by this file's own patterns."""
    path = re.split(r"[?#]", path, maxsplit=1)[0]
    if re.search(r"%(?![0-9a-fA-F]{2})", path):
        return "unmatched"
    try:
        path = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return "unmatched"
    if {".", ".."} & set(path.split("/")) or re.search(r"[\x00-\x1f\x7f]", path):
        return "unmatched"
    return next((name for pattern, name in patterns.items() if re.fullmatch(pattern, path)), "unmatched")


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line, parse_float=Decimal)


def nginx_group(line: dict[str, Any]) -> tuple[Group, int, int]:
    """Return the group, microseconds and bytes of a line of the nginx log."""
    caller = "\x1f".join([line["http_x_forwarded_for"], line["remote_addr"], line["http_user_agent"]])
    client = "c_" + hmac.new(KEY, caller.encode(), hashlib.sha256).hexdigest()[:16]
    day = datetime.strptime(line["time_local"], "%d/%b/%Y:%H:%M:%S %z").astimezone(UTC).date()
    _, target, _ = line["request"].split(" ")
    group = (client, day, int(line["status"]), template(target, NGINX_PATTERNS))
    microseconds = int(Decimal(line["request_time"]) * 1_000_000) if line["request_time"] != "-" else 0
    return group, microseconds, int(line["body_bytes_sent"])


def web_group(line: dict[str, Any]) -> tuple[Group, int, int]:
    """Return the group, microseconds and bytes of a normalised line."""
    group = (line["client"], date.fromisoformat(line["ts"][:10]), line["status"], template(line["path"], WEB_PATTERNS))
    return group, int((line["response_time_ms"] or 0) * 1_000), line["bytes"] or 0


REAL_LOGS: Mapping[str, tuple[str, int, Callable[[dict[str, Any]], tuple[Group, int, int]]]] = {
    "spider_api_nginx_2013.jsonl.gz": ("nginx_json", 10_049, nginx_group),
    "real_requests_normalised.jsonl.gz": ("web_requests_json", 84_171, web_group),
}


class TestRealLogs:
    @pytest.mark.parametrize("name", REAL_LOGS)
    def test_give_the_counts_that_plain_tools_give(
        self, real_data: Path, database: Database, tmp_path: Path, name: str
    ) -> None:
        profile, line_count, group_of = REAL_LOGS[name]
        log = real_data / "data/requests" / name
        deliveries = Deliveries(database, tmp_path, [api_source(profile)])
        deliveries.deliver(f"requests/api/{DAY}/{name}", log.read_bytes())
        deliveries.ingest()

        expected: Counter[Group] = Counter()
        microseconds = response_bytes = 0
        for line in lines_of(log):
            group, time, size = group_of(line)
            expected[group] += 1
            microseconds += time
            response_bytes += size
        assert expected.total() == line_count
        assert deliveries.manifest()[name] == ("accepted", None, line_count, line_count, 0, 0, 0)

        columns = "client_id, event_at::date, status_code, endpoint"
        assert Counter(deliveries.lake_rows(columns)) == expected
        rows = deliveries.lake_rows("response_time_us, response_bytes")
        assert sum(time or 0 for time, _ in rows) == microseconds
        assert sum(size or 0 for _, size in rows) == response_bytes
        by_day: Counter[date] = Counter()
        for (_, day, _, _), count in expected.items():
            by_day[day] += count
        assert dict(deliveries.rows("select event_day, accepted_rows from core.source_file_day")) == by_day
        assert sum(count for group, count in expected.items() if group[3] == "unmatched") < line_count // 2


class TestSyntheticPeople:
    def test_in_avro_files_of_another_record_leave_no_trace(
        self, real_data: Path, database: Database, tmp_path: Path
    ) -> None:
        deliveries = Deliveries(database, tmp_path, [api_source("billable_request_avro")])
        people = sorted((real_data / "data/avro").glob("*userdata*.avro"))
        assert len(people) == 5
        secrets: set[str] = set()
        for path in people:
            deliveries.deliver(f"requests/api/{DAY}/{path.name}", path.read_bytes())
            with path.open("rb") as file:
                for record in fastavro.reader(file):
                    secrets |= {
                        str(record[name]) for name in ("email", "ip_address", "cc", "last_name") if record[name]
                    }
        assert len(secrets) > 5_000
        deliveries.ingest()
        assert {status[:3] for status in deliveries.manifest().values()} == {("rejected", "schema_incompatible", 0)}
        assert deliveries.lake_rows() == []
        kept = []
        with psycopg.connect(database.url) as connection:
            for table in ("core.source_file", "core.quarantine", "guards.verdict", "core.lake_generation"):
                kept += connection.execute(f"select whole::text from {table} as whole".encode()).fetchall()
        text = "\n".join(row[0] for row in kept)
        assert [secret for secret in secrets if len(secret) > 5 and secret in text] == []
