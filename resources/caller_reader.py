"""Read who called what, from the current generations of the lake: the clients and endpoints that a catalog must name.

Counts are of accepted records, duplicates across deliveries included. Not here: who pays (catalog).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from billing_pipeline.records import UNMATCHED_ENDPOINT
from resources import duck
from resources.database import Database
from resources.lake import Lake
from resources.settings import Settings

_DATASET = "core/request_records"


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """What a landing's logs hold. `clients` from the busiest to the quietest; endpoints are matched templates only."""

    clients: tuple[str, ...]
    endpoints: tuple[tuple[str, str], ...]
    first_day: date | None
    last_day: date | None


def read_callers(database: Database, settings: Settings) -> Callers:
    """Return the clients and the (method, endpoint) pairs of everything that was ingested."""
    with database.reading() as connection:
        uris = [
            uri
            for (uri,) in connection.execute(
                """
                select uri
                from core.lake_partition
                join core.lake_generation using (dataset, partition_key, generation)
                where dataset = %s and row_count > 0
                order by partition_key
                """,
                (_DATASET,),
            ).fetchall()
        ]
    if not uris:
        return Callers(clients=(), endpoints=(), first_day=None, last_day=None)
    lake = Lake(settings.lake_url, settings.scratch_dir)
    return _callers([str(lake.fetch(uri)) for uri in uris], settings)


def _callers(files: Sequence[str], settings: Settings) -> Callers:
    with duck.connect(settings.scratch_dir) as connection:
        clients = connection.execute(
            "select client_id from read_parquet($files) group by client_id order by count(*) desc, client_id",
            {"files": list(files)},
        ).fetchall()
        endpoints = connection.execute(
            """
            select distinct method, endpoint
            from read_parquet($files)
            where endpoint <> $unmatched
            order by endpoint, method
            """,
            {"files": list(files), "unmatched": UNMATCHED_ENDPOINT},
        ).fetchall()
        ((first_day, last_day),) = connection.execute(
            "select min(event_at)::date, max(event_at)::date from read_parquet($files)", {"files": list(files)}
        ).fetchall()
    return Callers(
        clients=tuple(client for (client,) in clients),
        endpoints=tuple((method, endpoint) for method, endpoint in endpoints),
        first_day=first_day,
        last_day=last_day,
    )
