"""Counter samples as ingest leaves them in the lake: a day of many streams, or many days of one node. Deterministic.

A stream's totals grow in every third minute. One of three nodes tells no uptime, one restarts at noon and tells it. Files are
sorted by stream and time, each day in its own. Written once; a note beside them tells from what.
"""

import json
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb

FIRST_DAY = date(2025, 1, 1)
# A day's streams are seen for this many minutes each, so that 30,000 streams are 20 million samples.
MINUTES_SEEN = 667
LARGEST_USERS, NODES = 10_000, 3
ACCOUNT_UUID = "md5('user ' || user_number)::uuid::varchar"

_DAY = f"""
    with
    streams as (
        select
            user_number,
            node_number,
            {ACCOUNT_UUID} as account_uuid,
            (hash(user_number, node_number) % (1440 - {MINUTES_SEEN}))::bigint as first_minute,
        from range($users) as users (user_number)
        cross join range({NODES}) as nodes (node_number)
    )
    select
        'prod' as env,
        'node-' || node_number as node,
        account_uuid,
        'premium' as inbound_tag,
        $day::timestamp + to_seconds((first_minute + minute_number) * 60 + user_number % 50) as collected_at,
        step * 1000 + (hash(user_number, node_number, step) % 900)::bigint as uplink_bytes,
        step * 9000 + (hash(step, node_number, user_number) % 8000)::bigint as downlink_bytes,
        case node_number
            when 0 then null
            when 1 then 1000000 + (first_minute + minute_number) * 60
            else case when is_restarted then (first_minute + minute_number - 720) * 60 else 1000000 end
        end::bigint as uptime_seconds,
        '25.1' as xray_version,
        'node-' || node_number as source,
        null::bigint as file_id,
        null::bigint as line_number,
    from (
        select
            *,
            node_number = 2 and first_minute + minute_number >= 720 as is_restarted,
            case
                when node_number = 2 and first_minute + minute_number >= 720
                    then (first_minute + minute_number - 720) // 3 + 1
                else minute_number // 3 + 1
            end as step,
        from streams
        cross join range({MINUTES_SEEN}) as minutes (minute_number)
    ) as samples
    order by env, node, account_uuid, inbound_tag, collected_at
"""
_DAY_OF_YEAR = f"""
    select
        'prod' as env,
        'node-0' as node,
        {ACCOUNT_UUID} as account_uuid,
        'premium' as inbound_tag,
        $day::timestamp + to_seconds(minute_number * 60 + user_number % 50) as collected_at,
        step * 1000 + (hash(user_number, step) % 900)::bigint as uplink_bytes,
        step * 9000 + (hash(step, user_number) % 8000)::bigint as downlink_bytes,
        null::bigint as uptime_seconds,
        '25.1' as xray_version,
        'node-0' as source,
        null::bigint as file_id,
        null::bigint as line_number,
    from (
        select *, ($day_number * 1440 + minute_number) // 3 + 1 as step
        from range($users) as users (user_number)
        cross join range(1440) as minutes (minute_number)
    ) as samples
    order by env, node, account_uuid, inbound_tag, collected_at
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficData:
    """Sample files in `folder`, one per day."""

    folder: Path
    users: int
    days: tuple[date, ...]
    rows: int

    def file(self, day: date) -> Path:
        """Return the samples of a day."""
        return self.folder / f"{day}.parquet"

    @property
    def files(self) -> list[str]:
        """Return all files, by day."""
        return [str(self.file(day)) for day in self.days]

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all files."""
        return sum(self.file(day).stat().st_size for day in self.days)


def day_of_streams(folder: Path, *, samples: int) -> TrafficData:
    """Return about `samples` samples of one day, of up to 10,000 users on three nodes; written now if they are not there."""
    users = max(1, min(LARGEST_USERS, samples // (NODES * MINUTES_SEEN)))
    data = TrafficData(
        folder=folder / f"traffic-day-{users}", users=users, days=(FIRST_DAY,), rows=users * NODES * MINUTES_SEEN
    )
    return _written(data, _DAY)


def days_of_node(folder: Path, *, samples: int, days: int) -> TrafficData:
    """Return about `samples` samples of one node on `days` days, a sample a minute; written now if they are not there."""
    users = max(1, samples // (1440 * days))
    data = TrafficData(
        folder=folder / f"traffic-days-{days}-{users}",
        users=users,
        days=tuple(FIRST_DAY + timedelta(days=number) for number in range(days)),
        rows=users * 1440 * days,
    )
    return _written(data, _DAY_OF_YEAR)


def _written(data: TrafficData, query: str) -> TrafficData:
    note = data.folder / "made.json"
    if note.exists():
        return data
    data.folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(":memory:") as connection:
        connection.execute("set TimeZone = 'UTC'")
        for number, day in enumerate(data.days):
            parameters = {"users": data.users, "day": day}
            if query is _DAY_OF_YEAR:
                parameters["day_number"] = number
            connection.sql(query, params=parameters).write_parquet(str(data.file(day)), compression="lz4")
    note.write_text(json.dumps({"rows": data.rows}))
    return data
