"""Generate a month of storage, the same from the same seed: snapshots a day, object events, visibility flips, as lake files by day.

Grain: as the lake's datasets. Every repository has a snapshot at the first midnight and one at 06:00 of each day, one in a hundred
of which differs from what events gave. Events fall after 06:00; one in five objects is deleted on the day it was put; one event
in a hundred comes twice. Every value is a function of (seed, key), and whole seconds.
"""

import os
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

FIRST_DAY = date(2026, 6, 1)
SEED = 20_260_601
DATASETS = ("core/storage_snapshots", "core/object_events", "core/visibility_events")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageData:
    """A data set on disk. `events`: deliveries of object events, repeats included, about."""

    folder: Path
    repositories: int
    events: int
    days: int
    accounts: int

    @property
    def all_days(self) -> tuple[date, ...]:
        """Return the event days."""
        return tuple(FIRST_DAY + timedelta(days=number) for number in range(self.days))

    def file(self, dataset: str, day: date) -> Path:
        """Return the day's file of a dataset."""
        return self.folder / f"{dataset.split('/')[1]}-{day}.parquet"

    def files(self, dataset: str) -> list[str]:
        """Return all files of a dataset by day."""
        return [str(self.file(dataset, day)) for day in self.all_days]

    @property
    def size_bytes(self) -> int:
        """Return the size of all files."""
        return sum(Path(path).stat().st_size for dataset in DATASETS for path in self.files(dataset))


def storage_data(folder: Path, *, repositories: int, events: int, days: int, accounts: int) -> StorageData:
    """Return the data set below `folder`, written if it is not there."""
    name = f"storage-{repositories}-{events}-{days}-{accounts}"
    data = StorageData(folder=folder / name, repositories=repositories, events=events, days=days, accounts=accounts)
    if not data.folder.exists():
        draft = folder / f"{name}.tmp"
        draft.mkdir(parents=True, exist_ok=True)
        _write(StorageData(folder=draft, repositories=repositories, events=events, days=days, accounts=accounts))
        os.replace(draft, data.folder)
    return data


def _write(data: StorageData) -> None:
    import duckdb

    with duckdb.connect(":memory:") as connection:
        connection.execute(_tables(data))
        for day in data.all_days:
            for dataset, query in _QUERIES.items():
                target = data.file(dataset, day)
                connection.execute(f"copy ({query.format(day=day)}) to '{target}' (format parquet, compression zstd)")


def _tables(data: StorageData) -> str:
    puts = data.events * 100 // 121
    return f"""
        create table puts as
        select
            i,
            least(floor({data.repositories} * pow(hash(i, 1, {SEED}) / 18446744073709551616.0, 3)), {data.repositories - 1})::bigint
                as repository,
            (hash(i, 2, {SEED}) % {data.days})::integer as day_number,
            21601 + (hash(i, 3, {SEED}) % 50000)::integer as second,
            (1000 + hash(i, 4, {SEED}) % 100000000)::bigint as bytes,
            i % 5 = 0 as is_deleted,
            21601 + 50001 + (hash(i, 5, {SEED}) % 14000)::integer as deleted_second,
        from range({puts}) as numbers (i);
        create table events as
        select i, repository, day_number, second, 'PutObject' as event_name, 'put' as action, bytes, md5('put/' || i) as event_id
        from puts
        union all
        select i, repository, day_number, deleted_second, 'DeleteObject', 'delete', null, md5('delete/' || i)
        from puts
        where is_deleted;
        insert into events select * from events where hash(event_id, {SEED}) % 100 = 0;
        create table grown as
        select repository, day_number, sum(case when is_deleted then 0 else bytes end)::bigint as bytes
        from puts
        group by all;
        create table levels as
        select
            repository,
            day_number,
            (
                hash(repository, 6, {SEED}) % 10000000000
                + coalesce(
                    sum(coalesce(grown.bytes, 0)) over (
                        partition by repository order by day_number rows between unbounded preceding and 1 preceding
                    ),
                    0
                )
            )::bigint as bytes,
        from range({data.repositories}) as repositories (repository)
        cross join range({data.days}) as days (day_number)
        left join grown using (repository, day_number);
        create macro name_of(repository) as 'owner_' || lpad((repository % {data.accounts})::varchar, 4, '0') || '/r' || repository;
        create macro owner_of(repository) as 'owner_' || lpad((repository % {data.accounts})::varchar, 4, '0');
    """


_QUERIES = {
    "core/storage_snapshots": """
        select
            'inventory' as source, taken_at::varchar as snapshot_id, taken_at as snapshot_at, name_of(repository) as repository,
            owner_of(repository) as owner, visibility, bytes, 1::bigint as object_count, 1::bigint as file_id
        from (
            select repository, timestamp '{day} 00:00:00' as taken_at, bytes,
                case when hash(repository, 7) % 3 > 0 then 'private' else 'public' end as visibility
            from levels
            where day_number = 0 and date '{day}' = date '2026-06-01'
            union all
            select repository, timestamp '{day} 06:00:00' as taken_at,
                bytes + case when hash(repository, day_number, 8) % 100 = 0 then 1000003 else 0 end, null
            from levels
            where day_number = date '{day}' - date '2026-06-01'
        ) as snapshots (repository, taken_at, bytes, visibility)
        order by repository, snapshot_at
    """,
    "core/object_events": """
        select
            'trail' as source, event_id, null::varchar as shared_event_id,
            timestamp '{day} 00:00:00' + to_seconds(second) as event_at,
            name_of(repository) as repository, owner_of(repository) as owner, left(md5('object/' || i), 32) as object_id,
            event_name, action, bytes, null::varchar as upload_id, null::bigint as part_number, null::varchar as version_id,
            null::varchar as original_event_id, 1::bigint as file_id, row_number() over () as line_number
        from events
        where day_number = date '{day}' - date '2026-06-01'
        order by repository, event_at, event_id
    """,
    "core/visibility_events": """
        select
            'application' as source, md5('flip/' || repository || '{day}') as event_id,
            timestamp '{day} 00:00:00' + to_seconds(21601 + (hash(repository, 9) % 60000)::integer) as event_at,
            name_of(repository) as repository, 'visibility' as kind,
            case when hash(repository, date '{day}', 10) % 2 = 0 then 'private' else 'public' end as value,
            1::bigint as file_id, row_number() over () as line_number
        from levels
        where day_number = date '{day}' - date '2026-06-01' and hash(repository, day_number, 11) % 300 = 0
        order by repository, event_at
    """,
}
