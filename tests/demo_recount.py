"""What the demo's traffic and storage must come to, counted once more by plain Python: from the simulation, from the files.

A second spelling on purpose: nothing of the pipeline's own rules is imported.
"""

import csv
import gzip
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from resources.exporter_simulation import Simulation

END = datetime(2026, 3, 4, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True, order=True)
class MinuteOfTraffic:
    """Bytes of one stream, both directions, in one minute."""

    minute: datetime
    node: str
    account_uuid: str
    inbound_tag: str
    byte_count: int


def minutes_of_node(
    simulation: Simulation, node: str, *, since: datetime, first_is_new: bool
) -> Iterator[MinuteOfTraffic]:
    """Yield what each snapshot adds to the one before it. `first_is_new`: the first one's readings count themselves."""
    last: dict[tuple[str, str], tuple[datetime, int, int]] = {}
    is_first = True
    for snapshot in simulation.snapshots(node, since, END - MOMENT):
        at = snapshot.collected_at
        for account, inbound, uplink, downlink in snapshot.samples:
            before = last.get((account, inbound))
            if before is not None and before[0] == at:
                continue
            grown = uplink + downlink
            if before is None:
                grown = 0 if is_first and not first_is_new else grown
            elif snapshot.uptime_seconds >= (at - before[0]).total_seconds():
                grown -= before[1] + before[2]
            last[account, inbound] = (at, uplink, downlink)
            yield MinuteOfTraffic(
                minute=at.replace(second=0, microsecond=0),
                node=node,
                account_uuid=account,
                inbound_tag=inbound,
                byte_count=grown,
            )
        is_first = False


def prepaid_amount(minutes: list[MinuteOfTraffic]) -> Fraction:
    """Return what the minutes of one period take from the balance of the demo's prepaid price, in USD."""
    left, amount = 5_000_000_000, Fraction(0)
    buckets: dict[tuple[datetime, str, str], int] = defaultdict(int)
    for one in minutes:
        buckets[one.minute, one.node, one.account_uuid] += one.byte_count
    for (minute, node, _), byte_count in sorted(buckets.items()):
        included = min(left, byte_count)
        left -= included
        times = Fraction(6, 5) if node.startswith("tokyo") else Fraction(1)
        if 18 <= minute.astimezone(ZoneInfo("Asia/Shanghai")).hour < 23:
            times *= Fraction(3, 2)
        amount += (byte_count - included) * Fraction(4, 100 * 10**9) * times
    return amount


def private_byte_seconds(landing: Path, *, owner: str, start: datetime, end: datetime) -> Fraction:
    """Return what `owner` held in private repositories from `start` to `end`, by the files of the landing folder."""
    snapshots, events, changes = _snapshots(landing), _events(landing), _changes(landing)
    names = {key.partition("/")[0] for listing in snapshots.values() for key in listing}
    return sum((_held(name, owner, start, end, snapshots, events, changes) for name in names), Fraction(0))


def _held(
    repository: str,
    owner: str,
    start: datetime,
    end: datetime,
    snapshots: Mapping[datetime, Mapping[str, int]],
    events: list[dict[str, Any]],
    changes: list[dict[str, Any]],
) -> Fraction:
    own = [one for one in events if one["key"].startswith(f"{repository}/")]
    first = min(snapshots)
    # Before the first snapshot: what it lists, without what was put since the beginning.
    put_before = {one["key"] for one in own if one["at"] < first}
    keys = {key: size for key, size in _listed(snapshots[first], repository).items() if key not in put_before}
    parts: dict[str, int] = defaultdict(int)
    happened = [(at, 2, _listed(listing, repository)) for at, listing in snapshots.items()]
    happened += [(one["at"], 1, one) for one in own]
    happened += [(one["at"], 0, one) for one in changes if one["repository"] == repository]
    state, held, reached = {"visibility": "", "owner": ""}, Fraction(0), start
    for at, kind, fact in [*sorted(happened, key=lambda one: one[:2]), (end, 3, {})]:
        until = min(max(at, start), end)
        if (state["visibility"], state["owner"]) == ("private", owner):
            held += sum(keys.values()) * Fraction((until - reached) // MOMENT, 10**6)
        reached = until
        if kind == 2:
            keys = dict(fact)
        elif kind == 1:
            _apply(keys, parts, fact)
        elif kind == 0:
            state |= {name: fact[name] for name in state if name in fact}
    return held


def _apply(keys: dict[str, int], parts: dict[str, int], event: Mapping[str, Any]) -> None:
    match event["name"]:
        case "PutObject":
            keys[event["key"]] = event["size"]
        case "UploadPart":
            parts[event["upload"]] += event["size"]
        case "CompleteMultipartUpload":
            keys[event["key"]] = parts[event["upload"]]
        case "DeleteObject":
            keys.pop(event["key"], None)


def _listed(listing: Mapping[str, int], repository: str) -> dict[str, int]:
    return {key: size for key, size in listing.items() if key.startswith(f"{repository}/")}


def _snapshots(landing: Path) -> dict[datetime, dict[str, int]]:
    found = {}
    root = landing / "storage/inventory"
    for path in root.rglob("manifest.json"):
        manifest = json.loads(path.read_bytes())
        at = datetime.fromtimestamp(int(manifest["creationTimestamp"]) // 1000, UTC)
        texts = [gzip.decompress((root / file["key"]).read_bytes()).decode() for file in manifest["files"]]
        found[at] = {row[1]: int(row[2]) for text in texts for row in csv.reader(io.StringIO(text))}
    return found


def _events(landing: Path) -> list[dict[str, Any]]:
    found = {}
    for path in (landing / "storage/cloudtrail").rglob("CloudTrail/**/*.json.gz"):
        for record in json.loads(gzip.decompress(path.read_bytes()))["Records"]:
            if "errorCode" not in record and not record["readOnly"]:
                parameters = record["requestParameters"]
                found[record["eventID"]] = {
                    "at": datetime.fromisoformat(record["eventTime"]),
                    "name": record["eventName"],
                    "key": parameters["key"],
                    "upload": parameters.get("uploadId"),
                    "size": record["additionalEventData"].get("bytesTransferredIn"),
                }
    return list(found.values())


def _changes(landing: Path) -> list[dict[str, Any]]:
    lines = [
        json.loads(line)
        for path in (landing / "storage/visibility").rglob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    return [{**line, "at": datetime.fromisoformat(line["at"])} for line in lines]
