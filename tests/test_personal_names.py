"""Names with an e-mail address in them: what is one, what becomes of it, and how catalog and command find it again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.catalog import CatalogError
from billing_pipeline.sources.personal_names import has_address, kept_name, without_addresses
from billing_pipeline.sources.storage_table import read_size_row
from billing_pipeline.sources.visibility_events import read_fields
from console.kept_names import kept
from resources.catalog_store import CatalogStore, read_catalog
from resources.database import Database
from resources.settings import Settings
from resources.storage_config import Kind
from resources.storage_store import StorageStore
from resources.traffic_receipts import e_mail_pseudonyms
from tests.storage_days import CATALOG, at
from tests.storage_files import AS_OF, StorageDeliveries, listed, record, source

pseudonym = e_mail_pseudonyms(b"key")
JANE = "jane.doe@example.com"
HIDDEN = pseudonym(JANE)


def shown(name: str) -> str:
    """Return the name with the addresses that were hidden in brackets."""
    return without_addresses(name, lambda address: f"[{address}]")


class TestNames:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            (JANE, f"[{JANE}]"),
            (f"{JANE}/cats", f"[{JANE}]/cats"),
            (f"acme/{JANE}", f"acme/[{JANE}]"),
            ("Jane.Doe@Example.COM/cats", f"[{JANE}]/cats"),
            ("jane.doe%40example.com/cats", f"[{JANE}]/cats"),
            ("root@localhost", "[root@localhost]"),
            ("jane@b\u00fccher.example", "[jane@b\u00fccher.example]"),
            ("\u65e5\u672c@\u4f8b\u3048.jp/x", "[\u65e5\u672c@\u4f8b\u3048.jp]/x"),
            (f"backup of {JANE}, July", f"backup of [{JANE}], July"),
            (f"Jane Doe <{JANE}>", f"Jane Doe <[{JANE}]>"),
            (f"{JANE} and bob@example.org", f"[{JANE}] and [bob@example.org]"),
            ("a+tag@x.example/b@y.example", "[a+tag@x.example]/[b@y.example]"),
        ],
    )
    def test_lose_their_addresses(self, name: str, expected: str) -> None:
        assert has_address(name)
        assert shown(name) == expected
        assert kept_name(name, None) is None

    @pytest.mark.parametrize("name", ["acme/atlas", "@scope/cats", "cats@", "@", "5 @ 3", "a b@c d", "", "100%4 0"])
    def test_without_one_stay_as_they_are(self, name: str) -> None:
        assert not has_address(name)
        assert shown(name) == name
        assert kept_name(name, None) == name

    @given(
        st.text(max_size=60),
        st.from_regex(r"[a-z.+-]{1,10}@[a-z]{1,8}\.[a-z]{2,6}", fullmatch=True),
        st.text(max_size=60),
    )
    def test_never_hold_an_address_afterwards(self, before: str, address: str, after: str) -> None:
        name = kept_name(f"{before} {address} {after}", pseudonym)
        assert name is not None
        assert address not in name
        assert not has_address(name)
        assert kept_name(name, pseudonym) == name


class TestRows:
    def test_of_a_table_keep_pseudonyms_or_are_refused(self) -> None:
        row: dict[str, Any] = {
            "repository": f"{JANE}/cats", "owner": JANE, "bytes": 5, "snapshot_at": "2026-06-01T00:00:00Z",
        }  # fmt: skip
        found = read_size_row(row, as_of=AS_OF, pseudonymise=pseudonym)
        assert (getattr(found, "repository", None), getattr(found, "owner", None)) == (f"{HIDDEN}/cats", HIDDEN)
        assert read_size_row(row, as_of=AS_OF) == ("personal_name", "repository")
        assert read_size_row({**row, "repository": "a/b"}, as_of=AS_OF) == ("personal_name", "owner")

    @pytest.mark.parametrize("field", ["repository", "owner", "event_id"])
    def test_of_events_keep_pseudonyms_or_are_refused(self, field: str) -> None:
        row = {"repository": "ann/cats", "at": "2026-06-01T00:00:00Z", "owner": "ann", "event_id": "e", field: JANE}
        (found,) = read_fields(row, as_of=AS_OF, pseudonymise=pseudonym)
        assert JANE not in repr(found)
        assert HIDDEN in repr(found)
        assert read_fields(row, as_of=AS_OF) == ("personal_name", field)


class TestDeliveries:
    def files(self, database: Database, folder: Path, **options: Callable[[str], str]) -> StorageDeliveries:
        sources = (source(Kind.INVENTORY, objects=True), source(Kind.CLOUDTRAIL))
        made = StorageDeliveries(database, folder, sources)
        hands = made.store._hands
        made.store = StorageStore(
            database, made.lake, hands.landing, sources, hands.scratch_dir, landing_url=made.landing_url, **options
        )
        made.deliver_inventory([listed(f"{JANE}/cats/t", 5), listed("ann/dogs/t", 7)], at(1))
        made.deliver_log(record(1, key=f"{JANE}/cats/t"), record(2, key="ann/dogs/t"))
        made.ingest()
        return made

    def test_join_under_the_pseudonym(self, database: Database, tmp_path: Path) -> None:
        files = self.files(database, tmp_path, pseudonymise=pseudonym)
        named = [("ann/dogs", "ann"), (f"{HIDDEN}/cats", HIDDEN)]
        for dataset in ("core/storage_snapshots", "core/object_events"):
            assert files.lake_rows(dataset, "repository, owner") == named
        # the object of the event is the one that was listed
        listing = files.lake_rows("core/storage_objects", "repository, object_id")
        assert files.lake_rows("core/object_events", "repository, object_id") == listing

    def test_without_a_key_are_refused_and_held(self, database: Database, tmp_path: Path) -> None:
        files = self.files(database, tmp_path)
        assert [row[:2] for row in files.manifest().values()] == [("held", "bad_rows"), ("accepted", None)]
        reasons = files.rows("select reason, field from core.quarantine order by 2")
        assert reasons == [("personal_name", "key"), ("personal_name", "requestParameters.key")]
        assert files.lake_rows("core/object_events", "repository") == [("ann/dogs",)]


class TestCatalog:
    def folder(self, path: Path) -> Path:
        path.mkdir()
        accounts = CATALOG["accounts.toml"].replace('{ id = "ann" }', '{ id = "Jane.Doe@example.com" }, { id = "ann" }')
        for name, text in {**CATALOG, "accounts.toml": accounts}.items():
            (path / name).write_text(text)
        return path

    def test_may_name_a_client_by_the_address_and_keeps_the_pseudonym(self, database: Database, tmp_path: Path) -> None:
        store = CatalogStore(database, pseudonym)
        folder = self.folder(tmp_path / "catalog")
        store.load(folder)
        clients = [client.client_id for client in store.current().accounts["acme"].clients]
        assert clients == [HIDDEN, "ann"]
        assert store.current() == read_catalog(folder, pseudonym)
        assert not store.load(folder).changed
        with database.reading() as connection:
            kept_contents = connection.execute("select string_agg(content::text, ' ') from catalog.entry").fetchall()
        assert "@" not in kept_contents[0][0]

    def test_without_a_key_is_refused(self, database: Database, tmp_path: Path) -> None:
        with pytest.raises(CatalogError, match=r"accounts.toml: acme: clients: names a client by an e-mail address"):
            CatalogStore(database).load(self.folder(tmp_path / "catalog"))


class TestCommand:
    def test_tells_the_name_that_is_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BILLING_PSEUDONYM_KEY", "key")
        settings = Settings(home=tmp_path, landing_url="", lake_url="", catalog_dir=tmp_path)
        assert kept(settings, "JANE.doe@example.com/cats") == f"{HIDDEN}/cats"
        monkeypatch.delenv("BILLING_PSEUDONYM_KEY")
        assert kept(settings, "ann/cats") == "ann/cats"
        assert not settings.pseudonym_key_file.exists()
