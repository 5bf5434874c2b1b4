"""Build the bulk form of `request_lines`: one DuckDB query per profile that takes the lines beyond doubt. Pure text.

The query reads a relation `lines` (line VARCHAR with its line end, line_number BIGINT) or, for Avro, `rows` (the writer's
fields, line_number) and gives the canonical columns, the texts that its caller has yet to check, and is_sure. A line that is not
sure is not refused: it is read by `request_lines`, whose word is final. So each condition may be stricter than the rule, never
laxer. Texts are checked by the caller (`to_check`) because a pattern, row by row, costs ten times as much.
Parameters: $latest (TIMESTAMP, the last instant that is not in the future) and, without event ids, $identity_prefix.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache

from billing_pipeline.records import UNMATCHED_ENDPOINT
from billing_pipeline.sources.endpoints import MAX_TARGET_LENGTH, PLAIN_PATH, Route, compile_routes
from billing_pipeline.sources.profile import (
    IDENTIFIER,
    DurationField,
    FlagField,
    InstantField,
    MarkerField,
    NumberField,
    PseudonymField,
    SourceProfile,
    TextField,
)
from billing_pipeline.sources.request_lines import METHODS, MICROSECONDS_PER_UNIT
from billing_pipeline.sources.timestamps import EARLIEST_EVENT

# Below this, in any unit, what a double may lie beside a decimal is far below half a microsecond.
_LARGEST_DURATION = 1_000_000_000

# Joins the parts of a pseudonym; the caller replaces the joined text by its keyed hash before anything is written.
PART_SEPARATOR = "\x1f"

# A template with one parameter, a whole segment without a converter.
_ONE_SEGMENT = re.compile(r"[^{}]*/\{[A-Za-z_]\w*\}(/[^{}]*)?")

_INSTANT_SHAPES = {
    "nginx": r"\d\d/[A-Z][a-z][a-z]/\d{4}:([01]\d|2[0-3]):\d\d:[0-5]\d [+-](0\d|1[0-4])[0-5]\d",
    "epoch_s": r"\d{9,10}(\.\d{1,6})?",
    "epoch_ms": r"\d{12,13}",
    "epoch_us": r"\d{15,16}",
}
_EPOCH_FUNCTIONS = {
    "epoch_s": "make_timestamp(cast(split_part({0}, '.', 1) as bigint) * 1000000"
    " + cast(rpad(split_part({0}, '.', 2), 6, '0') as bigint))",
    "epoch_ms": "make_timestamp(cast({0} as bigint) * 1000)",
    "epoch_us": "make_timestamp(cast({0} as bigint))",
}


class TextCheck(Enum):
    """What the caller of a query has to see of a text before the row may count."""

    IDENTIFIER = auto()  # the whole of it matches IDENTIFIER
    PATH = auto()  # the whole of it matches PLAIN_PATH, and no segment starts with a dot
    INSTANT = auto()  # the shape of an instant in UTC, to the second or up to six digits below it


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkQuery:
    """Two forms that agree. `optimistic` fails as a whole on a chunk with a line that is no JSON, lacks a field or says one
    twice, and must not be used on a chunk that contains one of `absent_keys`; `careful` leaves such lines out.

    A row that is in scope counts when is_sure is true and its texts pass `to_check` (column -> check); those in `quoted` are JSON
    tokens, which stand in quotes if they are text. `has_client_parts`: client_id holds pseudonym parts joined by PART_SEPARATOR.
    """

    optimistic: str
    careful: str
    absent_keys: tuple[bytes, ...]
    to_check: Mapping[str, TextCheck]
    quoted: frozenset[str]
    has_client_parts: bool


@dataclass(frozen=True, slots=True)
class _Tokens:
    """How to get at a field: JSON tokens keep the quotes of text; Avro columns, and JSON fields in `plain`, do not."""

    columns: Mapping[str, str]
    quoted_text: bool
    plain: frozenset[str] = frozenset()

    def raw(self, path: str) -> str:
        return self.columns[path]

    def is_quoted(self, path: str) -> bool:
        return self.quoted_text and path not in self.plain

    def matching(self, path: str, pattern: str) -> str:
        """The text where the whole of it matches, else null."""
        token = self.raw(path)
        if self.is_quoted(path):
            quoted = _text(f'"(?:{pattern})"')
            return f"case when regexp_full_match({token}, {quoted}) then {_unquoted(token)} end"
        return f"case when regexp_full_match({token}, {_text(pattern)}) then {token} end"

    def matching_own(self, spec: TextField) -> str:
        """The same for a pattern of the profile, which may well match the backslash of an escape."""
        if spec.pattern == IDENTIFIER:
            # The caller's to check.
            return self.raw(spec.path)
        text = self.matching(spec.path, spec.pattern)
        if not self.is_quoted(spec.path):
            return text
        return f"case when not contains({self.raw(spec.path)}, '\\') then ({text}) end"

    def text(self, path: str) -> str:
        """Any text without escapes, else null."""
        token = self.raw(path)
        if self.is_quoted(path):
            return f"case when starts_with({token}, '\"') and not contains({token}, '\\') then {_unquoted(token)} end"
        return token


@lru_cache
def lines_query(profile: SourceProfile, *, present: frozenset[str]) -> BulkQuery | None:
    """Return the query for JSON lines, or None for a profile with aliases, which the bulk path does not read.

    `present` are the optional paths that the first lines of the file have; others are still read exactly, only slower.
    """
    if any(getattr(spec, "aliases", ()) for spec in _specs(profile)):
        return None
    paths = _paths(profile)
    optional = [path for path in paths if _optional(profile, path)]
    required = [path for path in paths if path not in optional]
    expected = [path for path in paths if path in required or path in present]
    plain = _self_evident(profile)
    tokens = _Tokens({path: f"field_{number}" for number, path in enumerate(paths)}, True, plain)
    strict = f"select line_number, json_transform_strict(line, {_shape(profile, expected)}) as token from lines"
    return BulkQuery(
        optimistic=_canonical(profile, tokens, _fields_of(tokens, strict, frozenset(expected))),
        careful=_canonical(
            profile, tokens, _fields_of(tokens, _careful_tokens(profile, required, optional), frozenset(paths))
        ),
        absent_keys=tuple(json.dumps(path.split(".")[-1]).encode() for path in optional if path not in present),
        to_check=_to_check(profile, tokens),
        quoted=frozenset(_identifiers(profile)),
        has_client_parts=isinstance(profile.fields.client_id, PseudonymField),
    )


def _fields_of(tokens: _Tokens, source: str, expected: frozenset[str]) -> str:
    """Take the tokens out of their struct once, each under its column's name."""
    columns = [
        f"{_token(path) if path in expected else 'null::varchar'} as {name}" for path, name in tokens.columns.items()
    ]
    return f"select line_number, {', '.join(columns)} from ({source})"


def _careful_tokens(profile: SourceProfile, required: Sequence[str], optional: Sequence[str]) -> str:
    """Tokens of the valid lines that have every required field once, and the optional fields all or none.

    The lax transform goes first, so that the strict one, which alone sees a key said twice, hardly ever fails: a failure
    inside try() costs as much as a thousand good lines.
    """
    everything = [*required, *optional]
    complete = (
        " and ".join(f"{_token(path)} is not null" for path in required if not _nullable(profile, path)) or "true"
    )
    if not optional:
        strict = f"try(json_transform_strict(line, {_shape(profile, required)}))"
    else:
        all_there = " and ".join(f"{_token(path)} is not null" for path in optional)
        leaves = [_text(json.dumps(path.split(".")[-1])) for path in optional]
        none_there = " and ".join(f"not contains(line, {leaf})" for leaf in leaves)
        none_there += " and not contains(line, '\\')"
        strict = f"""case when {all_there} then try(json_transform_strict(line, {_shape(profile, everything)}))
            when {none_there} then try(json_transform_strict(line, {_shape(profile, required)})) end"""
        if len(required) != len(everything):
            # Both branches must have one type: the struct of every field, with nulls for those that are not there.
            strict = strict.replace(
                f"try(json_transform_strict(line, {_shape(profile, required)})) end",
                f"case when try(json_transform_strict(line, {_shape(profile, required)})) is not null then token end end",
            )
    return f"""select line_number, {strict} as token from (
        select line_number, line, json_transform(line, {_shape(profile, everything)}) as token from lines where json_valid(line)
    ) where {complete}"""


def rows_query(profile: SourceProfile, columns: Mapping[str, str]) -> BulkQuery:
    """Return the query for typed rows (Avro): `columns` maps a profile path to the writer's field name."""
    quoted = {path: '"' + name.replace('"', '""') + '"' for path, name in columns.items()}
    absent = {path: "null" for path in _paths(profile) if path not in quoted}
    tokens = _Tokens({**quoted, **absent}, False)
    sql = _canonical(profile, tokens, "select * from rows")
    return BulkQuery(
        optimistic=sql,
        careful=sql,
        absent_keys=(),
        to_check=_to_check(profile, tokens),
        quoted=frozenset(),
        has_client_parts=isinstance(profile.fields.client_id, PseudonymField),
    )


def _identifiers(profile: SourceProfile) -> list[str]:
    """Return the canonical columns whose pattern is the usual one."""
    specs = {"event_id": profile.fields.event_id, "client_id": profile.fields.client_id}
    return [name for name, spec in specs.items() if isinstance(spec, TextField) and spec.pattern == IDENTIFIER]


def _to_check(profile: SourceProfile, tokens: _Tokens) -> Mapping[str, TextCheck]:
    checks = {**dict.fromkeys(_identifiers(profile), TextCheck.IDENTIFIER), "path": TextCheck.PATH}
    if tokens.quoted_text and profile.fields.event_at.layout == "rfc3339":
        checks["instant"] = TextCheck.INSTANT
    return checks


def _canonical(profile: SourceProfile, tokens: _Tokens, source: str) -> str:
    """Give the canonical columns, in_scope and is_sure for each row of `source`, and the texts that are not among the columns."""
    fields = profile.fields
    scope = "true" if fields.scope is None else f"{tokens.text(fields.scope.path)} in ({_list(fields.scope.values)})"
    identity = (
        "$identity_prefix || line_number::varchar" if fields.event_id is None else tokens.matching_own(fields.event_id)
    )
    method, path = _method_and_path(profile, tokens)
    status = _number_text(fields.status_code, tokens)
    latest = "$latest::timestamp"
    duration = _duration(fields.response_time, tokens)
    instant = tokens.raw(fields.event_at.path) if "instant" in _to_check(profile, tokens) else "null"
    return f"""with
fields as ({source}),
typed as (
    select
        line_number,
        {scope} as in_scope,
        {identity} as event_id,
        {_instant(fields.event_at, tokens)} as event_at,
        {_client(profile, tokens)} as client_id,
        {method} as method,
        {path} as path,
        case when {status} glob '[1-5][0-9][0-9]' then cast({status} as smallint) end as status_code,
        {duration} as response_time_us,
        {_integer(fields.response_bytes, tokens, "[0-9]{1,18}")} as response_bytes,
        {_simulated(profile, tokens)} as is_simulated,
        {_may_be_null(fields.response_time, tokens)} as time_may_be_null,
        {_may_be_null(fields.response_bytes, tokens)} as size_may_be_null,
        {instant} as instant
    from fields
),
routed as (
    {_routed(profile)}
)
select
    line_number, in_scope, event_id, event_at, client_id, method,
    {_endpoint(profile)} as endpoint,
    status_code, response_time_us, response_bytes, is_simulated,
    not in_scope
    or (in_scope and event_id is not null and client_id is not null and method is not null and path is not null
        and event_at >= timestamp '{EARLIEST_EVENT:%Y-%m-%d}' and event_at <= {latest}
        and status_code is not null and is_simulated is not null
        and (response_time_us is not null or time_may_be_null) and (response_bytes is not null or size_may_be_null)) as is_sure,
    {", ".join(name for name in _to_check(profile, tokens) if name in ("path", "instant"))}
from routed
"""


def _method_and_path(profile: SourceProfile, tokens: _Tokens) -> tuple[str, str]:
    fields = profile.fields
    methods = "|".join(METHODS)
    target = PLAIN_PATH + r"(\?[^\\\"]*)?"
    if fields.request_line is not None:
        line = tokens.matching(fields.request_line.path, f'({methods}) {target.replace("[^", "[^ ")} HTTP/[^ \\\\"]*')
        return f"split_part({line}, ' ', 1)", _plain(f"split_part({line}, ' ', 2)")
    assert fields.method is not None
    assert fields.path is not None
    token = tokens.raw(fields.method.path)
    method = f"case when {token} in ({_list(METHODS)}) then {token} end"
    return method, _plain(tokens.raw(fields.path.path))


def _plain(target: str) -> str:
    # A target longer than the limit is for the rule to judge. Most have no query, and are not copied.
    path = f"case when contains({target}, '?') then split_part({target}, '?', 1) else {target} end"
    return f"case when strlen({target}) <= {MAX_TARGET_LENGTH} then {path} end"


def _routed(profile: SourceProfile) -> str:
    """For each text that stands before a single parameter, take out of `typed` the rest of a path that begins with it, from the
    end of the parameter on (rest_<n>; null where the path has no such parameter). Step by step: nothing is found twice."""
    inside, slashes, rests = "", "", ""
    for number, before in enumerate(_befores(profile)):
        inside += f", case when starts_with(path, {_text(before)}) then substring(path, {len(before) + 1}) end as inside_{number}"
        slashes += f", instr(inside_{number}, '/') as slash_{number}"
        rests += (
            f", case when slash_{number} > 1 then substring(inside_{number}, slash_{number})"
            f" when slash_{number} = 0 and inside_{number} <> '' then '' end as rest_{number}"
        )
    return f"select *{rests} from (select *{slashes} from (select *{inside} from typed))"


def _befores(profile: SourceProfile) -> list[str]:
    templates = [template for template in profile.endpoints if _ONE_SEGMENT.fullmatch(template)]
    return list(dict.fromkeys(template.partition("{")[0] for template in templates))


def _endpoint(profile: SourceProfile) -> str:
    befores = _befores(profile)
    cases = " ".join(
        f"when {_matches(route, befores)} then {_text(route.template)}" for route in compile_routes(profile.endpoints)
    )
    return f"case {cases} else {_text(UNMATCHED_ENDPOINT)} end"


def _matches(route: Route, befores: Sequence[str]) -> str:
    """A condition on `path`. Texts before and after the parameters are compared first: far cheaper than the pattern."""
    before, brace, rest = route.template.partition("{")
    if not brace:
        return f"path = {_text(route.template)}"
    after = rest.rpartition("}")[2]
    if _ONE_SEGMENT.fullmatch(route.template):
        return f"rest_{befores.index(before)} = {_text(after)}"
    ends = f"starts_with(path, {_text(before)}) and ends_with(path, {_text(after)})"
    return f"({ends} and regexp_full_match(path, {_text(route.pattern)}))"


def _instant(spec: InstantField, tokens: _Tokens) -> str:
    if not tokens.quoted_text:
        return f"timezone('UTC', {tokens.raw(spec.path)})"
    if spec.layout == "rfc3339":
        # The cast is lax about shapes; the text is the caller's to check.
        return f"try_cast({tokens.raw(spec.path)} as timestamp)"
    shape = _INSTANT_SHAPES[spec.layout]
    if spec.layout in _EPOCH_FUNCTIONS:
        token = tokens.raw(spec.path)
        instant = _EPOCH_FUNCTIONS[spec.layout].format(token)
        return f"case when regexp_full_match({token}, {_text(shape)}) then {instant} end"
    text = tokens.matching(spec.path, shape)
    return f"timezone('UTC', try_strptime({text}, '%d/%b/%Y:%H:%M:%S %z'))"


def _client(profile: SourceProfile, tokens: _Tokens) -> str:
    spec = profile.fields.client_id
    if isinstance(spec, PseudonymField):
        return f" || {_text(PART_SEPARATOR)} || ".join(f"({tokens.text(path)})" for path in spec.pseudonym_of)
    return tokens.matching_own(spec)


def _number_text(spec: NumberField, tokens: _Tokens) -> str:
    token = tokens.raw(spec.path)
    if not tokens.quoted_text:
        return f"cast({token} as varchar)"
    return f"(case when starts_with({token}, '\"') then {_unquoted(token)} end)" if spec.quoted else f"({token})"


def _may_be_null(spec: NumberField | None, tokens: _Tokens) -> str:
    """Whether a missing value is what the source says, and not a doubt."""
    if spec is None:
        return "true"
    token = tokens.raw(spec.path)
    allowed = []
    if spec.nullable or spec.optional:
        allowed.append(f"{token} is null")
    if spec.nullable and spec.null_tokens and tokens.quoted_text:
        allowed.append(f"{token} in ({_list(tuple(json.dumps(text) for text in spec.null_tokens))})")
    return f"coalesce({' or '.join(allowed)}, false)" if allowed else "false"


def _integer(spec: NumberField | None, tokens: _Tokens, shape: str) -> str:
    if spec is None:
        return "null::bigint"
    text = _number_text(spec, tokens)
    return f"case when regexp_full_match({text}, {_text(shape)}) then cast({text} as bigint) end"


def _duration(spec: DurationField | None, tokens: _Tokens) -> str:
    """Whole microseconds of a number that has no digits below them, proven by the way back: a double that is the nearest to a
    decimal of so many digits can only come from it, or from one so near that it rounds to the same."""
    if spec is None:
        return "null::bigint"
    text = _number_text(spec, tokens) if tokens.quoted_text else tokens.raw(spec.path)
    if spec.quoted and tokens.quoted_text:
        # JSON has one spelling of numbers, text has many that a cast takes.
        text = f"case when regexp_full_match({text}, '[0-9]{{1,9}}(\\.[0-9]{{1,6}})?') then {text} end"
    number, per_unit = f"try_cast({text} as double)", MICROSECONDS_PER_UNIT[spec.unit]
    whole = f"round({number} * {per_unit})"
    is_exact = f"{number} >= 0 and {number} < {_LARGEST_DURATION} and {whole} / {per_unit} = {number}"
    return f"case when {is_exact} then cast({whole} as bigint) end"


def _simulated(profile: SourceProfile, tokens: _Tokens) -> str:
    spec = profile.fields.simulated
    if spec is None:
        return "false"
    if isinstance(spec, MarkerField):
        return f"regexp_matches({tokens.text(spec.path)}, {_text(spec.pattern)})"
    assert isinstance(spec, FlagField)
    token = tokens.raw(spec.path)
    if not tokens.quoted_text:
        return f"({token} = {str(spec.simulated_when).lower()})"
    when, otherwise = ("true", "false") if spec.simulated_when else ("false", "true")
    return f"case {token} when '{when}' then true when '{otherwise}' then false end"


def _list(values: Sequence[str]) -> str:
    return ", ".join(_text(value) for value in values)


def _token(path: str) -> str:
    return "(token" + "".join(f"[{_text(part)}]" for part in path.split(".")) + "::varchar)"


def _shape(profile: SourceProfile, paths: Sequence[str]) -> str:
    return _text(json.dumps(_nested_shape(paths, plain=_self_evident(profile))))


def _unquoted(token: str) -> str:
    return f"substring({token}, 2, length({token}) - 2)"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _specs(profile: SourceProfile) -> Sequence[object]:
    fields = profile.fields
    return [getattr(fields, name) for name in type(fields).model_fields if getattr(fields, name) is not None]


def _paths(profile: SourceProfile) -> list[str]:
    paths: dict[str, None] = {}
    for spec in _specs(profile):
        if isinstance(spec, PseudonymField):
            paths.update(dict.fromkeys(spec.pseudonym_of))
        else:
            paths[spec.path] = None  # type: ignore[attr-defined]
    return list(paths)


def _numbers(profile: SourceProfile) -> list[NumberField]:
    return [spec for spec in _specs(profile) if isinstance(spec, NumberField)]


def _self_evident(profile: SourceProfile) -> frozenset[str]:
    """Return the paths whose values can only have come from JSON text: an instant, a method, a path starts like no number."""
    fields = profile.fields
    specs = [fields.method, fields.path, fields.request_line]
    if fields.event_at.layout in ("rfc3339", "nginx"):
        return frozenset(spec.path for spec in (*specs, fields.event_at) if spec is not None)
    return frozenset(spec.path for spec in specs if spec is not None)


def _optional(profile: SourceProfile, path: str) -> bool:
    return any(spec.path == path and spec.optional for spec in _numbers(profile))


def _nullable(profile: SourceProfile, path: str) -> bool:
    return any(spec.path == path and (spec.nullable or spec.optional) for spec in _numbers(profile))


def _nested_shape(paths: Sequence[str], *, plain: frozenset[str]) -> dict[str, object]:
    shape: dict[str, object] = {}
    for path in paths:
        level = shape
        *parents, leaf = path.split(".")
        for parent in parents:
            level = level.setdefault(parent, {})  # type: ignore[assignment]
        level[leaf] = "VARCHAR" if path in plain else "JSON"
    return shape
