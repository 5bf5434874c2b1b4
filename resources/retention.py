"""Remove what the lake and the scratch folder hold in vain: replaced generations, and what killed processes left.

A writer never removes a generation: a reader may be at it. Rows of `core.lake_generation` are history and stay.
Not here: when to run (assets/retention), what makes a removed file again (request_store, from landing). See
docs/runbooks/restore.md and ADR 0005.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from billing_pipeline.errors import BillingError
from resources.database import Database
from resources.lake import Lake, StoredFile
from resources.scratch import sweep_scratch

DEFAULT_KEEP = timedelta(days=30)
# A process publishes before it commits: a file that PostgreSQL does not know may be about to be known.
LEFTOVERS_LAST = timedelta(days=1)
# Killed runs leave a few. More of them than files that are known look like another installation's lake.
UNKNOWN_FILES_WITHOUT_QUESTION = 100


class ForeignLakeError(BillingError):
    """Most files of the lake are of no generation in this database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retained:
    """What was removed, and what the lake still holds. `leftovers`: scratch and temporary files of dead processes."""

    removed_generations: int
    removed_unknown: int
    removed_bytes: int
    leftovers: int
    kept_files: int
    kept_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Keeps the files of one installation within bounds."""

    database: Database
    lake: Lake
    scratch_dir: Path

    def remove_unused(self, *, as_of: datetime, keep: timedelta = DEFAULT_KEEP) -> Retained:
        """Remove generations that were replaced more than `keep` ago, and leftovers that are older than a day.

        Kept in any case: what `core.lake_partition` points at, and what the last build of any event day was made of. A file
        that PostgreSQL does not know comes from a run that was killed, or from before a restore. `as_of` is aware, now.

        Raises:
            ForeignLakeError: the lake seems to be that of another database; nothing is removed.
        """
        leftovers_before = as_of - LEFTOVERS_LAST
        # Listed first: what is published meanwhile is not looked at, and what was published before is known or young.
        files = tuple(self.lake.files())
        removable, known = self._removable(as_of - keep)
        unknown = [file for file in files if file.uri not in known and file.modified_at < leftovers_before]
        _refuse_foreign(unknown, known=sum(file.uri in known for file in files))
        replaced = [file for file in files if file.uri in removable]
        for file in (*replaced, *unknown):
            self.lake.remove(file.uri)
        removed_bytes = sum(file.size_bytes for file in (*replaced, *unknown))
        leftovers = sweep_scratch(self.scratch_dir, unused_since=leftovers_before)
        leftovers += self.lake.sweep(unused_since=leftovers_before)
        return Retained(
            removed_generations=len(replaced),
            removed_unknown=len(unknown),
            removed_bytes=removed_bytes,
            leftovers=leftovers,
            kept_files=len(files) - len(replaced) - len(unknown),
            kept_bytes=sum(file.size_bytes for file in files) - removed_bytes,
        )

    def _removable(self, replaced_before: datetime) -> tuple[frozenset[str], frozenset[str]]:
        """Return the URIs that may go, and all that PostgreSQL knows.

        A partition's pointer tells when it was switched last: what it does not point at was replaced then, or before.
        """
        with self.database.reading() as connection:
            rows = connection.execute(
                """
                with
                used_uris as (
                    select distinct used ->> 'uri' as uri
                    from usage.build as build
                    cross join lateral jsonb_array_elements(build.generations) as used
                )
                select
                    generation.uri,
                    current_generation.generation <> generation.generation
                    and current_generation.updated_at < %s
                    and used_uris.uri is null as is_removable
                from core.lake_generation as generation
                left join core.lake_partition as current_generation using (dataset, partition_key)
                left join used_uris on used_uris.uri = generation.uri
                """,
                [replaced_before],
            ).fetchall()
        return frozenset(uri for uri, is_removable in rows if is_removable), frozenset(uri for uri, _ in rows)


def _refuse_foreign(unknown: Sequence[StoredFile], *, known: int) -> None:
    if len(unknown) <= max(known, UNKNOWN_FILES_WITHOUT_QUESTION):
        return
    raise ForeignLakeError(
        f"the lake holds {len(unknown)} files that this database does not know, such as {unknown[0].uri}, and {known} that "
        "it does",
        bill="nothing was removed; nothing changes",
        fix="check that BILLING_LAKE_URL and BILLING_DATABASE_URL belong together; if the database was restored from an old "
        "backup, remove these files by hand (docs/runbooks/restore.md)",
    )
