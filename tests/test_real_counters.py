"""Real and nasty counters through parser and SQL: the verdicts that come with them. Skips without the data."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from billing_pipeline.sources.traffic_snapshots import TrafficSnapshot, parse_body
from resources.traffic_facts import TrafficFacts
from resources.traffic_inputs import FirstSnapshot
from resources.traffic_scan import TrafficScan, TrafficScanInputs
from tests.test_traffic_sql import RULES
from tests.traffic_chain import ACME, Reading, kept, source, write_samples

NASTY_DAY = date(2026, 1, 1)


def readings(file: Path, *, as_of: datetime) -> list[Reading]:
    """Return the samples that the parser takes of a file."""
    return [
        Reading(
            collected_at=snapshot.collected_at,
            uplink_bytes=sample.uplink_bytes,
            downlink_bytes=sample.downlink_bytes,
            uptime_seconds=snapshot.uptime_seconds,
            account_uuid=sample.account_uuid,
            inbound_tag=sample.inbound_tag,
            node=snapshot.node,
            env=snapshot.env,
        )
        for snapshot in parse_body(file.read_bytes(), as_of=as_of)
        if isinstance(snapshot, TrafficSnapshot)
        for sample in snapshot.samples
    ]


def measured(
    folder: Path, samples: Sequence[Reading], days: Sequence[date], **policy: object
) -> tuple[Mapping[date, TrafficFacts], int]:
    """Return the days' facts, and the uplink bytes that an account pays for."""
    own = kept(samples)
    first = min(own, key=lambda one: one.collected_at)
    inputs = TrafficScanInputs(
        days=tuple(days),
        sample_files=tuple(
            write_samples(folder / f"{day}.parquet", [one for one in own if one.day == day]) for day in days
        ),
        tail_file=None,
        first_snapshots=(
            FirstSnapshot(env=first.env, node=first.node, collected_at=first.collected_at, conflicting_streams=()),
        ),
        policies={(first.env, first.node): source(first.node, first.env, **policy)},
        rules=RULES,
    )
    with TrafficScan(inputs, scratch_dir=folder / "scratch", memory_limit="256MB", threads=1) as scan:
        facts = scan.facts()
        paid = sum(row["uplink_bytes"] for batch in scan.minute_rows(days) for row in batch.to_pylist())
    assert all(one.minute_bytes == one.conserved_bytes for one in facts.values())
    return facts, paid


class TestNastyFiles:
    @pytest.mark.parametrize(
        ("name", "policy", "uplink"),
        [
            ("control", {}, 9000),
            # 1000 before the restart, 30 after it, and what the first reading after it is worth
            ("reset_both", {"on_reset": "baseline"}, 1000 + 0 + 30),
            ("reset_both", {"on_reset": "from_zero"}, 1000 + 50 + 30),
            # the total went up although the process began 20 s ago
            ("reset_exceeding_previous", {}, 900_000),
            ("out_of_order", {}, 3000),
            ("duplicate_snapshot", {}, 10),
            # a clock a year ahead: its sample is refused, and the next counts from the one before
            ("clock_skew_future", {}, 20),
        ],
    )
    def test_come_to_their_verdict(
        self, real_data: Path, tmp_path: Path, name: str, policy: dict[str, str], uplink: int
    ) -> None:
        file = real_data / "data" / "nasty" / "xray" / f"{name}.jsonl"
        samples = readings(file, as_of=datetime(2026, 1, 2, tzinfo=UTC))
        samples = [replace(one, account_uuid=ACME) for one in samples]
        assert measured(tmp_path, samples, [NASTY_DAY], **policy)[1] == uplink

    def test_a_clock_a_year_ahead_freezes_nothing_even_if_it_was_taken(self, real_data: Path, tmp_path: Path) -> None:
        file = real_data / "data" / "nasty" / "xray" / "clock_skew_future.jsonl"
        samples = readings(file, as_of=datetime(2028, 1, 1, tzinfo=UTC))
        assert max(one.collected_at.year for one in samples) == 2027
        assert measured(tmp_path, samples, [NASTY_DAY])[1] == 20


class TestNginxSeries:
    """42 minutes of a server whose `ssl` counters belong to whichever of two workers answers."""

    @pytest.fixture
    def snapshots(self, real_data: Path) -> list[dict[str, object]]:
        file = real_data / "data" / "counters" / "nginxplus_status_500_snapshots.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]

    def stream(self, snapshots: list[dict[str, object]], *path: str) -> list[Reading]:
        found = []
        for one in snapshots:
            value: object = one
            for name in path:
                value = value[name]  # type: ignore[index]
            at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(str(one["timestamp"])))
            found.append(
                Reading(collected_at=at, uplink_bytes=int(str(value)), inbound_tag=".".join(path), account_uuid=ACME)
            )
        return found

    def test_with_two_writers_is_held_and_not_billed(self, snapshots: list[dict[str, object]], tmp_path: Path) -> None:
        names = ("handshakes", "handshakes_failed", "session_reuses")
        samples = [one for name in names for one in self.stream(snapshots, "ssl", name)]
        sound = self.stream(snapshots, "server_zones", "hg.nginx.org", "received")
        # it begins 101 seconds before midnight, with one wrong rise of 49,225 and no total that goes down
        days = sorted({one.day for one in sound})
        assert len(days) == 2
        facts, paid = measured(tmp_path, [*samples, *sound], days)
        for day in days:
            assert facts[day].held_streams == tuple(f"prod/jp/{ACME}/ssl.{name}" for name in names)
        assert sum(facts[day].not_billable_by_reason["split_brain"] for day in days) == 3 * 500
        assert sum(facts[day].billable for day in days) == 500
        assert paid == sound[-1].uplink_bytes - sound[0].uplink_bytes == 99_807

    def test_without_the_limit_would_be_billed_wrongly(
        self, snapshots: list[dict[str, object]], tmp_path: Path
    ) -> None:
        # the truth is 254; this is what the guard is for
        samples = self.stream(snapshots, "ssl", "handshakes")
        days = sorted({one.day for one in samples})
        assert measured(tmp_path, samples, days, max_resets_per_hour=60)[1] == 2_563_192
        assert measured(tmp_path, samples, days, max_resets_per_hour=60, on_reset="from_zero")[1] == 3_757_482
