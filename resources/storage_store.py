"""Deliveries about storage into the lake: listings, discovery, ingest of delivery days. The one door to all of it.

Datasets: core/storage_snapshots (with core/storage_objects), core/object_events, core/visibility_events. Everything that a delivery
day changes is one transaction under its lock; killed anywhere, the same call again ends in the same state. A guard that holds
stands in guards.verdict under the dataset and the delivery day. Not here: timelines and usage (storage_usage_store).
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from billing_pipeline.errors import BillingError
from billing_pipeline.sources.personal_names import Pseudonymise
from billing_pipeline.sources.storage_reasons import StorageReason
from resources import bucket_listing, delivery_manifest, duck, storage_discovery
from resources.bucket_listing import TakenListing
from resources.database import Database
from resources.disk import disk_failures_explained
from resources.event_ingest import EventIngest
from resources.lake import Lake
from resources.landing import Landing
from resources.scratch import sweep_scratch
from resources.snapshot_ingest import SnapshotIngest
from resources.storage_config import DATASETS, SNAPSHOTS, Kind, StorageSource
from resources.storage_day import Progress, Run, StorageDayIngest, StorageHands
from resources.storage_discovery import StorageDiscovery

LEFTOVERS_LAST = timedelta(days=1)


class UnknownDatasetError(BillingError):
    """A dataset that storage has not."""


class SameInstantError(BillingError):
    """A held snapshot cannot be accepted: another one of the same instant counts."""


class StorageStore:
    """Everything about delivered storage facts, over the landing zone, the lake and PostgreSQL."""

    def __init__(
        self,
        database: Database,
        lake: Lake,
        landing: Landing,
        sources: Sequence[StorageSource],
        scratch_dir: Path,
        *,
        landing_url: str,
        memory_limit: str = "1GB",
        threads: int = 2,
        pseudonymise: Pseudonymise | None = None,
    ) -> None:
        """`pseudonymise` None: owners and repositories that are named after an e-mail address are refused."""
        self._sources = tuple(sources)
        self._hands = StorageHands(
            database=database,
            lake=lake,
            landing=landing,
            landing_url=landing_url,
            scratch_dir=scratch_dir,
            memory_limit=memory_limit,
            threads=threads,
            pseudonymise=pseudonymise,
        )

    @property
    def source_names(self) -> frozenset[str]:
        """Return the names of the storage sources, as the manifest has them."""
        return frozenset(source.name for source in self._sources)

    def take_listings(self, *, now: datetime) -> tuple[TakenListing, ...]:
        """List every place that is to be listed and has no listing of the UTC day of `now`; return what was listed."""
        listings = []
        for source in self._sources:
            if source.kind is Kind.LISTING:
                listing = bucket_listing.take_listing(
                    source,
                    landing=self._hands.landing,
                    landing_url=self._hands.landing_url,
                    scratch_dir=self._hands.scratch_dir,
                    now=now,
                )
                if listing is not None:
                    listings.append(listing)
        return tuple(listings)

    def discover(self, *, seen_at: datetime) -> StorageDiscovery:
        """Register every delivery that the manifest does not know. The same again: nothing."""
        return storage_discovery.discover(self._hands.database, self._hands.landing, self._sources, seen_at=seen_at)

    def delivery_days(self, dataset: str, *, pending_only: bool) -> tuple[date, ...]:
        """Return the delivery days of a dataset with files, or only those with files that wait to be read."""
        names = [source.name for source in self._of(dataset)]
        with self._hands.database.reading() as connection:
            return delivery_manifest.delivery_days(connection, names, pending_only=pending_only)

    def ingest_days(
        self,
        dataset: str,
        days: Sequence[date],
        *,
        run_id: str,
        code_version: str,
        on_progress: Progress | None = None,
    ) -> tuple[StorageDayIngest, ...]:
        """Publish the generation of each delivery day, in order of days, and return what each holds.

        A day that is up to date is not read; its verdicts are written anew.

        Raises:
            StorageFileGoneError: a file that counts has to be read again and cannot be.
            StorageDeliveryChangingError: files kept arriving.
            PublicKeysError: digests cannot be verified for lack of readable keys.
        """
        sources = {source.name: source for source in self._of(dataset)}
        run = Run(run_id=run_id, code_version=code_version)
        hands = self._hands
        sweep_scratch(hands.scratch_dir, unused_since=datetime.now(UTC) - LEFTOVERS_LAST)
        done = {}
        with (
            disk_failures_explained(hands.scratch_dir),
            duck.connect(hands.scratch_dir, hands.memory_limit, hands.threads) as engine,
        ):
            ingest: SnapshotIngest | EventIngest
            if dataset == SNAPSHOTS:
                ingest = SnapshotIngest(hands, sources, engine, run)
            else:
                ingest = EventIngest(hands, dataset, sources, engine, run)
            for number, day in enumerate(sorted(set(days))):
                if on_progress is not None:
                    on_progress(f"reading deliveries of {day}", number, len(days))
                done[day] = ingest.ingest(day)
        return tuple(done[day] for day in days)

    def accept_held(self, file_id: int, *, actor: str, reason: str) -> bool:
        """Let a held file be read with its delivery day, as a person decided. Bounds no longer stop it.

        Raises:
            SameInstantError: another snapshot of the same instant counts, and a repository has one size at a time.
        """
        names = [source.name for source in self._sources]
        with self._hands.database.transaction() as connection:
            held = connection.execute(
                "select key, reason, detail from core.source_file where file_id = %s and status = 'held' and source = any(%s)",
                [file_id, names],
            ).fetchone()
            if held is None:
                return False
            if held[1] == StorageReason.SAME_INSTANT_OTHER_CONTENT:
                raise SameInstantError(
                    f"{held[0]} cannot be accepted: {held[2]}",
                    bill="nothing changed; the snapshot that was taken first stays counted",
                    fix="deliver a later snapshot: sizes follow it from its instant on",
                )
            connection.execute(
                "update core.source_file set status = 'pending', detail = %s where file_id = %s",
                [f"accepted by {actor}: {reason}", file_id],
            )
        return True

    def _of(self, dataset: str) -> tuple[StorageSource, ...]:
        if dataset not in DATASETS:
            raise UnknownDatasetError(
                f"{dataset} is not delivered about storage",
                bill="nothing was read",
                fix=f"name one of {', '.join(DATASETS)}",
            )
        return tuple(source for source in self._sources if source.dataset == dataset)
