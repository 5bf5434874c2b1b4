"""Storage of event days in PostgreSQL: which days are stale, and building them from the lake, one after the other.

A day begins with what the day before has left (lake dataset usage/storage_tails), never with history; only rows that differ are
rewritten. Not here: what counts (sql/storage_*), building a run of days (storage_builder), when to build (assets).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

from billing_pipeline.catalog import Catalog
from billing_pipeline.errors import BillingError
from billing_pipeline.meters import MeterSource
from resources import guard_store
from resources.catalog_store import CatalogStore
from resources.storage_builder import StorageBuilder, Workplace
from resources.storage_builder import StorageDayBuild as StorageDayBuild
from resources.storage_inputs import ASSET, DAY, StorageInputs, day_end, read_inputs
from resources.usage_rules import UsageRules, usage_rules

ATTEMPTS = 5

Progress = Callable[[str, int, int], None]


class StorageInputsKeepChangingError(BillingError):
    """What a day is made of was replaced each time that it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageUsageStore(Workplace):
    """Builds usage.storage and what is behind it."""

    def stale_days(self, now: datetime | None = None) -> tuple[date, ...]:
        """Return the days whose inputs or rules differ from what they were last built from, ascending.

        From the first evidence to the last; with `now`, also the days since then without any, but only those that have ended and
        no more than the oldest age of a snapshot and a day: those are incomplete and say so, and so would each day after them.
        Among them: held days that a person has released since.

        Raises:
            CatalogNotLoadedError: there are no rules to compare with.
        """
        catalog = CatalogStore(self.database).current()
        last_day = None if now is None else now.astimezone(UTC).date() - DAY
        with self.database.reading() as connection:
            inputs = read_inputs(connection, sorted(self.sources), last_day=last_day)
            held = {
                day.isoformat(): inputs.digest(day, inputs.opening(day))
                for day, one in inputs.days.items()
                if one.is_held
            }
            let_through = guard_store.let_through(connection, ASSET, held)
        if last_day is not None and inputs.last_evidence is not None:
            last_day = min(last_day, (day_end(inputs.last_evidence) + self.policy.max_snapshot_age).date())
        days = [day for day in inputs.days if last_day is None or day <= last_day]
        digests = self._rules(catalog, days).digests
        return tuple(
            day
            for day in days
            if inputs.days[day].built_inputs_digest != inputs.digest(day, inputs.opening(day))
            or inputs.days[day].built_rules_digest != digests[day]
            or day.isoformat() in let_through
        )

    def build_days(
        self,
        days: Sequence[date],
        *,
        run_id: str,
        code_version: str,
        as_of: datetime | None = None,
        on_progress: Progress | None = None,
    ) -> tuple[StorageDayBuild, ...]:
        """Build `days` and what hangs on them, and return what became of each, by day.

        With them are built: days before them that never were, as each begins with what the one before has left; the days after
        them up to the one that a change does not reach any more, which is the next snapshot's; and earlier days whose repositories
        began otherwise than was known. `as_of` inside a day: its states reach to there.

        Raises:
            CatalogNotLoadedError: there are no rules yet.
            LakeFileMissingError: PostgreSQL points at a lake file that is not there.
            StorageInputsKeepChangingError: a day changed during each of several attempts.
            DiskError: the scratch folder cannot be written.
        """
        catalog = CatalogStore(self.database).current()
        builds: dict[date, StorageDayBuild] = {}
        wanted, before = sorted(set(days)), None
        for _ in range(ATTEMPTS):
            inputs = self._inputs(wanted)
            wanted = sorted({*wanted, *builds, *_never_built(inputs, wanted), *_began_otherwise(inputs, before)})
            before = inputs
            remaining = [
                day
                for day in wanted
                if day not in builds or builds[day].inputs_digest != inputs.digest(day, inputs.opening(day), as_of)
            ]
            if not remaining:
                return tuple(builds[day] for day in wanted)
            rules = self._rules(catalog, [day for day in inputs.days if day >= remaining[0]])
            for run in _runs(remaining):
                builder = StorageBuilder(self, inputs, rules, run_id=run_id, code_version=code_version, as_of=as_of)
                for build in builder.build(run):
                    builds[build.day] = build
                    if on_progress:
                        on_progress("event days", len(builds), max(len(wanted), len(builds)))
        raise StorageInputsKeepChangingError(
            f"Storage of {remaining[0]} to {remaining[-1]} was not built: inputs changed during each of {ATTEMPTS} attempts.",
            bill="These days keep their last good usage, or none; other days of this run are built.",
            fix="Wait until the delivery is ingested, then build the days again.",
        )

    def _inputs(self, wanted: Sequence[date]) -> StorageInputs:
        with self.database.reading() as connection:
            return read_inputs(
                connection,
                sorted(self.sources),
                first_day=min(wanted, default=None),
                last_day=max(wanted, default=None),
            )

    def _rules(self, catalog: Catalog, days: Sequence[date]) -> UsageRules:
        rules = usage_rules(catalog, days, MeterSource.STORAGE)
        digests = {
            day: hashlib.sha256(f"{one}|{self.policy.digest}".encode()).hexdigest()
            for day, one in rules.digests.items()
        }
        return replace(rules, digests=digests)


def _never_built(inputs: StorageInputs, days: Sequence[date]) -> list[date]:
    """Return the days up to the last of `days` that have no tail: without them the chain of days has a hole."""
    last = max(days, default=None)
    return [day for day, one in inputs.days.items() if last is not None and day <= last and one.tail is None]


def _began_otherwise(inputs: StorageInputs, before: StorageInputs | None) -> list[date]:
    """Return the built days of which a build since `before` has found out how their repositories began."""
    if before is None:
        return []
    return [
        day
        for day, one in inputs.days.items()
        if one.tail is not None and day in before.days and one.bases_digest != before.days[day].bases_digest
    ]


def _runs(days: Sequence[date]) -> Iterator[tuple[date, ...]]:
    """Yield runs of days that follow each other."""
    run: list[date] = []
    for day in days:
        if run and day != run[-1] + DAY:
            yield tuple(run)
            run = []
        run.append(day)
    if run:
        yield tuple(run)
