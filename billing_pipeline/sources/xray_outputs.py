"""Read what Xray and its known exporters say of users' counters: an output -> one snapshot. Pure.

Formats: `xray api statsquery` (JSON; numbers or text, zero left out), `/debug/vars` (nested JSON), and the Prometheus pages of
three exporters. Only `user>>>X>>>traffic>>>uplink|downlink` is a user's traffic; X is an account's UUID, or an e-mail address
that leaves this room only as a pseudonym. Not here: our own exporter's snapshots (traffic_snapshots), fetching (resources).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from billing_pipeline.errors import BillingError
from billing_pipeline.records import Reason
from billing_pipeline.sources.prometheus_text import Series, parse_page
from billing_pipeline.sources.timestamps import parse_instant
from billing_pipeline.sources.traffic_snapshots import (
    LARGEST_TOTAL,
    Pseudonymise,
    SampleRejection,
    SnapshotReading,
    SnapshotRejection,
    TrafficSample,
    TrafficSnapshot,
    account_identity,
    decode_body,
    decode_json,
    exact_total,
    is_name,
)
from billing_pipeline.sources.xray_exporters import PROMETHEUS, PrometheusNames

XrayFormat: TypeAlias = Literal[
    "statsquery", "debug_vars", "prometheus_compassvpn", "prometheus_wi1dcard", "prometheus_x_evor"
]
# Above it a 64-bit float skips integers: what it prints is no count any more.
LARGEST_EXACT_FLOAT = 2**53

_DIRECTIONS = ("uplink", "downlink")
_NAME_TIME = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)[T_](\d\d)[-:]?(\d\d)[-:]?(\d\d)(?:\.(\d{1,6}))?Z", re.ASCII)


class XrayOutputError(BillingError):
    """An output that says nothing of users' traffic, not even that there was none: the minute has no snapshot."""


class XraySilentError(XrayOutputError):
    """An exporter that says that it could not ask Xray."""


class XrayNodeError(BillingError):
    """An output that names another node or environment than the source has."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One direction of one stream, as it stands at `position` of the output."""

    position: int
    identity: str
    inbound: str
    direction: str
    total: int | Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class _Output:
    readings: Iterable[_Reading]
    uptime_seconds: int | None = None
    collected_at: datetime | None = None


def read_output(
    body: bytes,
    *,
    output_format: XrayFormat,
    env: str,
    node: str,
    collected_at: datetime,
    pseudonymise: Pseudonymise | None = None,
) -> TrafficSnapshot:
    """Return what one output says. `collected_at` (aware): when it was asked for; an exporter that says when it asked Xray
    itself is believed.

    Raises:
        BodyUnreadableError, PrometheusTextError: no JSON, no page of metrics, or cut off.
        XrayOutputError: another shape, or the exporter could not ask Xray (`xray_up 0`): a gap, not zero traffic.
        XrayNodeError: the output names another node or environment.
    """
    return _snapshot(
        _decoded(body, output_format),
        output_format,
        env=env,
        node=node,
        collected_at=collected_at,
        pseudonymise=pseudonymise,
    )


def read_delivered(
    body: bytes,
    *,
    file_name: str,
    output_format: XrayFormat,
    env: str,
    node: str,
    as_of: datetime,
    pseudonymise: Pseudonymise | None = None,
) -> tuple[SnapshotReading, ...]:
    """Return what a dropped file says: outputs in envelopes, or one bare output whose instant its name holds.

    An envelope is `{"collected_at": .., "output": ..}` (the output as JSON, or as text), with `node_id`, `env`,
    `uptime_seconds` and `xray_version` if they are known; a name such as `20260408T120000Z.prom` tells the instant.

    Raises:
        as `read_output`; XrayOutputError also for a bare output without an instant in its name.
    """
    envelopes = _envelopes(body, output_format)
    if envelopes is not None:
        return tuple(
            _read_envelope(each, position, output_format, env=env, node=node, as_of=as_of, pseudonymise=pseudonymise)
            for position, each in enumerate(envelopes, 1)
        )
    match = _NAME_TIME.search(file_name)
    if match is None:
        raise _no_output("its name holds no instant such as 20260408T120000Z, and it is in no envelope")
    year, month, day, hour, minute, second, fraction = match.groups()
    text = f"{year}-{month}-{day}T{hour}:{minute}:{second}.{fraction or 0}Z"
    collected_at = parse_instant(text, layout="rfc3339", as_of=as_of)
    if isinstance(collected_at, Reason):
        return (SnapshotRejection(position=1, reason=collected_at, field="collected_at"),)
    return (
        read_output(
            body,
            output_format=output_format,
            env=env,
            node=node,
            collected_at=collected_at,
            pseudonymise=pseudonymise,
        ),
    )


def _envelopes(body: bytes, output_format: XrayFormat) -> tuple[Mapping[str, object], ...] | None:
    """Return the envelopes of a body; None when it is a bare output."""
    if output_format in PROMETHEUS and not body.lstrip().startswith((b"{", b"[")):
        return None
    values = decode_body(body)
    envelopes = tuple(value for value in values if isinstance(value, Mapping) and "output" in value)
    return envelopes if len(envelopes) == len(values) else None


def _read_envelope(
    envelope: Mapping[str, object],
    position: int,
    output_format: XrayFormat,
    *,
    env: str,
    node: str,
    as_of: datetime,
    pseudonymise: Pseudonymise | None,
) -> SnapshotReading:
    for name, expected in (("env", env), ("node_id", node)):
        if envelope.get(name, expected) != expected:
            raise _other_node(name, expected)
    collected_at = parse_instant(envelope.get("collected_at"), layout="rfc3339", as_of=as_of)
    if isinstance(collected_at, Reason):
        return SnapshotRejection(position=position, reason=collected_at, field="collected_at")
    uptime = exact_total(envelope.get("uptime_seconds", 0), quoted=False)
    version = envelope.get("xray_version")
    if isinstance(uptime, Reason):
        return SnapshotRejection(position=position, reason=uptime, field="uptime_seconds")
    if version is not None and not (isinstance(version, str) and is_name(version)):
        return SnapshotRejection(position=position, reason=Reason.BAD_VALUE, field="xray_version")
    output = envelope["output"]
    if isinstance(output, str):
        output = _decoded(output.encode(), output_format)
    snapshot = _snapshot(
        output, output_format, env=env, node=node, collected_at=collected_at, pseudonymise=pseudonymise
    )
    return replace(
        snapshot,
        uptime_seconds=uptime if "uptime_seconds" in envelope else snapshot.uptime_seconds,
        xray_version=version,
    )


def _decoded(body: bytes, output_format: XrayFormat) -> object:
    return parse_page(body) if output_format in PROMETHEUS else decode_json(body)


def _snapshot(
    output: object,
    output_format: XrayFormat,
    *,
    env: str,
    node: str,
    collected_at: datetime,
    pseudonymise: Pseudonymise | None,
) -> TrafficSnapshot:
    if output_format in PROMETHEUS:
        said = _from_page(output, PROMETHEUS[output_format], env=env, node=node, as_of=collected_at)
    elif output_format == "statsquery":
        said = _Output(readings=_from_statsquery(output))
    else:
        said = _Output(readings=_from_debug_vars(output))
    samples, rejected = _paired(said.readings, pseudonymise)
    return TrafficSnapshot(
        env=env,
        node=node,
        collected_at=said.collected_at or collected_at.astimezone(UTC),
        samples=samples,
        rejected=rejected,
        uptime_seconds=said.uptime_seconds,
    )


def _from_statsquery(output: object) -> Iterator[_Reading]:
    # Without any counter yet, the answer is an empty object.
    if not isinstance(output, Mapping) or (output and not isinstance(output.get("stat"), list)):
        raise _no_output("it has no list of counters named 'stat'")
    for position, entry in enumerate(output.get("stat", []), 1):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            yield _Reading(position, "", "", "", Reason.NOT_AN_OBJECT)
            continue
        parts = entry["name"].split(">>>")
        if parts[0] != "user" or parts[-1] == "online":
            continue
        if len(parts) != 4 or parts[2] != "traffic" or parts[3] not in _DIRECTIONS:
            # Perhaps a user with '>>>' in the name: nobody's counter, and no zero of anybody.
            yield _Reading(position, "", "", "", Reason.BAD_VALUE)
            continue
        # Zero is not written.
        yield _Reading(position, parts[1], "", parts[3], exact_total(entry.get("value", 0), quoted=True))


def _from_debug_vars(output: object) -> Iterator[_Reading]:
    stats = output.get("stats") if isinstance(output, Mapping) else None
    users = stats.get("user", {}) if isinstance(stats, Mapping) else None
    if not isinstance(users, Mapping):
        raise _no_output("it has no counters below 'stats'")
    for position, (name, totals) in enumerate(users.items(), 1):
        for direction in _DIRECTIONS:
            is_table = isinstance(totals, Mapping)
            total = exact_total(totals.get(direction, 0), quoted=False) if is_table else Reason.NOT_AN_OBJECT
            yield _Reading(position, name, "", direction, total)


def _from_page(output: object, names: PrometheusNames, *, env: str, node: str, as_of: datetime) -> _Output:
    if not isinstance(output, tuple):
        raise _no_output("it is no page of metrics")
    gauges: dict[str, Decimal] = {}
    readings = []
    directions = dict(zip((names.uplink, names.downlink), _DIRECTIONS, strict=True))
    for series in output:
        direction = directions.get(series.name)
        if direction is None:
            gauges[series.name] = series.value
        elif all(series.labels.get(label) == value for label, value in names.only.items()):
            _refuse_other_node(series, names, env=env, node=node)
            inbound = series.labels.get(names.inbound, "") if names.inbound else ""
            identity = series.labels.get(names.identity, "")
            readings.append(_Reading(series.line_number, identity, inbound, direction, _exact_float(series.value)))
    if names.healthy in gauges and gauges[names.healthy] != 1:
        raise _no_output(f"its exporter could not ask Xray ({names.healthy} is not 1)", XraySilentError)
    if not readings and names.healthy not in gauges:
        raise _no_output(f"it has neither users' counters nor {names.healthy}")
    return _Output(
        readings=readings,
        uptime_seconds=_whole_seconds(gauges.get(names.uptime or "")),
        collected_at=_instant(gauges.get(names.collected_at or ""), as_of),
    )


def _refuse_other_node(series: Series, names: PrometheusNames, *, env: str, node: str) -> None:
    for label, expected in ((names.env, env), (names.node, node)):
        if label is not None and series.labels.get(label, expected) != expected:
            raise _other_node(label, expected)


def _paired(
    readings: Iterable[_Reading], pseudonymise: Pseudonymise | None
) -> tuple[tuple[TrafficSample, ...], tuple[SampleRejection, ...]]:
    """Join both directions of each stream; a direction that is not there is 0. One bad reading refuses its stream."""
    totals: dict[tuple[str, str], dict[str, int]] = {}
    refused: dict[tuple[str, str], SampleRejection] = {}
    for reading in readings:
        account = account_identity(reading.identity, pseudonymise)
        # Whom a refused name means does not matter: each is refused by itself.
        stream = (account or f"?{reading.position}", reading.inbound.strip())
        problem = _problem(reading, account, totals.get(stream, {}))
        if problem is not None:
            reason, name = problem
            refused.setdefault(stream, SampleRejection(position=reading.position, reason=reason, field=name))
        elif isinstance(reading.total, int):
            totals.setdefault(stream, {})[reading.direction] = reading.total
    samples = tuple(
        TrafficSample(
            account_uuid=account,
            inbound_tag=inbound,
            uplink_bytes=both.get("uplink", 0),
            downlink_bytes=both.get("downlink", 0),
        )
        for (account, inbound), both in totals.items()
        if (account, inbound) not in refused
    )
    return samples, tuple(refused.values())


def _problem(reading: _Reading, account: str | None, known: Mapping[str, int]) -> tuple[Reason, str] | None:
    if account is None:
        return Reason.BAD_VALUE, "user"
    if reading.inbound.strip() and not is_name(reading.inbound.strip()):
        return Reason.BAD_VALUE, "inbound"
    if isinstance(reading.total, Reason):
        return reading.total, reading.direction
    if reading.direction in known:
        return Reason.DUPLICATE_KEY, reading.direction
    return None


def _exact_float(value: Decimal) -> int | Reason:
    """Return the count that a printed 64-bit float stands for, if it can stand for one only."""
    if not value.is_finite() or not 0 <= value <= LARGEST_EXACT_FLOAT:
        return Reason.OUT_OF_RANGE
    return int(value) if value == value.to_integral_value() else Reason.WRONG_TYPE


def _whole_seconds(value: Decimal | None) -> int | None:
    is_known = value is not None and value.is_finite() and 0 <= value <= LARGEST_TOTAL
    return int(value) if value is not None and is_known else None


def _instant(value: Decimal | None, as_of: datetime) -> datetime | None:
    if value is None:
        return None
    instant = parse_instant(value, layout="epoch_s", as_of=as_of)
    if isinstance(instant, Reason):
        raise _no_output(f"its exporter names no instant at which it asked Xray ({instant})")
    return instant


def _no_output(problem: str, kind: type[XrayOutputError] = XrayOutputError) -> XrayOutputError:
    return kind(
        f"an output of Xray says nothing of users' traffic: {problem}",
        bill="nothing of it was taken, and the minute has no snapshot; counters are cumulative, so the next one that is read "
        "brings its traffic",
        fix="ask the exporter by hand and compare its answer with the format that traffic.toml names for this source",
    )


def _other_node(name: str, expected: str) -> XrayNodeError:
    return XrayNodeError(
        f"an output of Xray names another {name} than {expected!r}",
        bill="nothing of it was taken, so nobody pays for another node's traffic",
        fix="correct base_url, node or env of this source in traffic.toml, or the exporter's own configuration",
    )
