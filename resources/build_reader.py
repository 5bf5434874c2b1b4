"""Read which event day each kind of usage was built for last. Never writes. Not here: what is stale (the usage stores)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from resources.database import Database


@dataclass(frozen=True, slots=True)
class BuildReader:
    """The builds of one database."""

    database: Database

    def newest_days(self) -> Mapping[str, date]:
        """Return usage asset -> the newest event day that was built, held days too; assets never built are absent."""
        with self.database.reading() as connection:
            rows = connection.execute("select asset, max(partition_key) from usage.build group by asset").fetchall()
        return dict(rows)
