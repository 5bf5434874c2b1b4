"""Real logs of five sites through the store: every line accounted for, counts equal to counts made with plain tools.

The counts here know nothing of this project's parsers, templates or profiles. One reads JSON in Python, splits strings and has its
own patterns; one is of gzip, sed, awk, sort and uniq; and the five raw logs, of which the normalised file was made, are counted
by day and status. Skips without the data.
"""

import gzip
import hashlib
import hmac
import json
import os
import re
import subprocess
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


# The same counts by a shell's tools: no JSON parser, no regular expressions of Python, templates by the names in a path.
PLAIN_PATH = r"""
function is_plain(path) {
    # escapes that are none, of controls and of what is no UTF-8; steps up; no path at all
    return path ~ /^\// && path !~ /%([^0-9A-Fa-f]|$)/ && path !~ /%.([^0-9A-Fa-f]|$)/ && path !~ /%[01]/ && path !~ /%7[Ff]/ \
        && path !~ /%[C-Fc-f].([^%]|%[^89ABab]|$)/ && path !~ /\/\.\.?(\/|$)/
}
"""
WEB_AWK = r"""
function template(path,    parts, n) {
    sub(/[?#].*/, "", path)
    if (!is_plain(path)) return "unmatched"
    if (path == "/" || path == "/favicon.ico" || path == "/robots.txt" || path == "/erddap/subscriptions/add.html") return path
    if (path == "/erddap/version" || path == "/api/dashboard") return path
    n = split(path, parts, "/")
    if (parts[2] == "api" && parts[3] == "dashboard" && parts[4] != "") {
        if (n == 4) return "/api/dashboard/{dashboard_id}"
        if (n == 5 && parts[5] == "ping") return "/api/dashboard/{dashboard_id}/ping"
        if (n == 6 && parts[5] == "wobs" && parts[6] != "") return "/api/dashboard/{dashboard_id}/wobs/{wob_id}"
    }
    if (parts[2] == "erddap" && parts[3] == "tabledap" && n == 4 && parts[4] != "") return "/erddap/tabledap/{dataset}"
    if (n > 2 && parts[2] ~ /^(erddap|images|shuttle|history|blog|presentations|projects|articles|socket\.io)$/)
        return "/" parts[2] "/{rest:path}"
    return "unmatched"
}
{
    status = $0
    sub(/.*"status": /, "", status)
    print $12, substr($8, 1, 10), substr(status, 1, 3), template($20)
}
"""
NGINX_AWK = r"""
function template(path,    parts, n) {
    sub(/[?#].*/, "", path)
    if (!is_plain(path)) return "unmatched"
    if (path ~ /^\/(login|socket\.io\/1\/)?$/) return path
    if (path ~ /^\/api\/(account\/signup|dashboard|dashboard\/permission|explore|geocode|organization)$/) return path
    n = split(path, parts, "/")
    is_dashboard = parts[2] == "api" && parts[3] == "dashboard" && parts[4] != ""
    if (is_dashboard && (n == 4 || parts[5] == "ping" && n == 5 || parts[5] == "wobs")) {
        parts[4] = "{dashboard_id}"
        if (n > 5 && parts[6] != "") parts[6] = "{wob_id}"
        path = "/api/dashboard"
        for (i = 4; i <= n; i++) path = path "/" parts[i]
        if (n < 6 || parts[6] == "{wob_id}" && (n == 6 || parts[7] == "widget" && n == 7)) return path
    }
    if (parts[2] == "socket.io" && parts[3] == "1" && n == 5 && parts[4] != "" && parts[5] != "")
        return "/socket.io/1/{transport}/{session_id}"
    if (n > 2 && parts[2] ~ /^(camo|images)$/) return "/" parts[2] "/{rest:path}"
    return "unmatched"
}
{
    split($16, request, " ")
    # five hours behind UTC, on a day and the night after it
    day = substr($12, 1, 2) + (substr($12, 13, 2) + 5 >= 24)
    print $(NF - 1), $4, $(NF - 5), "2013-11-" day, $20, template(request[2])
}
"""
# UTC day and status of each request in the five raw logs of which the normalised file was made, before anybody had read them.
RAW_LOGS = r"""
    gzip -dc semicomplete_apache_2015.log.gz | sed -E 's/^.* \[([0-9]+)\/May\/2015:[^]]* \+0000\] ".*" ([0-9]{3}) [0-9-]+ ".*$/2015-05-\1\t\2/'
    gzip -dc nasa_http_1995-08-01.tsv.gz | awk -F'\t' 'NR > 1 { printf "1995-08-%02d\t%s\n", 1 + int(($3 - 807235200) / 86400), $6 }'
    gzip -dc nasa_http_1995-07-01_insight.log.gz | sed -E 's/^.* \[01\/Jul\/1995:0[0-3]:[^]]* -0400\] .* ([0-9]{3}) [0-9-]+ *$/1995-07-01\t\1/'
    gzip -dc spider_api_nginx_2013.jsonl.gz | awk -F'"' '{ print "2013-11-" substr($12, 1, 2) + (substr($12, 13, 2) + 5 >= 24) "\t" $20 }'
    cat erddap_tomcat-access.log.? | sed -nE 's/^.* \[([0-9]+)\/May\/2024:[^]]* \+0000\] "[^"]*" ([0-9]{3}) .*$/2024-05-\1\t\2/p'
"""  # noqa: E501


def counted_by_shell(script: str, folder: Path) -> Counter[tuple[str, ...]]:
    """Return how often a script prints each line, cut at tabs."""
    done = subprocess.run(
        ["sh", "-c", f"({script}) | sort | uniq -c"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    counts = (line.lstrip().partition(" ") for line in done.stdout.splitlines())
    return Counter({tuple(words.split("\t")): int(count) for count, _, words in counts})


def awk_over(name: str, program: str) -> str:
    return f"gzip -dc {name} | awk -F'\"' -v OFS='\\t' '{PLAIN_PATH}{program}'"


def groups_of_nginx(folder: Path) -> Counter[Group]:
    """Return the groups of the nginx log by the shell. A caller is known by three fields, and billed under their keyed hash."""
    groups: Counter[Group] = Counter()
    for (*caller, day, status, name), count in counted_by_shell(
        awk_over("spider_api_nginx_2013.jsonl.gz", NGINX_AWK), folder
    ).items():
        client = "c_" + hmac.new(KEY, "\x1f".join(caller).encode(), hashlib.sha256).hexdigest()[:16]
        groups[client, date.fromisoformat(day), int(status), name] += count
    return groups


def groups_of_the_web(folder: Path) -> Counter[Group]:
    """Return the groups of the normalised file by the shell."""
    counts = counted_by_shell(awk_over("real_requests_normalised.jsonl.gz", WEB_AWK), folder)
    return Counter(
        {(client, date.fromisoformat(day), int(status), name): n for (client, day, status, name), n in counts.items()}
    )


LineGroup = Callable[[dict[str, Any]], tuple[Group, int, int]]
REAL_LOGS: Mapping[str, tuple[str, int, LineGroup, Callable[[Path], Counter[Group]]]] = {
    "spider_api_nginx_2013.jsonl.gz": ("nginx_json", 10_049, nginx_group, groups_of_nginx),
    "real_requests_normalised.jsonl.gz": ("web_requests_json", 84_171, web_group, groups_of_the_web),
}


class TestRealLogs:
    @pytest.mark.parametrize("name", REAL_LOGS)
    def test_give_the_counts_that_plain_tools_give(
        self, real_data: Path, database: Database, tmp_path: Path, name: str
    ) -> None:
        profile, line_count, group_of, groups_by_shell = REAL_LOGS[name]
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
        taken = Counter(deliveries.lake_rows(columns))
        assert taken == expected
        assert taken == groups_by_shell(log.parent)
        # no line is another line's: each position is there once
        assert deliveries.lake_rows("line_number") == [(number,) for number in range(1, line_count + 1)]
        if name == "real_requests_normalised.jsonl.gz":
            assert Counter(deliveries.lake_rows("event_at::date::text, status_code::text")) == counted_by_shell(
                RAW_LOGS, log.parent
            )
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
