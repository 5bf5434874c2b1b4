"""The demo's exporters and storage deliveries: the same every time, and with every mishap that the demo tells about."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.demo_storage import (
    INVENTORY_FOLDER,
    OBJECTS,
    PLANTED_PERSONAL_DATA,
    SNAPSHOTS_AT,
    TRAIL_FOLDER,
    write_first_delivery,
    write_second_delivery,
)
from resources.demo_traffic import (
    ADDRESS_VARIABLES,
    OREGON,
    SECOND_LOOK,
    START,
    TOKYO,
    DemoExporters,
    demo_simulation,
    serving_exporters,
)
from resources.demo_trail import public_keys
from resources.exporter_client import ExporterClient
from resources.exporter_transport import ExporterHttpError, ExporterTlsError
from resources.settings import PROJECT_ROOT
from resources.traffic_config import TrafficSource, load_traffic_sources

CATALOG = PROJECT_ROOT / "catalog"


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of every file below `folder` by its key."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def source_of(node: str) -> TrafficSource:
    """Return the catalog's source of a node."""
    (source,) = (one for one in load_traffic_sources(CATALOG) if one.node == node)
    return source


def no_pause(seconds: float) -> None:
    """Wait for nothing."""


@pytest.fixture(scope="module")
def exporters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoExporters]:
    with serving_exporters(tmp_path_factory.mktemp("exporters")) as running:
        yield running


class TestStorageDeliveries:
    def test_are_the_same_bytes_every_time(self, tmp_path: Path) -> None:
        for name in ("one", "other"):
            write_first_delivery(tmp_path / name)
            write_second_delivery(tmp_path / name)
        assert contents(tmp_path / "one") == contents(tmp_path / "other")
        assert write_first_delivery(tmp_path / "one") == write_second_delivery(tmp_path / "one") == ()

    def test_keep_back_one_log_file_that_a_digest_lists(self, tmp_path: Path) -> None:
        write_first_delivery(tmp_path)
        (late,) = write_second_delivery(tmp_path)
        listed = {
            log["s3Object"]
            for path in (tmp_path / TRAIL_FOLDER).rglob("CloudTrail-Digest/**/*.json.gz")
            for log in json.loads(gzip.decompress(path.read_bytes()))["logFiles"]
        }
        assert late.relative_to(tmp_path / TRAIL_FOLDER).as_posix() in listed
        assert len(listed) == len(list((tmp_path / TRAIL_FOLDER).rglob("CloudTrail/**/*.json.gz")))

    def test_are_signed_with_the_key_whose_public_half_is_in_the_catalog(self) -> None:
        assert (CATALOG / "cloudtrail_keys.json").read_bytes() == public_keys()

    def test_list_what_is_there_at_each_snapshot(self, tmp_path: Path) -> None:
        write_first_delivery(tmp_path)
        manifests = sorted((tmp_path / INVENTORY_FOLDER).rglob("manifest.json"))
        assert [path.parent.name for path in manifests] == [f"{at:%Y-%m-%dT%H-%MZ}" for at in SNAPSHOTS_AT]
        for at, path in zip(SNAPSHOTS_AT, manifests, strict=True):
            files = [tmp_path / INVENTORY_FOLDER / one["key"] for one in json.loads(path.read_bytes())["files"]]
            lines = b"".join(gzip.decompress(file.read_bytes()) for file in files).splitlines()
            assert len(lines) == sum(one.is_there(at) for one in OBJECTS)

    def test_hold_personal_data_that_the_parsers_must_not_let_through(self, tmp_path: Path) -> None:
        write_first_delivery(tmp_path)
        logs = (tmp_path / TRAIL_FOLDER).rglob("CloudTrail/**/*.json.gz")
        for text in (gzip.decompress(path.read_bytes()).decode() for path in logs):
            assert all(planted in text for planted in PLANTED_PERSONAL_DATA)


class TestExporters:
    def test_are_those_of_the_catalog(self) -> None:
        named = {source.node: source.base_url_env for source in load_traffic_sources(CATALOG)}
        assert named == ADDRESS_VARIABLES
        accounts = (CATALOG / "accounts.toml").read_text()
        known = [account in accounts for account in demo_simulation().accounts]
        assert known == [True] * 5 + [False]

    def test_answer_whoever_shows_a_certificate(self, exporters: DemoExporters) -> None:
        with ExporterClient(source_of(TOKYO), exporters.variables, pause=no_pause) as client:
            (page,) = client.window(START, START.replace(minute=9))
            assert len(page.snapshots) in (9, 10)
        anybody = TrafficSource(
            name="anybody", env="prod", node=TOKYO, base_url_env="DEMO_TOKYO_URL", ca_env="DEMO_EXPORTER_CA",
            token_env="TOKEN",
        )  # fmt: skip
        with (
            ExporterClient(anybody, {**exporters.variables, "TOKEN": "x"}, pause=no_pause) as client,
            pytest.raises(ExporterTlsError),
        ):
            client.latest()

    def test_are_away_at_the_first_look_and_back_at_the_second(self, exporters: DemoExporters) -> None:
        with ExporterClient(source_of(OREGON), exporters.variables, pause=no_pause) as client:
            with pytest.raises(ExporterHttpError, match="503"):
                client.latest()
            exporters.clock.now = SECOND_LOOK
            assert client.latest() is not None

    def test_show_no_variable_in_their_repr(self, exporters: DemoExporters) -> None:
        assert "DEMO_" not in repr(exporters)
