"""How an asset's body runs: which failures are tried again, how progress and days are told. Not here: the work (resources)."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from typing import Protocol

import dagster as dg
import psycopg

from resources.database import DatabaseLostError, DatabaseUnreachableError

MAX_RETRIES = 3
SECONDS_BEFORE_RETRY = 20.0
# Each line of progress is an event in Dagster's database.
SECONDS_BETWEEN_LINES = 10.0

# The pool of work that fills the machine's memory: one run of it at a time.
DUCKDB_POOL = "duckdb"


class Progress(Protocol):
    """Told how far an asset's work is; the command line draws a bar from it."""

    def __call__(self, asset: str, stage: str, done: int, total: int) -> None:
        """Take note that `done` of `total` steps of a stage are done."""


def no_progress(asset: str, stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def told(context: dg.AssetExecutionContext, asset: str, progress: Progress) -> Callable[[str, int, int], None]:
    """Return the callback for a store: passes progress on, and into the run's log now and then."""
    last = time.monotonic()

    def on_progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        progress(asset, stage, done, total)
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            context.log.info(f"{asset}: {stage} {done:,} of {total:,}")

    return on_progress


def tell_of_day(
    context: dg.AssetExecutionContext, asset: str, day: date, metadata: Mapping[str, dg.MetadataValue]
) -> None:
    """Show the metadata on the page of the day's partition, also of a day that the run did not select and has changed."""
    partition = day.isoformat()
    if partition in context.partition_keys:
        context.add_asset_metadata(dict(metadata), partition_key=partition)
    else:
        context.log_event(
            dg.AssetMaterialization(asset_key=asset.split("/"), partition=partition, metadata=dict(metadata))
        )


@contextmanager
def retried_when_transient() -> Iterator[None]:
    """Ask Dagster to run the step again when the database was the cause; every write is repeatable.

    A bad file, a bad catalog, a full disk fail at once: they fail again until a person does something.

    Raises:
        dagster.RetryRequested: instead of a lost connection, a deadlock, or a server that does not answer.
    """
    try:
        yield
    except (DatabaseLostError, DatabaseUnreachableError, psycopg.OperationalError) as error:
        if isinstance(error, psycopg.errors.DiskFull):
            raise
        raise dg.RetryRequested(max_retries=MAX_RETRIES, seconds_to_wait=SECONDS_BEFORE_RETRY) from error
