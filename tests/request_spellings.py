"""Lines of requests in every spelling, odd tokens in every field, and files of them, drawn at random."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from billing_pipeline.sources.profile import FlagField, SourceProfile, load_profile, parse_profile
from billing_pipeline.sources.request_lines import METHODS
from tests.request_files import (
    API_REQUEST,
    NGINX_REQUEST,
    WEB_REQUEST,
)

# Every field kind that a profile can have, and optional fields beside each other.
EVERY_KIND = parse_profile(
    b"""
name = "every_kind"
version = 1
description = "nested paths, epoch, scope, optional numbers"
framing = "lines"
endpoints = ["/items/{item_id:int}", "/items/{item_id}", "/files/{rest:path}"]
[fields]
event_id = { path = "meta.id" }
event_at = { path = "meta.at", layout = "epoch_ms" }
client_id = { path = "who", pattern = "[a-z0-9]{1,8}" }
method = { path = "http.method" }
path = { path = "http.path" }
status_code = { path = "http.status" }
response_time = { path = "took", unit = "us", optional = true }
response_bytes = { path = "http.size", optional = true, nullable = true, null_tokens = ["-"] }
simulated = { path = "mode.sandbox", simulated_when = true }
scope = { path = "kind", values = ["request", "retry"] }
""",
    origin="every_kind.toml",
)
EVERY_KIND_REQUEST: Mapping[str, Any] = {
    "kind": "request",
    "meta": {"id": "e1", "at": 1767225600123},
    "who": "acme",
    "http": {"method": "GET", "path": "/items/12", "status": 204, "size": 5},
    "took": 7,
    "mode": {"sandbox": False},
}
EPOCH_SECONDS = parse_profile(
    b"""
name = "epoch_seconds"
version = 1
description = "decimal seconds, position as identity"
framing = "lines"
endpoints = ["/a"]
[fields]
event_at = { path = "t", layout = "epoch_s" }
client_id = { path = "c", pattern = "[^@]{2,8}|ab.|x[^y]" }
method = { path = "m" }
path = { path = "p" }
status_code = { path = "s", quoted = true }
""",
    origin="epoch_seconds.toml",
)
PROFILES: Mapping[str, tuple[SourceProfile, Mapping[str, Any]]] = {
    "billable_request_json": (load_profile("billable_request_json"), API_REQUEST),
    "nginx_json": (load_profile("nginx_json"), NGINX_REQUEST),
    "web_requests_json": (load_profile("web_requests_json"), WEB_REQUEST),
    "every_kind": (EVERY_KIND, EVERY_KIND_REQUEST),
    "epoch_seconds": (EPOCH_SECONDS, {"t": 1767225600, "c": "acme", "m": "GET", "p": "/a?b", "s": "200"}),
}
ODD_NUMBERS = r"""
0 1 99 100 200 599 600 1000 -1 -0 -0.0 0.0 200.0 2e2 2E+2 1e-7 0.1 0.5 0.0005 0.00049 1.0005 12.345678 3.14159265358979
0.30000000000000004 0.5005 0.0001245 0.00049999999999999999999 123456789.123 1234567890.1 999999999.999999
9007199254740993 9223372036854775807 9223372036854775808
18446744073709551616 12345678901234567890.5 1e30 1e400 -1e400 4.9e-324 1e308 01 00 +1 1. .5 1e 0x1f NaN nan -NaN Infinity
-Infinity inf INF null true false 1767225600 1767225600.5 1767225600.1234567 1767225600123 1767225600123456 253402300800
99999999999999 "5" "200" "0200" "2e2" "200.0" "-" "" "-0" "-1" "5.50" "1." ".5" "9007199254740993" "9223372036854775808"
1e99999999999999999999 -1E+99999999999999999999 1e-99999999999999999999 0e99999999999999999999
"0.004" "0.0000001" "29409.590" "\u0663" "null" [] {} [200] {"a":1}
"""
NUMBERS = [*ODD_NUMBERS.split(), "9" * 5_000, '"\u0663"', '" 5"', '"5 "']
ODD_TEXTS = r"""
acme 'acme' "acme" "a" "A-1_b" "" "-a" "_a" "a.b" "a@b.org" "203.0.113.9" "\u0061cme" "ac\/me" "a\"b" "a\\" "a\n" "a\u0000"
"\ud83d\ude00" "\ud800" null 12 true [] {} "request" "retry" "Request" "GET" "get" "G\u0045T" "PATCH" "BREW" "200" "ab" "abc" "xz"
"""
TEXTS = [
    *ODD_TEXTS.split(),
    '"\u00e9"',
    '"\u2028"',
    '"a b"',
    '" acme"',
    '"\x7f"',
    '"\x01"',
    '"\t"',
    f'"{"a" * 128}"',
    f'"{"a" * 129}"',
]
INSTANTS = [
    json.dumps(text)
    for text in (
        "2026-03-01T10:20:30Z",
        "2026-03-01T10:20:30.1Z",
        "2026-03-01T10:20:30.123456Z",
        "2026-03-01T10:20:30.1234567Z",
        "2026-03-01T10:20:30.123456789Z",
        "2026-03-01T10:20:30.1234567890Z",
        "2026-03-01T10:20:30.Z",
        "2026-03-01t10:20:30z",
        "2026-03-01 10:20:30Z",
        "2026-03-01T10:20:30+00:00",
        "2026-03-01T10:20:30+05:30",
        "2026-03-01T10:20:30-23:59",
        "2026-03-01T10:20:30+24:00",
        "2026-03-01T10:20:30+0100",
        "2026-03-01T10:20:30",
        "2026-03-01",
        "2026-03-01T10:20Z",
        "2026-03-01T24:00:00Z",
        "2026-03-01T23:59:60Z",
        "2016-12-31T23:59:60Z",
        "2016-12-31T23:59:60.5Z",
        "2017-01-01T00:59:60+01:00",
        "2026-02-29T00:00:00Z",
        "2024-02-29T00:00:00Z",
        "2026-00-10T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00Z",
        "1994-12-31T23:59:59.999999Z",
        "1995-01-01T00:00:00Z",
        "2026-03-05T12:05:00Z",
        "2026-03-05T12:05:00.000001Z",
        "9999-12-31T23:59:59Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "-2026-03-01T00:00:00Z",
        " 2026-03-01T00:00:00Z",
        "2026-03-01T00:00:00Z\n",
        "2026-03-01T10:20:30Z[UTC]",
        "2026-03-01T10:20:30 UTC",
        "2026-W09-7T00:00:00Z",
        "\u0662026-03-01T00:00:00Z",
        "now",
        "epoch",
        "infinity",
        "",
        "1767225600",
        "17/Nov/2013:06:31:32 -0500",
        "17/Nov/2013:06:31:32 +1359",
        "17/Nov/2013:06:31:32 +1400",
        "17/Nov/2013:06:31:32 +1459",
        "17/Nov/2013:06:31:32 -2359",
        "17/Nov/2013:06:31:32 +2400",
        "17/Nov/2013:06:31:32 +0060",
        "17/nov/2013:06:31:32 -0500",
        "17/NOV/2013:06:31:32 -0500",
        "17/Foo/2013:06:31:32 -0500",
        "31/Nov/2013:06:31:32 -0500",
        "30/Jun/2012:23:59:60 +0000",
        "01/Jul/2012:01:59:60 +0200",
        "30/Jun/2013:23:59:60 +0000",
        "17/Nov/2013:06:31:32",
        "17/Nov/13:06:31:32 -0500",
        "01/Jan/1970:00:00:00 +0000",
        "01/Jan/1995:00:00:00 +0001",
        "05/Mar/2026:12:05:00 +0000",
        "05/Mar/2026:12:05:01 +0000",
        "31/Dec/9999:23:59:59 -0500",
        "01/Jan/0001:00:00:00 +0500",
    )
]
PATHS = [
    json.dumps(text)
    for text in (
        "/",
        "",
        "*",
        "/a",
        "/a?b",
        "/a?b=\u00e9",
        "/items/12",
        "/items/x1",
        "/items/12/",
        "/items/",
        "/items//",
        "/items/12%2F13",
        "/items/%31%32",
        "/items/%",
        "/items/%zz",
        "/items/%E9",
        "/items/%C3%A9",
        "/items/\u00e9",
        "/items/%00",
        "/items/%0a",
        "/items/a b",
        "/items/../x",
        "/items/..",
        "/items/.hidden",
        "/items/a.b",
        "/items/%2e%2e/x",
        "//items/12",
        "items/12",
        "/items/12#top",
        "/items/12?x#y",
        "/items/12;v=1",
        "/files/a/b/c",
        "/files/",
        "/files/a//b",
        "/FILES/a",
        "https://api.example.com/items/12?x",
        "HTTPS://api.example.com/items/12",
        "https://api.example.com",
        "/items/{item_id}",
        "/" + "a" * 8190,
        "/" + "a" * 8191,
        "/" + "a" * 8192,
        "/items/1?" + "q" * 9000,
        "/v2.0/vehicles/7/odometer",
        "/v2.0/vehicles/7/odometer/",
        "/v2.0/vehicles//odometer",
        "/v2.0/vehicles/",
        "/v2.0/vehicles/7/8/odometer",
        "/v2x0/vehicles/7/odometer",
        "/v2.0/vehicles",
        "/erddap/tabledap/x.csv?a,b&c>1",
        "/api/dashboard/x/ping?_=1",
        "/images/a\\b",
        "/images/a|b",
        '/images/"quoted"',
        "GET / HTTP/1.1",
        "GET /api/dashboard/x/ping?_=1 HTTP/1.1",
        "GET /api/dashboard/x HTTP/2",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /a b HTTP/1.1",
        "GET / FTP/1.1",
        "GET /",
        "get / HTTP/1.1",
        "GET /?q=a b HTTP/1.1",
        "GET /images/a\\x22 HTTP/1.1",
        "GET /images/%22?\\ HTTP/1.1",
        'GET /images/" HTTP/1.1',
        "-",
        "GET http://other/images/x HTTP/1.1",
        "GET /images/x HTTP/",
        "GET /images/x HTTP/\u00e9",
        "CONNECT host:443 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    )
] + ['"\\/items\\/12"', '"\\u002fitems/12"', '"/items/\\u0000"', "null", "12", "[]"]
FLAGS = ["true", "false", "null", '"false"', '"true"', "0", "1", "True", "FALSE", "[]", "{}", '""']
AGENTS = [
    '"Pingdom.com_bot_version_1.4"',
    '" Pingdom.com_bot"',
    '"Pingdom_com_bot"',
    '"\\u0050ingdom.com_bot"',
    '"\u00e9"',
]
# Tokens of a field that no profile names, and of a known key said a second time.
EXTRAS = [
    '"x"',
    "1",
    '{"a":[1,{"b":null}]}',
    "[1,2,]",
    '{"a":1,}',
    "[,]",
    "NaN",
    "-inf",
    "[Infinity,-NaN]",
    "inFinity",
    "1e999",
    "-1e99999999999999999999",
    "7" * 4_301,
    "01",
    "tru",
    '"\\u00e9 , } ] NaN"',
    '"\\x"',
    '"\\ud800"',
    '"\t"',
    '{"k":1,"k":2}',
    '{"client_id":"x","http":{"status":1}}',
    '{"a":1}{',
    "[" * 31 + "]" * 31,
    "[" * 32 + "]" * 32,
    '"' + "[" * 40 + '"',
    "/* c */ 1",
    "1 // c",
    "'x'",
    "",
    '"\u20ac"',
    '"\U0001f697"',
    '"' + "x" * 2000 + '"',
]
Tree = Mapping[str, Any]


def tokens_of(tree: Tree) -> dict[str, Any]:
    """Return `tree` with values as JSON text, objects inside kept as objects."""
    return {key: tokens_of(value) if isinstance(value, dict) else json.dumps(value) for key, value in tree.items()}


def spelled(tree: Tree, *, colon: str = ":", comma: str = ",", extra: Sequence[tuple[int, str]] = ()) -> str:
    """Return an object; `extra` are members written before the member at an index."""
    members = [
        f'"{key}"{colon}{spelled(value, colon=colon, comma=comma) if isinstance(value, dict) else value}'
        for key, value in tree.items()
    ]
    for index, member in extra:
        members.insert(min(index, len(members)), member)
    return "{" + comma.join(members) + "}"


def paths_of(tree: Tree, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from paths_of(value, f"{prefix}{key}.")
        yield prefix + key


def with_token(tree: Tree, path: str, token: str | None) -> dict[str, Any]:
    """Return `tree` with the token at `path` replaced, or removed."""
    head, _, rest = path.partition(".")
    changed = dict(tree)
    if rest:
        if isinstance(changed.get(head), dict):
            changed[head] = with_token(changed[head], rest, token)
    elif token is None:
        changed.pop(head, None)
    else:
        changed[head] = token
    return changed


def tokens_for(profile: SourceProfile, path: str) -> Sequence[str]:
    """Return the odd tokens that belong to a field."""
    fields = profile.fields
    if path == fields.event_at.path:
        return [*INSTANTS, *NUMBERS]
    if path in [spec.path for spec in (fields.path, fields.request_line) if spec is not None]:
        return PATHS
    numbers = [
        spec.path for spec in (fields.status_code, fields.response_time, fields.response_bytes) if spec is not None
    ]
    if path in numbers:
        return NUMBERS
    if fields.simulated is not None and path == fields.simulated.path:
        return [*FLAGS, *AGENTS, *TEXTS]
    return TEXTS


def odd_lines(profile: SourceProfile, base: Tree) -> list[bytes]:
    """Return the good line with each odd token in each field, each field missing or twice, and each whole-line damage."""
    tree = tokens_of(base)
    texts = [spelled(tree)]
    for path in paths_of(tree):
        texts += [spelled(with_token(tree, path, token)) for token in tokens_for(profile, path)]
        texts += [spelled(with_token(tree, path, None)), spelled(with_token(tree, path, "null"))]
        leaf = path.rpartition(".")[2]
        value = json.dumps(base[path]) if path in base else "1"
        texts += [
            spelled(tree, extra=[(index, f'"{key}":{value}')])
            for index, key in itertools.product(
                (0, 99), (leaf, f"\\u{ord(leaf[0]):04x}{leaf[1:]}", leaf.upper(), leaf + " ")
            )
        ]
        texts.append(spelled(with_token(tree, path, None)).replace("{", f'{{"{leaf.upper()}":{value},', 1))
    for index, token in itertools.product((0, 2, 99), EXTRAS):
        texts.append(spelled(tree, extra=[(index, f'"extra":{token}')]))
    good = spelled(tree)
    texts += [
        spelled(tree, colon=" : ", comma=" ,\t"),
        good.replace("}", ",}"),
        good.replace(",", ",,", 1),
        good.replace("{", "{,", 1),
        good.replace('"', "'"),
        good + " x",
        good + good,
        good + ",",
        f"[{good}]",
        f"  {good}  ",
        f"\x0b{good}",
        f"\ufeff{good}",
        f"\ufeff\ufeff{good}",
        f"{good}\ufeff",
        f"{good}\r",
        f"{good}\r\r",
        f"\r{good}",
        good[:-1],
        good[: len(good) // 2],
        "",
        "   ",
        "\t\r",
        "{}",
        "[]",
        "null",
        "1",
        '"text"',
        "# comment",
        "\x00",
        good.replace(":", "\x00:", 1),
        "\x00\x00" + good,
        spelled(tree, extra=[(0, f'"long":"{"x" * (profile.max_line_bytes - len(good) - 10)}"')]),
        spelled(tree, extra=[(0, f'"long":"{"x" * (profile.max_line_bytes - len(good) + 1)}"')]),
    ]
    lines = [text.encode("utf-8", "surrogatepass") for text in texts]
    binary = good.encode()
    lines += [
        binary.replace(b'"', b'"\xe9', 1),
        binary + b"\xff",
        b"\xff\xfe" + binary,
        binary.replace(b":", b':"\xed\xa0\x80",', 1),
        b"\xc3",
        b"\x85",
        b"\xc2\xa0",
        binary,
    ]
    return lines


def is_whole(line: bytes, base: Tree) -> bool:
    """Return whether a line is strict JSON with each field of `base` once: what the optimistic query does not fail on."""
    repeated = [False]

    def pairs_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        repeated.append(len(dict(pairs)) < len(pairs))
        return dict(pairs)

    if b"NaN" in line or b"nfinity" in line or rb"\ud800" in line or not line.isascii():
        return False
    try:
        tree = json.loads(line, object_pairs_hook=pairs_once)
    except (ValueError, RecursionError):
        return False
    return isinstance(tree, dict) and not any(repeated) and set(paths_of(base)) <= set(paths_of(tree))


NUMBER = st.from_regex(r"-?(0|[1-9][0-9]{0,21})(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
DURATION = st.decimals(min_value=0, max_value=10**10, places=6).map(str) | st.integers(0, 10**16).map(str)
RFC3339 = st.builds(
    lambda instant, digits, zone: json.dumps(f"{instant:%Y-%m-%dT%H:%M:%S}{digits}{zone}"),
    st.integers(631_152_000, 1_798_761_600).map(lambda second: datetime.fromtimestamp(second, UTC)),
    st.just("") | st.from_regex(r"\.[0-9]{1,10}", fullmatch=True),
    st.sampled_from(["Z", "z", "+00:00", "-03:30", "+23:59", "+0100", ""]),
)
NGINX = st.builds(
    lambda instant, zone: json.dumps(f"{instant:%d/%b/%Y:%H:%M:%S} {zone}"),
    st.integers(631_152_000, 1_798_761_600).map(lambda second: datetime.fromtimestamp(second, UTC)),
    st.from_regex(r"[+-][0-2][0-9][0-6][0-9]", fullmatch=True),
)
TEXT = st.text(max_size=6).map(json.dumps) | st.text(max_size=6).map(lambda text: json.dumps(text, ensure_ascii=False))
TARGET = (
    st.lists(
        st.sampled_from(["a", "..", ".", "", "%41", "%2F", "%C3%A9", "%9", "v2.0", "vehicles", "user", "é"]), max_size=5
    )
    .map("/".join)
    .map(lambda path: json.dumps("/" + path))
)


@st.composite
def lines_of(draw: st.DrawFn, name: str) -> bytes:
    """A line that is good, odd in up to three ways, or damaged."""
    profile, base = PROFILES[name]
    tree = tokens_of(base)
    paths = list(paths_of(tree))
    extra = []
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(paths))
        token = draw(
            st.sampled_from(tokens_for(profile, path))
            | NUMBER
            | DURATION
            | RFC3339
            | NGINX
            | TEXT
            | TARGET
            | st.just(None)
        )
        if draw(st.integers(0, 4)):
            tree = with_token(tree, path, token)
        else:
            key = draw(st.sampled_from([path.rpartition(".")[2], "extra"]))
            extra.append((draw(st.integers(0, 9)), f'"{key}":{token or draw(st.sampled_from(EXTRAS))}'))
    text = spelled(
        tree, colon=draw(st.sampled_from([":", ": ", "\t: "])), comma=draw(st.sampled_from([",", ", "])), extra=extra
    )
    line = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(line)))
        line = line[:place] + draw(st.binary(max_size=3)).replace(b"\n", b"") + line[place + draw(st.integers(0, 9)) :]
    return line + draw(st.sampled_from([b"", b"", b"", b"\r", b" "]))


@st.composite
def files_of(draw: st.DrawFn) -> tuple[str, bytes, int]:
    """Profile, content, bytes of a chunk."""
    name = draw(st.sampled_from(sorted(PROFILES)))
    lines = draw(st.lists(lines_of(name), min_size=1, max_size=8))
    # A good line first: what a file is, is told by its head.
    content = spelled(tokens_of(PROFILES[name][1])).encode() + b"\n" + b"\n".join(lines)
    return name, content + draw(st.sampled_from([b"", b"\n"])), draw(st.sampled_from([64, 500, 1_000, 1 << 20]))


_REST = (
    rb'"client":"c_8708e945b8cd93b4","method":"GET","path":"/erddap/tabledap/allDatasets.csv","status":200,'
    rb'"bytes":594982,"response_time_ms":null}'
)
ESCAPED_BESIDE_REPEATED_KEY = (
    rb'{"source":"erddap","ts":"2024-05-12T00:00:17Z",' + _REST + b"\n"
    rb'{"ts":"000\u001f","source":"erddap","ts":"000\u0080\ud800\udc00",' + _REST
)


def good_tokens(profile: SourceProfile, path: str) -> st.SearchStrategy[str]:
    """Tokens that a machine may write into a field."""
    fields = profile.fields
    if path == fields.event_at.path:
        return RFC3339
    if fields.path is not None and path == fields.path.path:
        return TARGET | st.sampled_from(PATHS)
    if path == fields.status_code.path:
        return st.integers(95, 605).map(str)
    if fields.response_bytes is not None and path == fields.response_bytes.path:
        return st.integers(0, 10**12).map(str)
    if fields.response_time is not None and path == fields.response_time.path:
        return DURATION | NUMBER
    if fields.method is not None and path == fields.method.path:
        return st.sampled_from(METHODS).map(json.dumps)
    if isinstance(fields.simulated, FlagField) and path == fields.simulated.path:
        return st.sampled_from(["true", "false"])
    return st.from_regex(r"[A-Za-z0-9_.-]{1,70}", fullmatch=True).map(json.dumps)


@st.composite
def alike_files(draw: st.DrawFn) -> tuple[str, bytes, int]:
    """Profile, lines of one spelling with values of their own, lines that are read together."""
    name = draw(st.sampled_from(["billable_request_json", "web_requests_json"]))
    profile, base = PROFILES[name]
    tree = tokens_of(base)
    if draw(st.booleans()):
        tree = {**tree, "more": '{"text":"a","number":1}', "last": "null"}
    colon, comma = draw(st.sampled_from([":", ": "])), draw(st.sampled_from([",", ", "]))
    lines = [spelled(tree, colon=colon, comma=comma)] * 9
    for _ in range(draw(st.integers(1, 12))):
        changed = tree
        for path in draw(st.lists(st.sampled_from(list(paths_of(tree))), min_size=1, max_size=3)):
            odd = st.sampled_from(tokens_for(profile, path))
            changed = with_token(changed, path, draw(good_tokens(profile, path) | odd))
        lines.insert(draw(st.integers(0, len(lines))), spelled(changed, colon=colon, comma=comma))
    content = "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"
    return name, content, draw(st.sampled_from([1, 7, 1_000]))
