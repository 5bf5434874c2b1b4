"""Check, compare and describe catalogs: what is wrong with a folder, what changes for whom from when, what editors may know.

Not here: the rules (billing_pipeline.catalog), loading (`billing materialize catalog/prices`).
"""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.markup import escape

from billing_pipeline.catalog import Catalog, file_schemas
from billing_pipeline.catalog.differences import Difference, differences
from billing_pipeline.errors import BillingError
from console.kept_names import kept
from console.screen import count, page, table
from resources.catalog_store import CatalogStore, read_catalog, read_history
from resources.runtime import running
from resources.settings import Settings

LOADED = "loaded"
_SHOWN_IDS = 4


class CatalogNotNamedError(BillingError):
    """What should be compared is neither a folder nor a catalog that was loaded."""


def check_catalog(folder: Path) -> None:
    """Print what the folder holds; every finding is one error.

    Raises:
        CatalogFolderError, CatalogError: no such folder; the files are wrong, with every finding.
    """
    catalog = read_catalog(folder)
    versions = sum(len(price.versions) for price in catalog.prices.values())
    page().print(
        f"[bold green]{escape(str(folder))} is a catalog:[/] {count(len(catalog.meters))} meters, "
        f"{count(len(catalog.prices))} prices in {count(versions)} versions, {count(len(catalog.plans))} plans, "
        f"{count(len(catalog.accounts))} accounts, {count(len(catalog.subscriptions))} subscriptions"
    )
    page().print(f"sha256 {catalog.sha256}")


def show_differences(settings: Settings, before: str, after: str) -> None:
    """Print what differs between two catalogs, each a folder, `loaded`, a digest, or an instant at which it was current.

    Raises:
        CatalogNotNamedError, CatalogNotKnownError, CatalogNotLoadedError, CatalogFolderError, CatalogError: see there.
    """
    with ExitStack() as stack:
        stores = _Stores(settings, stack)
        # Two folders are compared by what they say; beside a loaded catalog a folder is what loading it would make.
        are_folders = Path(before).is_dir() and Path(after).is_dir()
        read_folder = partial(_read_alone, settings) if are_folders else lambda folder: stores.store().draft(folder)
        found = differences(
            *(catalog_named(name, store=stores.store, read_folder=read_folder) for name in (before, after))
        )
    if not found:
        page().print("No difference: both catalogs bill the same.")
        return
    shown = table(
        "What changes, for whom, from when", "entry", "change", "fields", "subscriptions", "accounts", "since"
    )
    for one in found:
        shown.add_row(
            escape(f"{one.kind} {one.entry_id}" + (f" version {one.version}" if one.version > 1 else "")),
            one.change,
            escape("\n".join(_fields(one)) or "-"),
            escape(_ids(one.subscriptions)),
            escape(_ids(one.accounts)),
            "-" if one.since is None else f"{one.since:%Y-%m-%d %H:%M}",
        )
    page().print(shown)
    subscriptions = {one for difference in found for one in difference.subscriptions}
    page().print(
        f"{count(len(found))} entries differ; {count(len(subscriptions))} subscriptions are concerned. Times are UTC."
    )


def show_history(settings: Settings) -> None:
    """Print which catalogs were current, and from when on."""
    with running(settings) as runtime:
        rows = read_history(runtime.database)
    shown = table(
        "Catalogs that were current",
        "since (UTC)",
        "sha256",
        "entries begun",
        "entries ended",
        numbers=("entries begun", "entries ended"),
    )
    for row in rows:
        shown.add_row(
            f"{row.activated_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            row.catalog_sha256[:16],
            count(row.begun),
            count(row.ended),
        )
    page().print(shown)


def write_schemas(folder: Path) -> None:
    """Write the JSON Schema of every catalog file into `folder`.

    Raises:
        CatalogNotNamedError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, schema in file_schemas().items():
            (folder / name).write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise CatalogNotNamedError(
            f"the schemas cannot be written to {folder}: {error.strerror}",
            bill="nothing changed",
            fix="name a folder that you may write with --out",
        ) from error
    page().print(f"Wrote {len(file_schemas())} schemas to {escape(str(folder))}")


@dataclass(frozen=True, slots=True)
class _Stores:
    """The catalog store, opened when it is needed first: two folders are compared without a database."""

    settings: Settings
    stack: ExitStack
    opened: list[CatalogStore] = field(default_factory=list)

    def store(self) -> CatalogStore:
        if not self.opened:
            database = self.stack.enter_context(running(self.settings)).database
            self.opened.append(CatalogStore(database, partial(kept, self.settings)))
        return self.opened[0]


def _read_alone(settings: Settings, folder: Path) -> Catalog:
    return read_catalog(folder, partial(kept, settings))


def catalog_named(name: str, *, store: Callable[[], CatalogStore], read_folder: Callable[[Path], Catalog]) -> Catalog:
    """Return the catalog of a folder, or one that PostgreSQL knows: `loaded`, by digest, or current at an instant.

    Raises:
        CatalogFolderError, CatalogError: no such folder; its files are wrong. CatalogNotKnownError: there is no such catalog.
        CatalogNotNamedError: it is none of these.
    """
    if Path(name).is_dir() or "/" in name:
        return read_folder(Path(name))
    if name == LOADED:
        return store().current()
    if len(name) >= 6 and set(name) <= set("0123456789abcdef"):
        return store().release(name)
    try:
        instant = datetime.fromisoformat(name)
    except ValueError:
        raise CatalogNotNamedError(
            f"{name!r} names no catalog",
            bill="nothing was compared",
            fix="give a folder, `loaded`, a digest of `billing catalog history`, or an instant such as 2026-03-01T00:00Z",
        ) from None
    return store().known_at(instant if instant.tzinfo else instant.replace(tzinfo=UTC))


def _fields(difference: Difference) -> list[str]:
    return [str(field) for field in difference.fields]


def _ids(ids: Sequence[str]) -> str:
    if len(ids) <= _SHOWN_IDS:
        return ", ".join(ids) or "none"
    return f"{count(len(ids))}: {', '.join(ids[:_SHOWN_IDS])}, …"
