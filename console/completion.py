"""Complete names at the shell prompt, from files only: no database, and never an error into somebody's prompt."""

import tomllib
from collections.abc import Iterable
from pathlib import Path

from billing_pipeline.records import Reason
from resources.settings import PROJECT_ROOT, Settings

ASSETS = (
    "core/request_records",
    "core/traffic_samples",
    "core/storage_snapshots",
    "core/object_events",
    "core/visibility_events",
    "usage/api_requests",
    "usage/traffic",
    "usage/storage",
    "catalog/prices",
    "catalog/subscriptions",
    "billing/charges",
    "billing/ledger",
    "invoicing/items",
)
MODELS = (
    "standard",
    "graduated",
    "volume",
    "package",
    "percentage",
    "graduated_percentage",
    "dynamic",
    "matrix",
    "flat_fee",
    "minimum_spend",
    "metered_balance",
)


def accounts(incomplete: str) -> list[str]:
    """Return the account ids of the catalog's files that begin so."""
    return _beginning(incomplete, _ids("account", ("account_id", "id")))


def prices(incomplete: str) -> list[str]:
    """Return the price ids of the catalog's files that begin so."""
    return _beginning(incomplete, _ids("price", ("price_id", "id")))


def sources(incomplete: str) -> list[str]:
    """Return the source names that begin so."""
    return _beginning(incomplete, _ids("source", ("name",)))


def profiles(incomplete: str) -> list[str]:
    """Return the profiles, shipped or beside the catalog, that begin so."""
    folders = (PROJECT_ROOT / "billing_pipeline" / "profiles", Settings.from_environment().catalog_dir / "profiles")
    return _beginning(incomplete, (path.stem for folder in folders for path in folder.glob("*.toml")))


def assets(incomplete: str) -> list[str]:
    """Return the asset keys that begin so."""
    return _beginning(incomplete, ASSETS)


def models(incomplete: str) -> list[str]:
    """Return the charge models that begin so."""
    return _beginning(incomplete, MODELS)


def reasons(incomplete: str) -> list[str]:
    """Return the reasons of refusal that begin so."""
    return _beginning(incomplete, Reason)


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted({str(name) for name in names if name.startswith(incomplete)})


def _ids(block: str, keys: tuple[str, ...]) -> list[str]:
    found = []
    for path in Settings.from_environment().catalog_dir.rglob("*.toml"):
        for entry in _blocks(path, block):
            found += [entry[key] for key in keys if isinstance(entry.get(key), str)]
    return found


def _blocks(path: Path, block: str) -> list[dict[str, str]]:
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8")).get(block, [])
    except (OSError, ValueError):
        return []
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
