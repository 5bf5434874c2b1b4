"""Read what every repository held: one row each over all days that were built. Read-only.

Not here: the states of one repository in order (timeline_reader), making them (storage_usage_store).
"""

from dataclasses import dataclass
from decimal import Decimal

from psycopg.rows import class_row

from resources.database import Database

_GB_HOUR = Decimal(3600 * 10**9)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryTotal:
    """A repository: as it was last, and what it held so far. `accounts`: all that paid for a part of it.

    `drift_bytes`: what snapshots said more (or less) than the events before them, together.
    """

    repository: str
    bytes: int
    visibility: str | None
    owner: str | None
    accounts: tuple[str, ...]
    private_byte_seconds: Decimal
    public_byte_seconds: Decimal
    drift_bytes: int

    @property
    def private_gb_hours(self) -> Decimal:
        """Return GB x hours of the private states, GB = 10^9 bytes."""
        return self.private_byte_seconds / _GB_HOUR

    @property
    def public_gb_hours(self) -> Decimal:
        """Return GB x hours of the public states."""
        return self.public_byte_seconds / _GB_HOUR


def read_repositories(database: Database, *, limit: int) -> tuple[RepositoryTotal, ...]:
    """Return the repositories that held most, the greatest first."""
    with database.reading() as connection:
        rows = (
            connection.cursor(row_factory=class_row(RepositoryTotal))
            .execute(
                """
                with
                drifts as (
                    select repository, sum(drift_bytes) as drift_bytes from usage.storage_drift group by repository
                ),
                totals as (
                    select
                        repository,
                        (array_agg(bytes order by segment_start desc))[1] as bytes,
                        (array_agg(visibility order by segment_start desc))[1] as visibility,
                        (array_agg(owner order by segment_start desc))[1] as owner,
                        coalesce(
                            array_agg(distinct account_id order by account_id) filter (where account_id is not null), '{}'
                        ) as accounts,
                        coalesce(sum(byte_seconds) filter (where visibility = 'private'), 0) as private_byte_seconds,
                        coalesce(sum(byte_seconds) filter (where visibility = 'public'), 0) as public_byte_seconds
                    from usage.storage_state
                    group by repository
                )
                select
                    totals.repository,
                    totals.bytes,
                    totals.visibility,
                    totals.owner,
                    totals.accounts,
                    totals.private_byte_seconds,
                    totals.public_byte_seconds,
                    coalesce(drifts.drift_bytes, 0)::bigint as drift_bytes
                from totals
                left join drifts using (repository)
                order by totals.private_byte_seconds + totals.public_byte_seconds desc, totals.repository collate "C"
                limit %s
                """,
                [limit],
            )
            .fetchall()
        )
    return tuple(rows)
