"""Keep the catalog in PostgreSQL: a folder of files becomes the current catalog, every version that was ever loaded stays.

The files in git are the truth; `catalog.entry` mirrors them. What a booked charge rests on is not edited: it gets a further
version. Not here: what a catalog may say (billing_pipeline.catalog).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from billing_pipeline.catalog import (
    FILES,
    Catalog,
    CatalogError,
    EntryContent,
    Finding,
    Kind,
    parse_catalog,
    restore_catalog,
)
from billing_pipeline.catalog.entries import Price
from billing_pipeline.catalog.sourced import StatementFinding, merged_catalog
from billing_pipeline.errors import BillingError
from billing_pipeline.sources.personal_names import Pseudonymise, has_address
from resources.catalog_mirror import write_mirror
from resources.database import Database
from resources.subscriptions.source import SOURCES
from resources.subscriptions.statements import at_sources, record_merged

# Fields that may change in an entry that is in use: they change what will be, or who a bill is for, not what was rated.
_FREE_FIELDS: Mapping[Kind, frozenset[str]] = {
    Kind.ACCOUNT: frozenset({"name", "clients", "stripe_customer", "coupons"}),
    Kind.SUBSCRIPTION: frozenset({"ends_at", "invoice_with", "stripe_subscription", "coupons"}),
}
_NOTHING_LOADED = "nothing of this catalog is loaded; charges go on with the one loaded before"


class CatalogFolderError(BillingError):
    """The catalog folder cannot be read."""


class CatalogNotLoadedError(BillingError):
    """PostgreSQL holds no catalog yet."""


class CatalogNotKnownError(BillingError):
    """A catalog of the past that PostgreSQL does not hold."""


class CatalogEntryInUseError(BillingError):
    """An entry that booked charges rest on was edited or removed."""


# Files of the catalog folder that say how this installation works, not what is billed: what is delivered (source_config,
# traffic_config, storage_config), how invoices are made and sent (invoicing/policy_file, stripe_sync/policy_file), who is told.
INGESTION_FILES = frozenset(
    {"sources.toml", "traffic.toml", "storage.toml", "alerts.toml", "canary.toml", "invoicing.toml", "stripe.toml"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogLoad:
    """What a load did. `changed` is False when PostgreSQL held this very catalog already. `left_out` are statements about
    subscriptions that wait, and why."""

    catalog_sha256: str
    changed: bool
    entries: int
    added: tuple[str, ...]
    edited: tuple[str, ...]
    removed: tuple[str, ...]
    left_out: tuple[StatementFinding, ...] = ()


_Key = tuple[Kind, str, int]


@dataclass(frozen=True, slots=True)
class CatalogStore:
    """The catalog of one database.

    `pseudonymise` turns e-mail addresses among clients into the pseudonyms that deliveries are kept under; None: they are refused.
    """

    database: Database
    pseudonymise: Pseudonymise | None = None

    def load(self, folder: Path) -> CatalogLoad:
        """Read `folder` and the other sources of subscriptions; refuse the folder with every finding, or make both the current
        catalog. Again: nothing. Statements of other sources that are wrong wait, and the load goes on.

        Raises:
            CatalogFolderError: no such folder.
            CatalogError: the files are wrong, with every finding.
            CatalogEntryInUseError: an entry that booked charges rest on was edited or removed.
        """
        files = _files_in(folder)
        # Booking holds its lock to the end, so that no charge is booked with an entry that this load is replacing.
        with self.database.transaction("billing/charges", "catalog") as connection:
            sourced = [one for source in SOURCES for one in source.read(connection)]
            merged = merged_catalog(files, sourced, self.pseudonymise)
            _refuse_addresses(merged.catalog)
            load = _load(connection, merged.catalog)
            record_merged(connection, merged)
        return replace(load, left_out=merged.findings)

    def draft(self, folder: Path) -> Catalog:
        """Return the catalog that a load of `folder` would make current, the other sources of subscriptions included.

        Raises:
            CatalogFolderError, CatalogError: as `load`.
        """
        files = _files_in(folder)
        with self.database.transaction("catalog") as connection:
            # A source may note what it has read: a load keeps that, a draft does not.
            sourced = [one for source in SOURCES for one in source.read(connection)]
            connection.rollback()
        return merged_catalog(files, sourced, self.pseudonymise).catalog

    def current(self) -> Catalog:
        """Return the catalog that charges are rated with now.

        Raises:
            CatalogNotLoadedError: none was loaded.
        """
        with self.database.reading() as connection:
            return current_catalog(connection)

    def known_at(self, instant: datetime) -> Catalog:
        """Return the catalog that was current at `instant`, as it was known then.

        Raises:
            CatalogNotKnownError: none was loaded by then.
        """
        with self.database.reading() as connection:
            return catalog_known_at(connection, instant)

    def release(self, catalog_sha256: str) -> Catalog:
        """Return a catalog that was current once, by its digest or the digits that it begins with.

        Raises:
            CatalogNotKnownError: no such catalog, or several.
        """
        with self.database.reading() as connection:
            return catalog_release(connection, catalog_sha256)


def read_catalog(folder: Path, pseudonymise: Pseudonymise | None = None) -> Catalog:
    """Return the catalog that a folder's files spell, without PostgreSQL; with `pseudonymise`, as `load` keeps it.

    Raises:
        CatalogFolderError: no such folder, or a file that cannot be read.
        CatalogError: the files are wrong, with every finding.
    """
    return parse_catalog(_files_in(folder), pseudonymise)


def _refuse_addresses(catalog: Catalog) -> None:
    """Refuse clients that are e-mail addresses: deliveries are kept without, so none would ever match."""
    named = [
        account.account_id
        for account in catalog.accounts.values()
        if any(has_address(client.client_id) for client in account.clients)
    ]
    if named:
        raise CatalogError(
            Finding(
                file=FILES[Kind.ACCOUNT],
                entry=account_id,
                field="clients",
                message="names a client by an e-mail address, and there is no key to make its pseudonym with",
            )
            for account_id in named
        )


def _files_in(folder: Path) -> dict[str, bytes]:
    """Return the TOML files of the folder by name; what belongs to ingestion (`INGESTION_FILES`) is left out."""
    if not folder.is_dir():
        raise CatalogFolderError(
            f"there is no catalog folder {folder}",
            bill=_NOTHING_LOADED,
            fix="set BILLING_CATALOG_DIR to the folder that holds prices.toml, or create it",
        )
    try:
        return {
            path.name: path.read_bytes() for path in sorted(folder.glob("*.toml")) if path.name not in INGESTION_FILES
        }
    except OSError as error:
        raise CatalogFolderError(
            f"the catalog in {folder} cannot be read: {error.strerror} ({error.filename})",
            bill=_NOTHING_LOADED,
            fix="give this user the right to read the folder and its files",
        ) from error


def current_catalog(connection: psycopg.Connection) -> Catalog:
    """Return the current catalog as this transaction sees it.

    Raises:
        CatalogNotLoadedError: none was loaded.
    """
    rows = connection.execute(
        """
        select entry.kind, entry.content::text
        from catalog.current_entry
        join catalog.entry using (kind, entry_id, version, content_sha256)
        order by entry.kind, entry.entry_id, entry.version
        """
    ).fetchall()
    if not rows:
        raise CatalogNotLoadedError(
            "no catalog is loaded",
            bill="without prices and accounts there is no usage to count and nothing to charge",
            fix="run `billing materialize catalog/prices`, which loads the catalog folder",
        )
    try:
        return restore_catalog((Kind(kind), content) for kind, content in rows)
    except CatalogError as error:
        raise CatalogError(at_sources(connection, error.findings)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A catalog that became current, and how many contents it began and ended."""

    activated_at: datetime
    catalog_sha256: str
    begun: int
    ended: int


def read_history(database: Database) -> tuple[Activation, ...]:
    """Return the catalogs that were current, the newest first."""
    with database.reading() as connection:
        rows = connection.execute(
            """
            with
            begun_by_activation as (
                select known_from as activation, count(*) as contents from catalog.entry_span group by known_from
            ),
            ended_by_activation as (
                select known_to as activation, count(*) as contents from catalog.entry_span group by known_to
            )
            select activated_at, catalog_sha256, coalesce(begun.contents, 0), coalesce(ended.contents, 0)
            from catalog.activation
            left join begun_by_activation as begun using (activation)
            left join ended_by_activation as ended using (activation)
            order by activation desc
            """
        ).fetchall()
    return tuple(Activation(activated_at=row[0], catalog_sha256=row[1], begun=row[2], ended=row[3]) for row in rows)


def catalog_known_at(connection: psycopg.Connection, instant: datetime) -> Catalog:
    """Return the catalog that was current at `instant`.

    Raises:
        CatalogNotKnownError: none was loaded by then.
    """
    row = connection.execute(
        "select activation from catalog.activation where activated_at <= %s order by activation desc limit 1", [instant]
    ).fetchone()
    if row is None:
        raise CatalogNotKnownError(
            f"no catalog was loaded by {instant.isoformat()}",
            bill="nothing was charged by a catalog then",
            fix="ask for a later instant; `billing catalog history` lists when catalogs were loaded",
        )
    return _catalog_of_activation(connection, row[0])


def catalog_release(connection: psycopg.Connection, catalog_sha256: str) -> Catalog:
    """Return a catalog that was current once, by its digest or the digits that it begins with.

    Raises:
        CatalogNotKnownError: no such catalog, or several.
    """
    rows = connection.execute(
        """
        select catalog_sha256, max(activation)
        from catalog.activation
        where starts_with(catalog_sha256, %s)
        group by catalog_sha256
        """,
        [catalog_sha256],
    ).fetchall()
    if len(rows) != 1:
        raise CatalogNotKnownError(
            f"{len(rows) or 'no'} catalogs begin with {catalog_sha256!r}",
            bill="nothing is shown or rated with it",
            fix="take a digest of `billing catalog history`, or more of its digits",
        )
    return _catalog_of_activation(connection, rows[0][1])


def _catalog_of_activation(connection: psycopg.Connection, activation: int) -> Catalog:
    rows = connection.execute(
        """
        select entry.kind, entry.content::text
        from catalog.entry_span as span
        join catalog.entry using (kind, entry_id, version, content_sha256)
        where span.known_from <= %(activation)s and (span.known_to is null or span.known_to > %(activation)s)
        order by entry.kind, entry.entry_id, entry.version
        """,
        {"activation": activation},
    ).fetchall()
    return restore_catalog((Kind(kind), content) for kind, content in rows)


def _load(connection: psycopg.Connection, catalog: Catalog) -> CatalogLoad:
    new = {_key(content): content for content in catalog.contents}
    old: dict[_Key, str] = {
        (Kind(kind), entry_id, version): digest
        for kind, entry_id, version, digest in connection.execute(
            "select kind, entry_id, version, content_sha256 from catalog.current_entry"
        ).fetchall()
    }
    added = [key for key in new if key not in old]
    edited = [key for key, content in new.items() if key in old and old[key] != content.sha256]
    removed = [key for key in old if key not in new]
    if edited or removed:
        _refuse_if_in_use(connection, catalog, new, edited=edited, removed=removed)
    if added or edited or removed:
        _replace(connection, catalog, [new[key] for key in (*added, *edited)], gone=[*edited, *removed])
    return CatalogLoad(
        catalog_sha256=catalog.sha256,
        changed=bool(added or edited or removed),
        entries=len(new),
        added=tuple(map(_name, added)),
        edited=tuple(map(_name, edited)),
        removed=tuple(map(_name, removed)),
    )


def _key(content: EntryContent) -> _Key:
    return content.kind, content.entry_id, content.version


def _name(key: _Key) -> str:
    kind, entry_id, version = key
    return f"{kind} {entry_id} version {version}"


def _replace(
    connection: psycopg.Connection, catalog: Catalog, contents: Sequence[EntryContent], *, gone: Sequence[_Key]
) -> None:
    connection.execute(
        "insert into catalog.release (catalog_sha256) values (%s) on conflict do nothing", [catalog.sha256]
    )
    columns: list[list[object]] = [
        [content.kind for content in contents],
        [content.entry_id for content in contents],
        [content.version for content in contents],
        [content.json for content in contents],
        [content.sha256 for content in contents],
    ]
    connection.execute(
        """
        insert into catalog.entry (kind, entry_id, version, content, content_sha256, first_release)
        select kind, entry_id, version, content::jsonb, content_sha256, %s
        from unnest(%s::text[], %s::text[], %s::integer[], %s::text[], %s::text[])
            as added (kind, entry_id, version, content, content_sha256)
        on conflict do nothing
        """,
        [catalog.sha256, *columns],
    )
    gone_columns: list[list[object]] = [[key[0] for key in gone], [key[1] for key in gone], [key[2] for key in gone]]
    connection.execute(
        """
        delete from catalog.current_entry as entry
        using unnest(%s::text[], %s::text[], %s::integer[]) as gone (kind, entry_id, version)
        where entry.kind = gone.kind and entry.entry_id = gone.entry_id and entry.version = gone.version
        """,
        gone_columns,
    )
    added_columns: list[list[object]] = [columns[0], columns[1], columns[2], columns[4]]
    connection.execute(
        """
        insert into catalog.current_entry (kind, entry_id, version, content_sha256)
        select kind, entry_id, version, content_sha256
        from unnest(%s::text[], %s::text[], %s::integer[], %s::text[])
            as added (kind, entry_id, version, content_sha256)
        """,
        added_columns,
    )
    _remember(connection, catalog.sha256, added_columns, gone_columns)
    write_mirror(connection, catalog)


def _remember(
    connection: psycopg.Connection,
    catalog_sha256: str,
    added: Sequence[Sequence[object]],
    gone: Sequence[Sequence[object]],
) -> None:
    """Write when this catalog became known, and which contents it ended and began."""
    row = connection.execute(
        "insert into catalog.activation (catalog_sha256) values (%s) returning activation", [catalog_sha256]
    ).fetchone()
    assert row is not None
    connection.execute(
        """
        update catalog.entry_span as span
        set known_to = %s
        from unnest(%s::text[], %s::text[], %s::integer[]) as gone (kind, entry_id, version)
        where span.kind = gone.kind and span.entry_id = gone.entry_id and span.version = gone.version
            and span.known_to is null
        """,
        [row[0], *gone],
    )
    connection.execute(
        """
        insert into catalog.entry_span (kind, entry_id, version, content_sha256, known_from)
        select kind, entry_id, version, content_sha256, %s
        from unnest(%s::text[], %s::text[], %s::integer[], %s::text[])
            as added (kind, entry_id, version, content_sha256)
        """,
        [row[0], *added],
    )


def _refuse_if_in_use(
    connection: psycopg.Connection,
    catalog: Catalog,
    new: Mapping[_Key, EntryContent],
    *,
    edited: Sequence[_Key],
    removed: Sequence[_Key],
) -> None:
    # An entry whose version was raised is still there under its id: a decision of its author, not an edit.
    ids = {(content.kind, content.entry_id) for content in catalog.contents}
    gone = [key for key in removed if key[0] is Kind.PRICE or key[:2] not in ids]
    old = _old_contents(connection, edited)
    problems = []
    for key in edited:
        before, after = json.loads(old[key]), json.loads(new[key].json)
        if key[0] is Kind.SUBSCRIPTION:
            after = _without_additions(before, after)
        changed = _changed_fields(key[0], before, after)
        if key[0] is Kind.PRICE and changed == {"versions.effective_to"}:
            if _ends_after_what_is_booked(connection, key, catalog.prices[key[1]]):
                continue
        elif changed <= _FREE_FIELDS.get(key[0], frozenset()):
            continue
        if _is_in_use(connection, key):
            problems.append(f"{_name(key)} ({FILES[key[0]]}): {', '.join(sorted(changed))} changed")
    problems.extend(f"{_name(key)} ({FILES[key[0]]}): removed" for key in gone if _is_in_use(connection, key))
    if problems:
        shown = "".join(f"\n    - {problem}" for problem in problems[:20])
        more = f"\n    - and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CatalogEntryInUseError(
            f"booked charges rest on {len(problems)} catalog entries that were edited or removed:{shown}{more}",
            bill=_NOTHING_LOADED,
            fix="restore them; for a price add version N+1 with effective_from, for a plan or meter raise `version`, "
            "for a subscription add a change, or set ends_at and add a new one, for an account add a new one",
        )


def _old_contents(connection: psycopg.Connection, keys: Sequence[_Key]) -> dict[_Key, str]:
    rows = connection.execute(
        """
        select entry.kind, entry.entry_id, entry.version, entry.content::text
        from unnest(%s::text[], %s::text[], %s::integer[]) as wanted (kind, entry_id, version)
        join catalog.current_entry as present using (kind, entry_id, version)
        join catalog.entry as entry using (kind, entry_id, version, content_sha256)
        """,
        [[key[0] for key in keys], [key[1] for key in keys], [key[2] for key in keys]],
    ).fetchall()
    return {(Kind(kind), entry_id, version): content for kind, entry_id, version, content in rows}


def _changed_fields(kind: Kind, before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if kind is Kind.PRICE and "versions" in changed:
        (one,), (other,) = before["versions"], after["versions"]
        changed.remove("versions")
        changed |= {f"versions.{name}" for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
    return changed


def _without_additions(before: Mapping[str, Any], after: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a subscription's new content without the dated changes that it adds after those of `before`; notes may differ."""
    old, new = before.get("changes", []), after.get("changes", [])
    if [{**one, "note": None} for one in new[: len(old)]] != [{**one, "note": None} for one in old]:
        return after
    others = {name: value for name, value in after.items() if name != "changes"}
    return {**others, "changes": old} if old else others


def _is_in_use(connection: psycopg.Connection, key: _Key) -> bool:
    kind, entry_id, version = key
    match kind:
        case Kind.PRICE:
            return _price_version_is_in_use(connection, entry_id, version)
        case Kind.BILLABLE_RULE:
            condition = "meter_id is not null and %(id)s <> ''"
        case Kind.METER:
            condition = "meter_id = %(id)s"
        case Kind.PLAN:
            return _plan_version_is_in_use(connection, entry_id, version)
        case Kind.ACCOUNT:
            condition = "account_id = %(id)s"
        case Kind.SUBSCRIPTION:
            condition = "subscription_id = %(id)s"
        case Kind.COUPON:
            return _coupon_is_in_use(connection, entry_id)
        case Kind.FEATURE | Kind.ENTITLEMENT | Kind.RECURRING_CREDIT:
            return False
    query = f"select exists (select from billing.charge_revision where {condition})"
    return _truth(connection, query, {"id": entry_id})


def _coupon_is_in_use(connection: psycopg.Connection, coupon_id: str) -> bool:
    query = """
        select exists (
            select
            from billing.charge_revision
            where lines @> jsonb_build_array(jsonb_build_object('kind', 'discount', 'label', %(id)s::text))
        )
    """
    return _truth(connection, query, {"id": coupon_id})


def _plan_version_is_in_use(connection: psycopg.Connection, plan_id: str, version: int) -> bool:
    """Return whether a booked period meets a phase on that version; of a subscription without phases any version counts."""
    query = """
        select exists (
            select
            from billing.charge_revision as charge
            where charge.plan_id = %(id)s and not exists (
                select from catalog.subscription_phase as phase where phase.subscription_id = charge.subscription_id
            )
        ) or exists (
            select
            from catalog.subscription_phase as phase
            join billing.charge_revision as charge
                on charge.account_id = phase.account_id
                and charge.subscription_id = phase.subscription_id
                and charge.period_end > phase.starts_at
                and (phase.ends_at is null or charge.period_start < phase.ends_at)
            where phase.plan_id = %(id)s and phase.plan_version = %(version)s
        )
    """
    return _truth(connection, query, {"id": plan_id, "version": version})


def _price_version_is_in_use(connection: psycopg.Connection, price_id: str, version: int) -> bool:
    """Return whether a booked period meets the time in which the version was in force, or its arithmetic names it."""
    query = """
        select exists (
            select
            from billing.charge_revision as charge
            join catalog.price as price on price.price_id = charge.price_id and price.version = %(version)s
            where charge.price_id = %(id)s and (
                (charge.period_end > price.effective_from
                 and (price.effective_to is null or charge.period_start < price.effective_to))
                or charge.lines @> jsonb_build_array(jsonb_build_object('version', %(version)s::integer))
            )
        )
    """
    return _truth(connection, query, {"id": price_id, "version": version})


def _ends_after_what_is_booked(connection: psycopg.Connection, key: _Key, price: Price) -> bool:
    end: datetime | None = next(one.effective_to for one in price.versions if one.version == key[2])
    query = """
        select %(end)s::timestamptz is null or not exists (
            select
            from billing.charge_revision
            where price_id = %(id)s and least(period_end, (event_day + 1)::timestamp at time zone 'UTC') > %(end)s
        )
    """
    return _truth(connection, query, {"id": key[1], "end": end})


def _truth(connection: psycopg.Connection, query: str, parameters: Mapping[str, object]) -> bool:
    row = connection.execute(query.encode(), parameters).fetchone()
    return row is not None and bool(row[0])
