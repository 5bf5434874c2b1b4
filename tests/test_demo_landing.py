"""The demo's request logs: deterministic, complete in hours, and with every mishap that the demo tells about."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import fastavro
import pytest

from resources.demo_landing import (
    API_FOLDER,
    AUTH_FOLDER,
    EVENT_DAYS,
    PLANTED_PERSONAL_DATA,
    UNKNOWN_CLIENT,
    DemoLandingError,
    write_first_delivery,
    write_second_delivery,
)

CLIENTS = ("client_busy", "client_middle", "client_quiet")
# the folder, and the digest of every file by key after the first and after the second delivery
Delivered = tuple[Path, dict[str, str], dict[str, str]]
OVERWRITTEN = f"{API_FOLDER}/2026-03-01/api-20260301T06.jsonl.gz"


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of every file below `folder` by its key."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def good_lines(path: Path) -> Iterator[dict[str, object]]:
    """Yield the objects of a gzip JSON lines file, the lines that are none left out."""
    for line in gzip.decompress(path.read_bytes()).splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and "is_real_vehicle" in value:
            yield value


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    """Return the folder, and its contents after the first and after the second delivery."""
    folder = tmp_path_factory.mktemp("landing")
    write_first_delivery(folder, CLIENTS)
    first = contents(folder)
    write_second_delivery(folder, CLIENTS)
    return folder, first, contents(folder)


class TestWriteFirstDelivery:
    def test_writes_the_same_bytes_for_the_same_clients(self, landing: Delivered, tmp_path: Path) -> None:
        _, first, _ = landing
        write_first_delivery(tmp_path, CLIENTS)
        assert contents(tmp_path) == first

    def test_leaves_what_is_there_as_it_is(self, landing: Delivered) -> None:
        folder, _, second = landing
        assert write_first_delivery(folder, CLIENTS) == ()
        assert contents(folder) == second

    def test_names_the_delivery_day_in_every_key(self, landing: Delivered) -> None:
        _, first, _ = landing
        days = {key.split("/")[2] for key in first}
        assert days == {"2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04"}

    def test_leaves_no_hour_of_a_day_without_a_request(self, landing: Delivered) -> None:
        folder, _, _ = landing
        for path in folder.glob(f"{AUTH_FOLDER}/*/*.avro"):
            with path.open("rb") as file:
                records = list(fastavro.reader(file))
            assert {record["timestamp"].hour for record in records} == set(range(24))

    def test_mixes_gzip_zstd_plain_lines_and_avro(self, landing: Delivered) -> None:
        folder, first, _ = landing
        magics = {(folder / key).read_bytes()[:4] for key in first}
        assert {magic[:2] for magic in magics} >= {b"\x1f\x8b", b'{"', b"\x28\xb5", b"Ob"}

    def test_has_a_client_that_nobody_knows_and_simulated_and_failed_requests(self, landing: Delivered) -> None:
        folder, _, _ = landing
        lines = list(good_lines(folder / f"{API_FOLDER}/2026-03-01/api-20260301T12.jsonl.gz"))
        assert {line["client_id"] for line in lines} == {*CLIENTS, UNKNOWN_CLIENT}
        assert {line["is_real_vehicle"] for line in lines} == {True, False}
        assert {200, 404, 500} <= {line["status_code"] for line in lines if isinstance(line["status_code"], int)}

    def test_makes_the_first_client_the_busiest(self, landing: Delivered) -> None:
        folder, _, _ = landing
        callers = [
            line["client_id"] for line in good_lines(folder / f"{API_FOLDER}/2026-03-01/api-20260301T12.jsonl.gz")
        ]
        assert callers.count("client_busy") > callers.count("client_middle") > callers.count("client_quiet")

    def test_plants_personal_data_that_the_parser_must_not_let_through(self, landing: Delivered) -> None:
        folder, _, _ = landing
        text = gzip.decompress((folder / f"{API_FOLDER}/2026-03-01/api-20260301T12.jsonl.gz").read_bytes()).decode()
        assert all(planted in text for planted in PLANTED_PERSONAL_DATA)

    def test_writes_some_lines_twice(self, landing: Delivered) -> None:
        folder, _, _ = landing
        lines = gzip.decompress(
            (folder / f"{API_FOLDER}/2026-03-02/api-20260302T12.jsonl.gz").read_bytes()
        ).splitlines()
        assert 10 < len(lines) - len(set(lines)) < len(lines) // 100

    def test_refuses_a_catalog_without_clients(self, tmp_path: Path) -> None:
        with pytest.raises(DemoLandingError, match="at least one client id"):
            write_first_delivery(tmp_path, ())


class TestWriteSecondDelivery:
    def test_overwrites_one_file_of_the_first_day_and_adds_two(self, landing: Delivered) -> None:
        _, first, second = landing
        assert {key for key in first if second[key] != first[key]} == {OVERWRITTEN}
        assert set(second) - set(first) == {
            f"{API_FOLDER}/2026-03-04/api-20260302T12-late.jsonl.gz",
            f"{API_FOLDER}/2026-03-04/again-api-20260303T06.jsonl",
        }

    def test_delivers_a_file_again_under_another_name(self, landing: Delivered) -> None:
        _, _, second = landing
        again = f"{API_FOLDER}/2026-03-04/again-api-20260303T06.jsonl"
        assert second[again] == second[f"{API_FOLDER}/2026-03-03/api-20260303T06.jsonl"]

    def test_brings_late_lines_of_the_second_day_some_known_and_one_that_contradicts(self, landing: Delivered) -> None:
        folder, _, _ = landing
        late = list(good_lines(folder / f"{API_FOLDER}/2026-03-04/api-20260302T12-late.jsonl.gz"))
        on_time = {
            line["request_id"]: line
            for line in good_lines(folder / f"{API_FOLDER}/2026-03-02/api-20260302T12.jsonl.gz")
        }
        known = [line for line in late if line["request_id"] in on_time]
        contradictions = [line for line in known if line != on_time[line["request_id"]]]
        assert {str(line["timestamp"])[:10] for line in late} == {str(EVENT_DAYS[1])}
        assert len(late) - len(known) > 100
        assert len(contradictions) == 1
        assert contradictions[0]["status_code"] == 502

    def test_changes_nothing_the_second_time(self, landing: Delivered) -> None:
        folder, _, second = landing
        assert write_second_delivery(folder, CLIENTS) == ()
        assert contents(folder) == second
