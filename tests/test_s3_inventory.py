"""S3 inventories: manifests and rows, three formats, four real ones, and every way in which one is not what it says."""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_pipeline.sources.s3_inventory import InventoryManifest, decoded_key, read_manifest
from billing_pipeline.sources.storage_profile import (
    Bounds,
    StorageProfile,
    StorageProfileError,
    load_storage_profile,
    parse_storage_profile,
)
from billing_pipeline.sources.storage_reasons import FileRefusal
from resources import duck
from resources.inventory_reader import SnapshotFile, read_inventory
from resources.landing import Landing
from resources.storage_files import DataFiles, Refused
from tests.storage_files import AS_OF, BUCKET, CSV_COLUMNS, csv_gz, listed, manifest, md5_line, profile

AT = datetime(2026, 6, 1, 7, 0, tzinfo=UTC)
DATA = "data/x.csv.gz"
VERSIONED = profile(bytes_sold="all_versions")
# Real inventories are of keys such as `inventory-test/key1`.
FLAT = profile(keys=("(?P<repository>[^/]+)/.*",))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duck.connect(tmp_path / "scratch") as connection:
        yield connection


class Folder:
    """A landing folder with one inventory in it."""

    def __init__(self, folder: Path, engine: duckdb.DuckDBPyConnection) -> None:
        self.folder = folder / "landing"
        self.folder.mkdir(exist_ok=True)
        self.engine = engine

    def put(self, key: str, content: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def read(
        self, rules: StorageProfile | None = None, *, key: str = "manifest.json", checksum: str = "manifest.checksum"
    ) -> SnapshotFile | str:
        """Return what the inventory holds, or the reason why it is refused."""
        said = read_manifest((self.folder / key).read_bytes(), (self.folder / checksum).read_bytes(), as_of=AS_OF)
        if isinstance(said, FileRefusal):
            return said.reason
        landing = Landing(str(self.folder), self.folder)
        try:
            return read_inventory(
                said,
                key,
                profile=rules or profile(),
                data_files=DataFiles(landing, landing.list()),
                connection=self.engine,
                keep_objects=True,
            )
        except Refused as error:
            return error.refusal.reason

    def read_rows(
        self, *rows: tuple[object, ...], rules: StorageProfile | None = None, **changes: Any
    ) -> SnapshotFile | str:
        """Deliver a CSV inventory of these rows and read it."""
        return self.read_data(csv_gz(rows), rules=rules, **changes)

    def read_data(self, data: bytes, *, rules: StorageProfile | None = None, **changes: Any) -> SnapshotFile | str:
        """Deliver an inventory of this data file and read it."""
        content = manifest({DATA: data}, AT, **changes)
        self.put(DATA, data)
        self.put("manifest.json", content)
        self.put("manifest.checksum", md5_line(content))
        return self.read(rules)


@pytest.fixture
def folder(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> Folder:
    return Folder(tmp_path, engine)


def sums(read: SnapshotFile | str) -> dict[str, tuple[int, int]]:
    """Return repository -> bytes, objects."""
    assert isinstance(read, SnapshotFile), read
    assert read.counts.unaccounted == 0
    (snapshot,) = read.snapshots
    rows = snapshot.rows.to_pylist()
    assert snapshot.total_bytes == sum(row["bytes"] for row in rows)
    return {row["repository"]: (row["bytes"], row["object_count"]) for row in rows}


def counts(read: SnapshotFile | str) -> tuple[int, int, int, int, int]:
    assert isinstance(read, SnapshotFile), read
    found = read.counts
    return found.lines_read, found.accepted, found.rejected, found.duplicate, found.out_of_scope


class TestManifest:
    def said(
        self, content: bytes | None = None, checksum: bytes | None = None, **changes: Any
    ) -> InventoryManifest | FileRefusal:
        content = manifest({DATA: b"data"}, AT, **changes) if content is None else content
        return read_manifest(content, md5_line(content) if checksum is None else checksum, as_of=AS_OF)

    def test_is_read(self) -> None:
        said = self.said()
        assert isinstance(said, InventoryManifest)
        assert (said.source_bucket, said.snapshot_at, said.file_format) == (BUCKET, AT, "CSV")
        assert said.has_versions
        assert [(file.key, file.size_bytes) for file in said.files] == [(DATA, 4)]

    @pytest.mark.parametrize("stamp", ["1780297200000", 1780297200000])
    def test_takes_its_timestamp_as_text_or_number(self, stamp: object) -> None:
        said = self.said(creationTimestamp=stamp)
        assert isinstance(said, InventoryManifest)
        assert said.snapshot_at == AT

    @pytest.mark.parametrize("checksum", [b"", b"0" * 32, b"\xff\xfe", b"302e92a0140a5061ec52a4322e3978bb\n"])
    def test_needs_its_checksum(self, checksum: bytes) -> None:
        refusal = self.said(checksum=checksum)
        assert isinstance(refusal, FileRefusal)
        assert refusal.reason == "manifest_checksum"

    def test_shows_nothing_of_what_is_in_place_of_its_checksum(self) -> None:
        refusal = self.said(checksum=b"jane.quux@example.org")
        assert isinstance(refusal, FileRefusal)
        assert "quux" not in refusal.detail
        refusal = self.said(checksum=b"0" * 32)
        assert isinstance(refusal, FileRefusal)
        assert refusal.detail.endswith(f"not {'0' * 32}")

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"creationTimestamp": None}, "bad_manifest"),
            ({"creationTimestamp": "soon"}, "bad_manifest"),
            ({"creationTimestamp": True}, "bad_manifest"),
            ({"creationTimestamp": "99999999999999"}, "bad_manifest"),
            ({"version": "2017-01-01"}, "bad_manifest"),
            ({"sourceBucket": ""}, "bad_manifest"),
            ({"fileFormat": "XML"}, "bad_manifest"),
            ({"files": None}, "bad_manifest"),
            ({"files": ["x"]}, "bad_manifest"),
            ({"files": [{"key": "x", "size": -1, "MD5checksum": "0" * 32}]}, "bad_manifest"),
            ({"files": [{"key": "x", "size": 1, "MD5checksum": "0"}]}, "bad_manifest"),
            ({"fileSchema": None}, "schema"),
            ({"fileSchema": "Bucket, Key"}, "schema"),
            ({"fileSchema": "Bucket, Key, Size, Size"}, "schema"),
            ({"fileSchema": "Bucket, Key, VersionId, Size"}, "schema"),
        ],
    )
    def test_that_cannot_be_is_refused(self, changes: dict[str, Any], reason: str) -> None:
        refusal = self.said(**changes)
        assert isinstance(refusal, FileRefusal)
        assert refusal.reason == reason

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 99_999])
    def test_that_is_no_object_is_refused(self, content: bytes) -> None:
        assert isinstance(self.said(content=content), FileRefusal)

    def test_finds_columns_in_both_ages_of_parquet_schemas(self) -> None:
        old = "message s3.inventory { required binary bucket (UTF8); required binary key (UTF8); optional int64 size;}"
        new = old.replace("UTF8", "STRING")
        for schema in (old, new, "struct<bucket:string,key:string,size:bigint>"):
            assert isinstance(self.said(fileFormat="Parquet", fileSchema=schema), InventoryManifest)


class TestRows:
    def test_are_summed_by_repository(self, folder: Folder) -> None:
        read = folder.read_rows(listed("acme/atlas/a", 1), listed("acme/atlas/b", 2), listed("globex/store/a", 2**62))
        assert sums(read) == {"acme/atlas": (3, 2), "globex/store": (2**62, 1)}
        assert counts(read) == (3, 3, 0, 0, 0)

    def test_of_old_versions_and_markers_count_only_where_every_version_is_sold(self, folder: Folder) -> None:
        rows = [
            listed("acme/atlas/a", 10, version="v2"),
            listed("acme/atlas/a", 5, version="v1", latest=False),
            listed("acme/atlas/b", "", version="m1", marker=True),
            listed("acme/atlas/b", 7, version="v1", latest=False),
        ]
        assert sums(folder.read_rows(*rows)) == {"acme/atlas": (10, 1)}
        assert counts(folder.read_rows(*rows)) == (4, 1, 0, 0, 3)
        assert sums(folder.read_rows(*rows, rules=VERSIONED)) == {"acme/atlas": (22, 3)}

    def test_of_a_repository_with_nothing_left_say_so(self, folder: Folder) -> None:
        assert sums(folder.read_rows(listed("acme/atlas/a", "", version="m1", marker=True))) == {"acme/atlas": (0, 0)}

    def test_that_are_equal_count_once(self, folder: Folder) -> None:
        read = folder.read_rows(listed("acme/atlas/a", 1), listed("acme/atlas/a", 1), listed("acme/atlas/b", 1))
        assert (sums(read), counts(read)) == ({"acme/atlas": (2, 2)}, (3, 2, 0, 1, 0))

    def test_that_contradict_each_other_refuse_the_snapshot(self, folder: Folder) -> None:
        assert folder.read_rows(listed("acme/atlas/a", 1), listed("acme/atlas/a", 2)) == "conflicting_rows"
        two_latest = [listed("acme/atlas/a", 1, version="v1"), listed("acme/atlas/a", 1, version="v2")]
        assert folder.read_rows(*two_latest) == "conflicting_rows"

    @pytest.mark.parametrize("size", [-5, 2**63, "x", "1.0", " 1", ""])
    def test_with_a_size_that_cannot_be_are_put_aside(self, folder: Folder, size: object) -> None:
        read = folder.read_rows(listed("acme/atlas/a", 1), listed("acme/atlas/b", size))
        assert isinstance(read, SnapshotFile)
        ((position, reason, field, _),) = read.rejects
        assert (position, field) == (2, "size")
        assert reason == ("missing_field" if size == "" else "out_of_range")
        assert sums(read) == {"acme/atlas": (1, 1)}

    def test_that_no_pattern_matches_are_counted_with_their_bytes(self, folder: Folder) -> None:
        read = folder.read_rows(
            listed("acme/atlas/a", 1), listed("stray", 5), listed("stray", 6, latest=False, version="v")
        )
        assert isinstance(read, SnapshotFile)
        (snapshot,) = read.snapshots
        assert (snapshot.unassigned_objects, snapshot.unassigned_bytes) == (2, 5)
        assert counts(read) == (3, 1, 0, 0, 2)

    def test_too_many_bytes_for_one_repository_are_refused(self, folder: Folder) -> None:
        assert folder.read_rows(*(listed(f"acme/atlas/{n}", 2**62) for n in range(2))) == "out_of_range"

    def test_of_another_width_refuse_the_snapshot(self, folder: Folder) -> None:
        assert folder.read_rows(listed("acme/atlas/a", 1)[:-1]) == "column_count"
        assert (
            folder.read_rows(listed("acme/atlas/a", 1), fileSchema=", ".join([*CSV_COLUMNS, "ObjectOwner"]))
            == "column_count"
        )

    def test_go_by_the_schema_in_any_order(self, folder: Folder) -> None:
        row = listed("acme/atlas/a", 7)
        order = [5, 0, 3, 7, 1, 2, 6, 4]
        read = folder.read_rows(
            tuple(row[index] for index in order), fileSchema=", ".join(CSV_COLUMNS[index] for index in order)
        )
        assert sums(read) == {"acme/atlas": (7, 1)}

    def test_without_versions_are_all_current(self, folder: Folder) -> None:
        assert sums(folder.read_rows((BUCKET, "acme/atlas/a", 7), fileSchema="Bucket, Key, Size")) == {
            "acme/atlas": (7, 1)
        }

    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    def test_may_have_a_byte_order_mark_and_any_line_end(self, folder: Folder, newline: str) -> None:
        data = csv_gz([listed("acme/atlas/a", 1), listed("acme/atlas/b", 2)], prefix=b"\xef\xbb\xbf", newline=newline)
        assert sums(folder.read_data(data)) == {"acme/atlas": (3, 2)}

    def test_in_several_files_count_through(self, folder: Folder) -> None:
        files = {
            f"data/{n}.csv.gz": csv_gz([listed(f"acme/atlas/{n}", 1), listed("acme/atlas/x", -1)]) for n in range(3)
        }
        for key, content in files.items():
            folder.put(key, content)
        said = manifest(files, AT)
        folder.put("manifest.json", said)
        folder.put("manifest.checksum", md5_line(said))
        read = folder.read()
        assert isinstance(read, SnapshotFile)
        assert [reject[0] for reject in read.rejects] == [2, 4, 6]
        assert sums(read) == {"acme/atlas": (3, 3)}

    def test_of_no_files_are_an_empty_bucket(self, folder: Folder) -> None:
        assert sums(folder.read_data(b"", files=[])) == {}

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (gzip.compress(b'"open quote'), "schema"),
            (gzip.compress(b'"\xff"\n'), "encoding"),
            (gzip.compress(b"x" * 999)[:-12], "bad_compression"),
        ],
    )
    def test_that_cannot_be_read_refuse_the_snapshot(self, folder: Folder, data: bytes, reason: str) -> None:
        assert folder.read_data(data) == reason


@dataclass(frozen=True, slots=True)
class Listed:
    """One row of an inventory, as the short reference below reads it."""

    repository: str
    name: str
    version: str
    latest: bool
    marker: bool
    size: int


LISTED = st.builds(
    lambda repository, name, version, latest, marker, more: Listed(
        repository, name, version, latest, marker, 0 if marker else 10 ** int(version[1]) + more
    ),
    st.sampled_from(["acme/atlas", "globex/store"]),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["v1", "v2", "v3"]),
    st.sampled_from([True, False]),
    st.sampled_from([False, False, True]),
    st.sampled_from([0, 0, 0, 0, 1]),
)


class TestAnyRows:
    """What SQL makes of listed rows equals what a few lines of Python make of them."""

    @pytest.mark.sql_reference("listed_conflicts", "listed_objects", "listed_repositories", "listed_versions")
    @pytest.mark.parametrize("sells_all", [False, True])
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(LISTED, max_size=5), st.lists(st.integers(0, 4), max_size=3))
    def test_come_to_the_same_sums_objects_and_counts(
        self, folder: Folder, sells_all: bool, rows: list[Listed], repeated: list[int]
    ) -> None:
        told = [*rows, *(rows[number] for number in repeated if number < len(rows))]
        read = folder.read_rows(
            *(
                listed(
                    f"{one.repository}/{one.name}",
                    "" if one.marker else one.size,
                    version=one.version,
                    latest=one.latest,
                    marker=one.marker,
                )
                for one in told
            ),
            rules=VERSIONED if sells_all else None,
        )
        distinct = set(told)
        versions = Counter((one.repository, one.name, one.version) for one in distinct)
        latest = Counter((one.repository, one.name) for one in distinct if one.latest)
        if max([*versions.values(), *latest.values()], default=0) > 1:
            assert read == "conflicting_rows"
            return
        kept = [one for one in distinct if not one.marker and (sells_all or one.latest)]
        of_repository = {
            name: [one.size for one in kept if one.repository == name] for name in {one.repository for one in distinct}
        }
        assert sums(read) == {name: (sum(sizes), len(sizes)) for name, sizes in of_repository.items()}
        duplicates = len(told) - len(distinct)
        assert counts(read) == (len(told), len(kept), 0, duplicates, len(distinct) - len(kept))
        assert isinstance(read, SnapshotFile)
        objects = read.snapshots[0].objects
        assert objects is not None
        index = [(row["repository"], row["version_id"], row["bytes"], row["is_current"]) for row in objects.to_pylist()]
        assert Counter(index) == Counter((one.repository, one.version, one.size, one.latest) for one in kept)
        assert len({row["object_id"] for row in objects.to_pylist()}) == len(kept)


class TestFiles:
    def test_that_are_missing_or_differ_refuse_the_snapshot(self, folder: Folder) -> None:
        data = csv_gz([listed("acme/atlas/a", 1)])
        assert isinstance(folder.read_data(data), SnapshotFile)
        folder.put(DATA, data + b"\0")
        assert folder.read() == "file_checksum"
        folder.put(DATA, bytes([*data[:-1], data[-1] ^ 1]))
        assert folder.read() == "file_checksum"
        (folder.folder / DATA).unlink()
        assert folder.read() == "file_missing"

    def test_are_found_by_name_and_most_of_their_folders(self) -> None:
        keys = ["a/inv/data/1.csv.gz", "b/inv/data/1.csv.gz", "b/other/1.csv.gz", "b/inv/data/2.csv.gz"]
        landing = Landing("/nowhere", Path("/nowhere"))
        from resources.landing import LandingFile

        files = DataFiles(landing, [LandingFile(key=key, size_bytes=1, modified_at=AT) for key in keys])
        assert files.find("b/inv/2026-06-01T07-00Z/manifest.json", "dest/inv/data/1.csv.gz") == keys[1]
        assert files.find("a/inv/2026-06-01T07-00Z/manifest.json", "dest/inv/data/1.csv.gz") == keys[0]
        assert files.find("a/manifest.json", "x/other/1.csv.gz") == keys[2]
        assert files.find("a/manifest.json", "data/3.csv.gz") is None


class TestColumnarFormats:
    ROWS: Mapping[str, list[object]] = {
        "bucket": [BUCKET] * 4,
        "key": ["acme/atlas/a b+%20", "acme/atlas/b", "acme/atlas/b", "stray"],
        "version_id": [None, "m1", "v1", ""],
        "is_latest": [True, True, False, True],
        "is_delete_marker": [False, True, False, None],
        "size": [2**53 + 1, None, 5, 9],
    }

    def write(self, path: Path, file_format: str, **changes: list[object]) -> bytes:
        table = pa.table({**self.ROWS, **changes})
        if file_format == "ORC":
            pyarrow.orc.write_table(table, path)
        else:
            pyarrow.parquet.write_table(table, path)
        return path.read_bytes()

    @pytest.mark.parametrize("file_format", ["Parquet", "ORC"])
    def test_are_read_with_keys_as_they_are(self, folder: Folder, tmp_path: Path, file_format: str) -> None:
        data = self.write(tmp_path / "data", file_format)
        schema = "bucket key version_id is_latest is_delete_marker size"
        read = folder.read_data(data, fileFormat=file_format, fileSchema=schema)
        assert sums(read) == {"acme/atlas": (2**53 + 1, 1)}
        assert counts(read) == (4, 1, 0, 0, 3)
        assert sums(folder.read_data(data, rules=VERSIONED, fileFormat=file_format, fileSchema=schema)) == {
            "acme/atlas": (2**53 + 6, 2)
        }

    @pytest.mark.parametrize("file_format", ["Parquet", "ORC"])
    def test_that_are_broken_are_refused(self, folder: Folder, tmp_path: Path, file_format: str) -> None:
        schema = {"fileFormat": file_format, "fileSchema": "bucket key size is_latest"}
        assert folder.read_data(b"no such format", **schema) == "schema"
        assert folder.read_data(self.write(tmp_path / "data", file_format, size=[1.5] * 4), **schema) == "schema"
        renamed = pa.table({"bucket": ["b"], "name": ["k"], "size": [1]})
        writer = pyarrow.orc.write_table if file_format == "ORC" else pyarrow.parquet.write_table
        writer(renamed, tmp_path / "data")
        assert folder.read_data((tmp_path / "data").read_bytes(), **schema) == "schema"

    def test_without_a_latest_flag_are_put_aside(self, folder: Folder, tmp_path: Path) -> None:
        data = self.write(tmp_path / "data", "Parquet", is_latest=[None, True, False, True])
        read = folder.read_data(data, fileFormat="Parquet", fileSchema="bucket key size is_latest")
        assert isinstance(read, SnapshotFile)
        assert [(reject[0], reject[2]) for reject in read.rejects] == [(1, "is_latest")]


class TestKeys:
    def test_in_csv_are_decoded_once(self) -> None:
        assert decoded_key("a+b%20c%C3%A9", plus="space") == "a b cé"
        assert decoded_key("a+b%20c%C3%A9", plus="plus") == "a+b cé"
        assert decoded_key("a%2Bb%252B", plus="space") == "a+b%2B"
        assert decoded_key("%FF", plus="space") is None

    @given(st.text(min_size=1))
    def test_survive_the_encoding_of_s3(self, key: str) -> None:
        from urllib.parse import quote, quote_plus

        try:
            key.encode()
        except UnicodeEncodeError:
            return
        assert decoded_key(quote_plus(key), plus="space") == key
        assert decoded_key(quote(key), plus="plus") == key

    def test_that_are_no_utf8_are_put_aside(self, folder: Folder) -> None:
        read = folder.read_rows(listed("acme/atlas/%FF", 1), listed("acme/atlas/%00", 1))
        assert isinstance(read, SnapshotFile)
        assert [reject[1:3] for reject in read.rejects] == [("encoding", "key"), ("bad_key", "key")]


class TestProfiles:
    def test_of_owners_and_repositories(self) -> None:
        rules = load_storage_profile("storage_owner_repository")
        belonging = rules.belonging("acme/atlas/x/y")
        assert belonging is not None
        assert (belonging.repository, belonging.owner) == ("acme/atlas", "acme")
        assert rules.belonging("acme/atlas") is None
        assert rules.belonging("acme/at\nlas/x") is None
        assert rules.belonging(f"acme/{'x' * 300}/y") is None

    def test_of_dolt_chunks(self) -> None:
        rules = load_storage_profile("storage_dolt_chunks")
        name = "0123456789abcdefghijklmnopqrstuv"
        for key in (f"ns1/{name}", f"ns1/{name}.darc", f"ns1/{name}.records", "ns1/manifest"):
            belonging = rules.belonging(key)
            assert belonging is not None
            assert (belonging.repository, belonging.owner) == ("ns1", None)
        assert rules.belonging(f"ns1/{name}x") is None
        assert rules.belonging(f"ns1/{'w' * 32}") is None

    @pytest.mark.parametrize(
        "text",
        [
            "name = 1",
            'name = "x"\nversion = 1\ndescription = "d"\nkeys = []',
            'name = "x"\nversion = 1\ndescription = "d"\nkeys = ["(.*)"]',
            'name = "x"\nversion = 1\ndescription = "d"\nkeys = ["(?P<repository>.*)(?P<secret>.)"]',
            'name = "x"\nversion = 1\ndescription = "d"\nkeys = ["(?P<repository>"]',
        ],
    )
    def test_that_cannot_be_are_refused(self, text: str) -> None:
        with pytest.raises(StorageProfileError, match=r"x\.toml"):
            parse_storage_profile(text.encode(), origin="x.toml")

    def test_are_looked_for_in_the_catalog_first(self, tmp_path: Path) -> None:
        text = 'name = "own"\nversion = 1\ndescription = "d"\nkeys = ["(?P<repository>.+)"]\n'
        (tmp_path / "own.toml").write_text(text)
        assert load_storage_profile("own", [tmp_path]).sha256 == hashlib.sha256(text.encode()).hexdigest()
        with pytest.raises(StorageProfileError, match="storage_dolt_chunks"):
            load_storage_profile("none", [tmp_path])

    def test_bounds_let_small_totals_be(self) -> None:
        bounds = Bounds(shrink_percent=50, grow_percent=100, from_bytes=1_000)
        assert bounds.allows(before=1_000, now=0)
        assert bounds.allows(before=2_000, now=1_000)
        assert not bounds.allows(before=2_000, now=999)
        assert bounds.allows(before=2_000, now=4_000)
        assert not bounds.allows(before=2_000, now=4_001)
        assert not bounds.allows(before=0, now=1_001)


class TestRealInventories:
    @pytest.mark.parametrize(
        ("name", "expected", "all_versions", "rows"),
        [
            ("csv_inventory", (5, 2), (10, 4), (5, 2, 0, 0, 3)),
            ("csv_inventory_no_version", (5, 2), (5, 2), (2, 2, 0, 0, 0)),
            ("orc_inventory", (5, 2), (10, 4), (5, 2, 0, 0, 3)),
            ("parquet_inventory", (5, 2), (10, 4), (5, 2, 0, 0, 3)),
        ],
    )
    def test_are_read(
        self,
        real_data: Path,
        engine: duckdb.DuckDBPyConnection,
        name: str,
        expected: tuple[int, int],
        all_versions: tuple[int, int],
        rows: tuple[int, ...],
    ) -> None:
        folder = Folder.__new__(Folder)
        folder.folder, folder.engine = real_data / "data/s3_inventory", engine
        key, checksum = f"{name}_manifest.json", f"{name}_manifest.checksum"
        # The owner has shortened the files' keys in the manifests after S3 wrote their checksums beside them.
        read = folder.read(FLAT, key=key, checksum=checksum)
        assert sums(read) == {"inventory-test": expected}
        assert counts(read) == rows
        assert isinstance(read, SnapshotFile)
        assert read.snapshots[0].snapshot_at == datetime(2024, 5, 7, 1, 0, tzinfo=UTC)
        every = profile(keys=FLAT.keys, bytes_sold="all_versions")
        assert sums(folder.read(every, key=key, checksum=checksum)) == {"inventory-test": all_versions}


class TestEdgeCases:
    """Folders of edge cases; what a folder lacks of an inventory is made here from what it has."""

    VERDICTS = {
        "bad_manifest_checksum": "manifest_checksum",
        "schema_says_one_more_column": "column_count",
        "truncated_gz": "file_missing",
        "duplicate_rows": (6, 2, 0, 1, 3),
        "bad_sizes": (5, 1, 2, 0, 2),
        "bom_crlf": (5, 2, 0, 0, 3),
        "url_encoded_keys": (5, 2, 0, 0, 3),
        "creation_timestamp_is_number": (5, 2, 0, 0, 3),
        "empty_files_list": (0, 0, 0, 0, 0),
        "column_order_changed": None,
        "file_missing": None,
    }

    def test_have_all_a_verdict(self, real_data: Path) -> None:
        assert {path.name for path in (real_data / "data/nasty/s3_inventory").iterdir()} == set(self.VERDICTS)

    @pytest.mark.parametrize("name", [name for name, verdict in VERDICTS.items() if verdict is not None])
    def test_are_judged(self, real_data: Path, folder: Folder, name: str) -> None:
        given_files = real_data / "data/nasty/s3_inventory" / name
        good = real_data / "data/nasty/s3_inventory/bad_manifest_checksum"
        for path in given_files.rglob("*"):
            if path.is_file():
                folder.put(path.relative_to(given_files).as_posix(), path.read_bytes())
        data_path, said_path = folder.folder / "data/x.csv.gz", folder.folder / "manifest.json"
        if not data_path.exists() and name != "truncated_gz":
            folder.put("data/x.csv.gz", (good / "data/x.csv.gz").read_bytes())
        if not said_path.exists():
            said = json.loads((good / "manifest.json").read_bytes())
            data = data_path.read_bytes()
            said["files"][0] |= {
                "size": len(data), "MD5checksum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            }  # fmt: skip
            folder.put("manifest.json", json.dumps(said, indent=2).encode())
            (folder.folder / "manifest.checksum").unlink(missing_ok=True)
        if name == "bad_manifest_checksum":
            folder.put("manifest.checksum", b"0" * 32)
        elif not (folder.folder / "manifest.checksum").exists():
            folder.put("manifest.checksum", md5_line(said_path.read_bytes()))
        read = folder.read(FLAT)
        expected = self.VERDICTS[name]
        assert (read if isinstance(expected, str) else counts(read)) == expected
        if name == "bad_sizes":
            assert isinstance(read, SnapshotFile)
            assert [reject[0] for reject in read.rejects] == [3, 5]
