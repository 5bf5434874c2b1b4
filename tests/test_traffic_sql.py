"""The traffic SQL against the short reference, over generated histories: restarts, resets, two writers, any split in days."""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from billing_pipeline.catalog import BillableRule
from billing_pipeline.counters import Basis, HoldReason, StreamDay
from billing_pipeline.meters import Aggregation, Meter, MeterSource
from resources.traffic_config import TrafficSource
from resources.traffic_facts import TrafficFacts
from resources.traffic_inputs import FirstSnapshot
from resources.traffic_scan import TrafficScan, TrafficScanInputs
from resources.usage_rules import BEGINNING, END, ClientAccount, ClientWindow, UsageRules
from tests.traffic_chain import ACME, DAY, OTHER, Reading, Reference, Stream, at, kept, readings, source, write_samples

DAYS = tuple(DAY + timedelta(days=number) for number in range(3))
HOUR = timedelta(hours=1)
# The second belongs to an account from the middle of a minute on; the third to the first one's, from one minute to another, and to
# nobody before and after.
MOVED_AT = at("00:30:20", DAYS[1])
CUT_AT = at("00:15:30")
GUEST = (at("00:10"), at("00:45", DAYS[1]))
UNKNOWN = "33333333-3333-3333-3333-333333333333"
METERS = tuple(
    Meter(
        meter_id=name,
        version=1,
        aggregation=Aggregation.SUM,
        unit="byte",
        field=f"{name}_bytes",
        source=MeterSource.TRAFFIC,
        envs=frozenset(envs),
    )
    for name, envs in (("uplink", {"prod"}), ("downlink", {"prod"}), ("total", {"prod", "preview"}))
)
RULES = UsageRules(
    billable_rule=BillableRule(version=1, success_statuses=((200, 299),), endpoints=frozenset()),
    meters=METERS,
    client_accounts=(
        ClientAccount(client_id=ACME, account_id="acme", valid_from=BEGINNING, valid_to=END),
        ClientAccount(client_id=OTHER, account_id="other", valid_from=MOVED_AT, valid_to=END),
        ClientAccount(client_id=UNKNOWN, account_id="acme", valid_from=GUEST[0], valid_to=GUEST[1]),
    ),
    client_windows=(
        ClientWindow(client_id=ACME, hour_start=at("00:00"), start=at("00:00"), end=CUT_AT),
        ClientWindow(client_id=ACME, hour_start=at("00:00"), start=CUT_AT, end=at("01:00")),
        ClientWindow(client_id=OTHER, hour_start=at("00:00", DAYS[1]), start=at("00:00", DAYS[1]), end=MOVED_AT),
        ClientWindow(client_id=OTHER, hour_start=at("00:00", DAYS[1]), start=MOVED_AT, end=at("01:00", DAYS[1])),
    ),
    digests={},
)
SOURCES = (
    source(on_first="full", on_reset="from_zero", region="asia", line="cn2"),
    *(
        policies
        for number in range(60)
        for policies in (
            source(f"jp-{number}", on_first="full", on_reset="from_zero", region="asia", line="cn2"),
            source(f"de-{number}", max_resets_per_hour=1),
            source(f"jp-{number}", "preview"),
        )
    ),
)
STREAMS = [(account_uuid, inbound) for account_uuid in (ACME, OTHER, UNKNOWN) for inbound in ("xhttp", "tcp", "")]
Minutes = dict[tuple[object, ...], tuple[object, ...]]


def account(account_uuid: str, bucket_start: datetime) -> str | None:
    if account_uuid == ACME or (account_uuid == UNKNOWN and GUEST[0] <= bucket_start < GUEST[1]):
        return "acme"
    return "other" if account_uuid == OTHER and bucket_start >= MOVED_AT else None


def first_snapshots(samples: Iterable[Reading]) -> dict[tuple[str, str], datetime]:
    found: dict[tuple[str, str], datetime] = {}
    for one in samples:
        node = (one.env, one.node)
        found[node] = min(found.get(node, one.collected_at), one.collected_at)
    return found


def scan(
    folder: Path,
    samples: Sequence[Reading],
    *,
    days: Sequence[date] = DAYS,
    tail: Path | None = None,
    firsts: dict[tuple[str, str], datetime] | None = None,
    sources: Sequence[TrafficSource] = SOURCES,
    row_group_size: int = 100_000,
    first_snapshots_seen: tuple[FirstSnapshot, ...] | None = None,
    held_after: Mapping[date, tuple[Stream, ...]] | None = None,
) -> TrafficScan:
    """Scan the samples, one file per day, in the order given."""
    files = []
    for day in days:
        own = [one for one in samples if one.day == day]
        if own:
            files.append(write_samples(folder / f"{day}.parquet", own, row_group_size=row_group_size))
    inputs = TrafficScanInputs(
        days=tuple(days),
        sample_files=tuple(files),
        tail_file=tail,
        first_snapshots=first_snapshots_seen
        or tuple(
            FirstSnapshot(env=env, node=node, collected_at=when, conflicting_streams=())
            for (env, node), when in (first_snapshots(samples) if firsts is None else firsts).items()
        ),
        policies={(one.env, one.node): one for one in sources},
        rules=RULES,
        held_after=held_after or {},
    )
    return TrafficScan(inputs, scratch_dir=folder / "scratch", memory_limit="256MB", threads=1)


def minutes_of(result: TrafficScan, days: Sequence[date] = DAYS) -> Minutes:
    """Return (account, env, node, uuid, inbound, minute) -> (uplink, downlink, basis, epoch, loss)."""
    return {
        (
            *(row[name] for name in ("account_id", "env", "node", "account_uuid", "inbound_tag")),
            utc(row["bucket_start"]),
        ): (
            *(row[name] for name in ("uplink_bytes", "downlink_bytes", "basis", "epoch")),
            int(row["suspected_loss_bytes"]),
        )
        for batch in result.minute_rows(days)
        for row in batch.to_pylist()
    }


def by_time(result: TrafficScan) -> list[tuple[object, ...]]:
    """Return the minutes of one stream in order."""
    return [minute for _, minute in sorted(minutes_of(result).items())]


def reference_minutes(found: dict[date, dict[Stream, StreamDay]]) -> Minutes:
    expected: Minutes = {}
    for streams in found.values():
        for stream, one in streams.items():
            for minute in () if one.is_held else one.minutes:
                owner = account(stream[2], minute.bucket_start)
                if owner and (minute.uplink_bytes or minute.downlink_bytes or minute.basis is not Basis.DIFFERENCE):
                    expected[owner, *stream, minute.bucket_start] = (
                        minute.uplink_bytes,
                        minute.downlink_bytes,
                        minute.basis.name.lower(),
                        minute.epoch,
                        minute.suspected_loss_bytes,
                    )
    return expected


def window_of(client_id: object, bucket_start: datetime) -> tuple[datetime, datetime]:
    hour = bucket_start.replace(minute=0)
    for window in RULES.client_windows:
        if window.client_id == client_id and window.start <= bucket_start < window.end:
            return window.start, window.end
    return hour, hour + HOUR


def reference_usage(expected: Minutes) -> dict[tuple[object, ...], int]:
    usage: dict[tuple[object, ...], int] = defaultdict(int)
    ends: dict[tuple[object, ...], datetime] = {}
    for (owner, env, node, client, inbound, bucket_start), (uplink, downlink, *_) in expected.items():
        for meter in METERS:
            value = {"uplink_bytes": uplink, "downlink_bytes": downlink}.get(meter.field or "", uplink + downlink)  # type: ignore[operator]
            if env in meter.envs and value:
                start, end = window_of(client, bucket_start)  # type: ignore[arg-type]
                usage[owner, meter.meter_id, start, env, node, inbound] += value  # type: ignore[operator]
    # two uuids of an account whose hours are cut at different instants are one row, up to the later end, whatever the bytes
    for owner, env, node, client, inbound, bucket_start in expected:
        start, end = window_of(client, bucket_start)  # type: ignore[arg-type]
        ends[owner, start, env, node, inbound] = max(end, ends.get((owner, start, env, node, inbound), end))
    return {
        (owner, meter_id, start, ends[owner, start, env, node, inbound], env, node, inbound): value
        for (owner, meter_id, start, env, node, inbound), value in usage.items()
    }


def usage_of(result: TrafficScan) -> dict[tuple[object, ...], int]:
    return {
        (
            *(row[name] for name in ("account_id", "meter_id")),
            *(utc(row[name]) for name in ("period_start", "period_end")),
            *(row[name] for name in ("env", "node", "inbound_tag")),
        ): int(row["quantity"])
        for batch in result.usage_rows(DAYS)
        for row in batch.to_pylist()
    }


def busy_minutes_of(result: TrafficScan) -> dict[tuple[object, ...], int]:
    """Return usage row without its end -> minutes of its streams in which there was traffic."""
    return {
        (
            row["account_id"],
            row["meter_id"],
            utc(row["period_start"]),
            row["env"],
            row["node"],
            row["inbound_tag"],
        ): row["bucket_count"]
        for batch in result.usage_rows(DAYS)
        for row in batch.to_pylist()
    }


def reference_busy_minutes(expected: Minutes) -> dict[tuple[object, ...], int]:
    busy: dict[tuple[object, ...], int] = defaultdict(int)
    for (owner, env, node, client, inbound, bucket_start), (uplink, downlink, *_) in expected.items():
        for meter in METERS:
            if env in meter.envs and (uplink or downlink):
                busy[owner, meter.meter_id, window_of(client, bucket_start)[0], env, node, inbound] += 1  # type: ignore[arg-type]
    return dict(busy)


def reference_left_out(
    samples: Iterable[Reading], found: dict[date, dict[Stream, StreamDay]]
) -> dict[tuple[object, ...], tuple[int, int, int]]:
    """Return (day, reason, stream) -> samples, uplink and downlink bytes that nobody pays for."""
    left_out: dict[tuple[object, ...], list[int]] = defaultdict(lambda: [0, 0, 0])

    def reason(day: date, stream: Stream, bucket_start: datetime) -> str | None:
        held_for = found[day][stream].held_for
        if held_for is not None:
            return str(held_for)
        return None if account(stream[2], bucket_start) else "unknown_identity"

    for one in samples:
        why = reason(one.day, one.stream, one.collected_at.replace(second=0, microsecond=0))
        if why is not None:
            left_out[one.day, why, *one.stream][0] += 1
    for day, streams in found.items():
        for stream, one in streams.items():
            for minute in one.minutes:
                why = reason(day, stream, minute.bucket_start)
                if why is not None:
                    left_out[day, why, *stream][1] += minute.uplink_bytes
                    left_out[day, why, *stream][2] += minute.downlink_bytes
    return {key: (count, uplink, downlink) for key, (count, uplink, downlink) in left_out.items()}


def left_out_of(result: TrafficScan) -> dict[tuple[object, ...], tuple[int, int, int]]:
    return {
        tuple(row[name] for name in ("event_day", "reason", "env", "node", "account_uuid", "inbound_tag")): (
            row["sample_count"],
            int(row["uplink_bytes"]),
            int(row["downlink_bytes"]),
        )
        for batch in result.not_billable_rows(DAYS)
        for row in batch.to_pylist()
    }


def suspects_of(result: TrafficScan) -> dict[tuple[object, ...], tuple[object, ...]]:
    """Return (day, stream) -> reason, resets, bytes that may be lost."""
    return {
        tuple(row[name] for name in ("event_day", "env", "node", "account_uuid", "inbound_tag")): (
            row["reason"],
            row["resets"],
            int(row["suspected_loss_bytes"]),
        )
        for batch in result.suspect_rows(DAYS)
        for row in batch.to_pylist()
    }


def reference_suspects(found: dict[date, dict[Stream, StreamDay]]) -> dict[tuple[object, ...], tuple[object, ...]]:
    suspects: dict[tuple[object, ...], tuple[object, ...]] = {}
    for day, streams in found.items():
        for stream, one in streams.items():
            loss = sum(minute.suspected_loss_bytes for minute in one.minutes)
            if one.resets or loss or one.held_for:
                suspects[day, *stream] = (str(one.held_for or "reset"), one.resets, loss)
    return suspects


def utc(naive: datetime) -> datetime:
    return naive.replace(tzinfo=UTC)


def assert_conserved(facts: TrafficFacts, streams: dict[Stream, StreamDay]) -> None:
    """Compare a day's counts with the reference's."""
    total = sum(minute.uplink_bytes + minute.downlink_bytes for one in streams.values() for minute in one.minutes)
    assert facts.minute_bytes == facts.conserved_bytes == total
    assert (
        facts.samples_read
        == facts.billable + sum(facts.not_billable_by_reason.values()) + facts.duplicates + facts.conflicts
    )
    assert set(facts.held_streams) == {"/".join(stream) for stream, one in streams.items() if one.is_held}
    assert set(facts.reset_streams) == {
        "/".join(stream)
        for stream, one in streams.items()
        if not one.is_held and (one.resets or any(minute.suspected_loss_bytes for minute in one.minutes))
    }


def histories(seed: int, count: int = 60) -> list[Reading]:
    """Return what a few streams on each of `count` nodes said over three days; each node is a history of its own."""
    chance = random.Random(seed)
    samples = []
    for number in range(count):
        env, node = chance.choice([("prod", "jp"), ("prod", "de"), ("prod", "us"), ("preview", "jp")])
        for account_uuid, inbound in chance.sample(STREAMS, chance.choice([1, 2, 4])):
            samples += _stream_history(
                chance, env=env, node=f"{node}-{number}", account_uuid=account_uuid, inbound_tag=inbound
            )
    return samples


def _stream_history(chance: random.Random, **stream: str) -> list[Reading]:
    started = at("00:00") + timedelta(minutes=chance.choice([0, 0, 5, 1400, 1435, 2870]))
    writers = [[0, 0, started], [chance.randrange(10**6), chance.randrange(10**6), started - 10 * HOUR]]
    tells_uptime, shared = chance.random() < 0.5, chance.random() < 0.25
    when, found = started, []
    for _ in range(chance.randrange(1, 25)):
        writer = writers[chance.randrange(2) if shared else 0]
        if chance.random() < 0.15:
            writer[:] = [0, 0, when - timedelta(seconds=chance.randrange(60), microseconds=chance.randrange(10**6))]
        for direction in (0, 1):
            writer[direction] += chance.choice([0, 0, 1, 100, 2**40])  # type: ignore[operator]
            if chance.random() < 0.05:
                writer[direction] = chance.randrange(50)
        uptime = (when - writer[2]) // timedelta(seconds=1)  # type: ignore[operator]
        found.append(
            Reading(
                collected_at=when,
                uplink_bytes=writer[0],  # type: ignore[arg-type]
                downlink_bytes=writer[1],  # type: ignore[arg-type]
                uptime_seconds=uptime if tells_uptime and uptime >= 0 else None,
                **stream,
            )
        )
        when += timedelta(
            seconds=chance.choice([1, 20, 60, 60, 60, 600, 3600, 40_000]), microseconds=chance.choice([0, 0, 250_000])
        )
        if when >= at("00:00", DAYS[-1]) + timedelta(days=1):
            break
    return found


class TestMinutesOfSamples:
    @pytest.mark.sql_reference(
        "traffic",
        "traffic_samples",
        "traffic_tails",
        "traffic_stream_days",
        "traffic_streams",
        "traffic_turns",
        "traffic_judged_turns",
        "traffic_hourly_resets",
        "traffic_counted_turns",
        "traffic_held_streams",
        "traffic_steps",
        "traffic_corrections",
        "traffic_epochs",
        "traffic_minutes",
        "traffic_owners",
        "traffic_owned_minutes",
        "traffic_suspects",
        "traffic_last_samples",
        "traffic_minute_rows",
        "traffic_hours",
        "traffic_sample_outcomes",
        "traffic_not_billable",
        "traffic_conserved_bytes",
    )
    @pytest.mark.parametrize("seed", range(12))
    def test_equal_the_reference(self, tmp_path: Path, seed: int) -> None:
        samples = histories(seed)
        found = Reference(first_snapshots(samples), SOURCES).days(samples)
        expected = reference_minutes(found)
        with scan(tmp_path, kept(samples)) as result:
            assert minutes_of(result) == expected
            assert usage_of(result) == reference_usage(expected)
            busy = busy_minutes_of(result)
            # a row of a meter without bytes is none
            assert busy == {key: n for key, n in reference_busy_minutes(expected).items() if key in busy}
            assert left_out_of(result) == reference_left_out(kept(samples), found)
            assert suspects_of(result) == reference_suspects(found)
            facts = result.facts()
            for day in DAYS:
                assert_conserved(facts[day], found.get(day, {}))

    @pytest.mark.sql_reference("traffic_repeats", "traffic_sorted_samples")
    @pytest.mark.parametrize("seed", range(100, 104))
    def test_do_not_depend_on_order_or_copies(self, tmp_path: Path, seed: int) -> None:
        samples, chance = histories(seed), random.Random(seed)
        copies = chance.sample(samples, 20)
        with scan(tmp_path, kept(samples)) as result:
            expected, usage = minutes_of(result), usage_of(result)
        shuffled = [*samples, *copies]
        chance.shuffle(shuffled)
        with scan(tmp_path, shuffled) as result:
            assert (minutes_of(result), usage_of(result)) == (expected, usage)
            facts = result.facts().values()
            assert sum(one.duplicates for one in facts) == len(copies)
            assert sum(one.samples_read for one in facts) == len(samples) + len(copies)

    @pytest.mark.sql_reference("traffic_day_tail", "traffic_early_holds", "traffic_last_samples")
    @pytest.mark.parametrize("seed", range(200, 204))
    def test_of_days_one_by_one_equal_those_of_all_days_at_once(self, tmp_path: Path, seed: int) -> None:
        samples = histories(seed)
        firsts = first_snapshots(samples)
        with scan(tmp_path, kept(samples)) as result:
            expected, earlier = minutes_of(result), result.earlier_digests()
            tails = {day: result.write_tail(day).digest for day in DAYS}
            held_after = {day - timedelta(days=1): streams for day, streams in result.early_holds().items()}
        one_by_one: Minutes = {}
        tail: Path | None = None
        for day in DAYS:
            with scan(tmp_path, kept(samples), days=(day,), tail=tail, firsts=firsts, held_after=held_after) as result:
                one_by_one |= minutes_of(result, [day])
                written = result.write_tail(day)
                assert written.digest == tails[day]
                assert result.earlier_digests().get(day) == earlier.get(day)
                tail = tmp_path / "tail.parquet"
                tail.write_bytes(written.file.read_bytes())
        assert one_by_one == expected

    def test_of_many_samples_in_many_row_groups_equal_the_reference(self, tmp_path: Path) -> None:
        # DuckDB works in blocks of 2,048 rows and Parquet in groups: a neighbour must be found across both
        chance = random.Random(7)
        samples = [
            Reading(
                collected_at=at("00:00") + timedelta(seconds=number * 15),
                uplink_bytes=number * 10 + chance.randrange(10),
                downlink_bytes=number * 100 if number < 4000 else number,
                account_uuid=f"{stream:08d}-1111-1111-1111-111111111111" if stream else ACME,
            )
            for stream in range(4)
            for number in range(5_000)
        ]
        found = Reference(first_snapshots(samples), SOURCES).days(samples)
        with scan(tmp_path, kept(samples), row_group_size=3_000) as result:
            assert minutes_of(result) == reference_minutes(found)
            assert_conserved(result.facts()[DAY], found[DAY])
            rows = [row for batch in result.deltas() for row in batch.to_pylist()]
            assert sum(row["uplink_bytes"] + row["downlink_bytes"] for row in rows) == result.facts()[DAY].minute_bytes

    def test_of_no_samples_are_none(self, tmp_path: Path) -> None:
        with scan(tmp_path, []) as result:
            assert (minutes_of(result), usage_of(result)) == ({}, {})
            assert [one.samples_read for one in result.facts().values()] == [0, 0, 0]

    def test_of_totals_as_large_as_they_get_are_exact(self, tmp_path: Path) -> None:
        largest = 2**63 - 1
        samples = [
            Reading(collected_at=at("00:01"), uplink_bytes=0, downlink_bytes=1),
            Reading(collected_at=at("00:02"), uplink_bytes=largest, downlink_bytes=largest),
            Reading(
                collected_at=at("00:03"), uplink_bytes=largest - 1, downlink_bytes=largest - 1, uptime_seconds=2**62
            ),
        ]
        with scan(tmp_path, samples, sources=()) as result:
            minutes = by_time(result)
            assert minutes[1] == (largest, largest - 1, "difference", 0, 0)
            assert minutes[2] == (0, 0, "reset", 1, 2 * largest - 2)
            assert usage_of(result)["acme", "total", at("00:00"), CUT_AT, "prod", "jp", "premium"] == 2 * largest - 1
            assert result.facts()[DAY].minute_bytes == result.facts()[DAY].conserved_bytes == 2 * largest - 1

    def test_that_come_to_more_than_64_bits_hold_their_stream(self, tmp_path: Path) -> None:
        almost = 2**63 - 1
        # two restarts inside a minute, each with a total that alone would do; of another stream all is well
        absurd = [
            Reading(
                collected_at=at(f"00:01:{second}"), uplink_bytes=almost - position, uptime_seconds=1, inbound_tag="x"
            )
            for position, second in enumerate(("10", "30", "50"))
        ]
        samples = [*absurd, *readings("00:01 100, 00:02 150")]
        found = Reference(first_snapshots(samples)).days(samples)
        assert found[DAY]["prod", "jp", ACME, "x"].held_for is HoldReason.BEYOND_INT64
        with scan(tmp_path, kept(samples), sources=()) as result:
            facts = result.facts()[DAY]
            assert_conserved(facts, found[DAY])
            assert facts.beyond_int64_streams == facts.held_streams == (f"prod/jp/{ACME}/x",)
            assert facts.not_billable_by_reason == {"beyond_int64": 3}
            assert [minute[0] for minute in by_time(result)] == [0, 50]
            assert [row["uplink_bytes"] for batch in result.not_billable_rows([DAY]) for row in batch.to_pylist()] == [
                3 * almost - 3
            ]

    def test_are_held_by_the_first_byte_more_than_64_bits(self, tmp_path: Path) -> None:
        for more, held in ((0, ()), (1, (f"prod/jp/{ACME}/premium",))):
            samples = [
                Reading(collected_at=at("00:01"), uplink_bytes=0),
                Reading(collected_at=at("00:02"), uplink_bytes=2**63 - 10),
                Reading(collected_at=at("00:03"), uplink_bytes=9 + more, uptime_seconds=1),
            ]
            found = Reference(first_snapshots(samples)).days(samples)
            with scan(tmp_path, samples, sources=()) as result:
                assert result.facts()[DAY].beyond_int64_streams == held
                assert_conserved(result.facts()[DAY], found[DAY])


class TestConflicts:
    def test_in_a_file_are_left_out_with_all_their_versions(self, tmp_path: Path) -> None:
        samples = readings("00:01 100, 00:02 150, 00:02 151, 00:03 180")
        with scan(tmp_path, samples, sources=()) as result:
            facts = result.facts()[DAY]
            assert (facts.samples_read, facts.billable, facts.conflicts) == (4, 2, 2)
            assert [minute[0] for minute in by_time(result)] == [0, 80]

    def test_in_the_first_snapshot_of_a_node_do_not_make_its_streams_new(self, tmp_path: Path) -> None:
        samples = readings("00:02 500, 00:03 510")
        conflicting = FirstSnapshot(
            env="prod", node="jp", collected_at=at("00:01"), conflicting_streams=((ACME, "premium"),)
        )
        with scan(tmp_path, samples, sources=(), first_snapshots_seen=(conflicting,)) as result:
            assert [minute[0] for minute in by_time(result)] == [0, 10]
