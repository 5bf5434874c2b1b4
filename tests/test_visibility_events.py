"""Visibility and ownership of repositories, and the configuration of storage sources."""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from billing_pipeline.sources.storage_table import SizeRow, read_size_row
from billing_pipeline.sources.visibility_events import RepositoryEvent, json_fields, read_fields
from billing_pipeline.storage_policy import OnFailure, StoragePolicy
from resources.landing import LandingFile
from resources.storage_config import (
    Kind,
    StorageConfigError,
    delivery_day_of,
    load_storage_policy,
    load_storage_sources,
)
from resources.storage_policy import storage_policy
from tests.storage_files import AS_OF

AT = datetime(2026, 6, 1, 14, 0, tzinfo=UTC)
ELSEWHERE = timezone(timedelta(hours=5))
LINE = {"event_id": "v-1", "repository": "acme/atlas", "at": "2026-06-01T14:00:00Z", "visibility": "private"}


def events(**changes: Any) -> tuple[RepositoryEvent, ...]:
    """Return the events of a line with fields changed; `...` removes one."""
    said = read_fields(fields(**changes), as_of=AS_OF)
    assert said
    assert all(isinstance(one, RepositoryEvent) for one in said)
    return tuple(one for one in said if isinstance(one, RepositoryEvent))


def fields(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**LINE, **changes}.items() if value is not ...}


class TestEvents:
    def test_set_visibility(self) -> None:
        assert events() == (
            RepositoryEvent(event_id="v-1", event_at=AT, repository="acme/atlas", kind="visibility", value="private"),
        )

    def test_set_an_owner(self) -> None:
        (event,) = events(visibility=..., owner="globex")
        assert (event.kind, event.value) == ("owner", "globex")

    def test_may_say_both_in_one_line(self) -> None:
        assert [(event.event_id, event.kind) for event in events(owner="globex")] == [
            ("v-1/visibility", "visibility"),
            ("v-1/owner", "owner"),
        ]

    def test_without_an_id_are_known_by_their_content(self) -> None:
        (first,), (second,), (third,) = (
            events(event_id=...),
            events(event_id=None),
            events(event_id=..., visibility="public"),
        )
        assert first.event_id == second.event_id != third.event_id

    @pytest.mark.parametrize(
        "at",
        [
            "2026-06-01T14:00:00Z",
            "2026-06-01T16:00:00+02:00",
            AT.replace(tzinfo=None),
            AT.astimezone(ELSEWHERE),
        ],
    )
    def test_are_in_utc(self, at: object) -> None:
        assert events(at=at)[0].event_at == AT

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"repository": ...}, ("missing_field", "repository")),
            ({"repository": ""}, ("bad_value", "repository")),
            ({"repository": "a\nb"}, ("bad_value", "repository")),
            ({"at": ...}, ("missing_field", "at")),
            ({"at": "2026-06-01T14:00:00"}, ("no_timezone", "at")),
            ({"at": 1}, ("ambiguous_unit", "at")),
            ({"at": AS_OF + timedelta(hours=1)}, ("future", "at")),
            ({"visibility": ...}, ("missing_field", "visibility")),
            ({"visibility": "secret"}, ("bad_value", "visibility")),
            ({"visibility": True}, ("bad_value", "visibility")),
            ({"owner": 5}, ("bad_value", "owner")),
            ({"event_id": 5}, ("bad_value", "event_id")),
        ],
    )
    def test_that_cannot_be_are_refused(self, changes: dict[str, Any], expected: tuple[str, str]) -> None:
        assert read_fields(fields(**changes), as_of=AS_OF) == expected


class TestLines:
    def test_are_objects(self) -> None:
        assert json_fields(json.dumps(LINE).encode()) == LINE

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"{", "bad_json"),
            (b"[]", "not_an_object"),
            (b'{"a": "\xff"}', "encoding"),
            (b'{"a": 1, "a": 2}', "duplicate_key"),
            (b" " * 65_537, "too_long"),
        ],
    )
    def test_that_are_none_are_refused(self, line: bytes, reason: str) -> None:
        assert json_fields(line) == (reason, None)


class TestSizeRows:
    ROW = {"repository": "acme/atlas", "bytes": 5, "snapshot_at": "2026-06-01T14:00:00Z"}

    def test_are_exact(self) -> None:
        row = read_size_row({**self.ROW, "bytes": str(2**63 - 1), "object_count": "7"}, as_of=AS_OF)
        assert isinstance(row, SizeRow)
        assert (row.bytes, row.object_count, row.visibility, row.snapshot_at) == (2**63 - 1, 7, None, AT)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"bytes": 2**63}, ("out_of_range", "bytes")),
            ({"bytes": -1}, ("out_of_range", "bytes")),
            ({"bytes": 1.5}, ("out_of_range", "bytes")),
            ({"bytes": True}, ("out_of_range", "bytes")),
            ({"bytes": ""}, ("missing_field", "bytes")),
            ({"object_count": "many"}, ("out_of_range", "object_count")),
            ({"repository": 5}, ("bad_value", "repository")),
            ({"owner": "a\0"}, ("bad_value", "owner")),
            ({"visibility": "Private"}, ("bad_value", "visibility")),
            ({"snapshot_at": "2026-06-01"}, ("no_timezone", "snapshot_at")),
            ({"snapshot_at": None}, ("missing_field", "snapshot_at")),
        ],
    )
    def test_that_cannot_be_are_refused(self, changes: dict[str, Any], expected: tuple[str, str]) -> None:
        assert read_size_row({**self.ROW, **changes}, as_of=AS_OF) == expected


class TestConfiguration:
    def load(self, folder: Path, text: str) -> Any:
        (folder / "storage.toml").write_text(text)
        return load_storage_sources(folder)

    def test_without_a_file_is_empty(self, tmp_path: Path) -> None:
        assert load_storage_sources(tmp_path) == ()

    def test_that_ships_is_valid(self) -> None:
        from resources.settings import PROJECT_ROOT

        load_storage_sources(PROJECT_ROOT / "catalog")

    def test_names_every_kind(self, tmp_path: Path) -> None:
        sources = self.load(
            tmp_path,
            "\n".join(
                f'[[source]]\nname = "{kind}"\nkind = "{kind}"\nlanding = "storage/{kind}/"\n'
                + ('place = "s3://chunks"' if kind is Kind.LISTING else "")
                for kind in Kind
            )
            + '\n[[source]]\nname="t2"\nkind="cloudtrail"\nlanding="t2"\ndigests="required"\npublic_keys="keys.json"\n',
        )
        assert [(source.name, source.dataset) for source in sources] == [
            ("inventory", "core/storage_snapshots"),
            ("listing", "core/storage_snapshots"),
            ("table", "core/storage_snapshots"),
            ("cloudtrail", "core/object_events"),
            ("visibility", "core/visibility_events"),
            ("t2", "core/object_events"),
        ]
        assert sources[-1].public_keys == tmp_path / "keys.json"
        assert sources[0].landing == "storage/inventory"

    def test_says_what_a_failed_check_does(self, tmp_path: Path) -> None:
        assert load_storage_policy(tmp_path) == StoragePolicy()
        (tmp_path / "monthly.toml").write_text(
            'name = "m"\nversion = 1\ndescription = "m"\nkeys = ["(?P<repository>.+)"]\nmax_snapshot_age_hours = 800'
        )
        sources = self.load(
            tmp_path,
            '[policy]\ndrift_percent = 0.5\non_drift = "hold"\n'
            '[[source]]\nname = "l"\nkind = "listing"\nlanding = "l"\nplace = "s3://b"\n'
            '[[source]]\nname = "t"\nkind = "table"\nlanding = "t"\nprofile = "monthly"\n',
        )
        assert storage_policy(sources, load_storage_policy(tmp_path)) == StoragePolicy(
            complete=frozenset({"l"}),
            snapshot_ages={"l": timedelta(hours=36), "t": timedelta(hours=800)},
            max_snapshot_age=timedelta(hours=800),
            drift_percent=Decimal("0.5"),
            on_drift=OnFailure.HOLD,
            on_visibility_mismatch=OnFailure.WARN,
        )
        assert storage_policy((), load_storage_policy(tmp_path)).max_snapshot_age == timedelta(hours=72)

    def test_says_which_buckets_are_measured(self, tmp_path: Path) -> None:
        def policy(*blocks: str) -> StoragePolicy:
            numbered = (
                f'[[source]]\nname = "s{number}"\nlanding = "s{number}"\n{one}' for number, one in enumerate(blocks)
            )
            return storage_policy(self.load(tmp_path, "\n".join(numbered)))

        inventory, table = 'kind = "inventory"\nobjects = true\n', 'kind = "table"\n'
        one = policy(inventory, table, 'kind = "cloudtrail"')
        assert (one.is_divided, one.buckets, one.indexed) == (False, {}, frozenset({"s0"}))
        assert not policy(inventory + 'bucket = "a"', table + 'bucket = "a"').is_divided
        assert policy(table, table) == policy(table, table)
        two = policy(inventory, 'kind = "listing"\nplace = "s3://b/x"', table + 'bucket = "t"')
        assert (two.is_divided, two.buckets) == (True, {"s2": "t"})
        assert policy(inventory + 'bucket = "a"', inventory + 'bucket = "b"').buckets == {"s0": "a", "s1": "b"}
        with pytest.raises(StorageConfigError, match="the table source s2 does not say which of them"):
            policy(inventory, inventory, table)

    @pytest.mark.parametrize(
        "text",
        [
            '[[source]]\nname="a"\nkind="cloudtrail"\nlanding="x"\nbucket="b"',
            "[[source]]",
            '[[source]]\nname="a"\nkind="tape"\nlanding="x"',
            '[[source]]\nname="a"\nkind="listing"\nlanding="x"',
            '[[source]]\nname="a"\nkind="inventory"\nlanding="x"\nplace="s3://b"',
            '[[source]]\nname="a"\nkind="inventory"\nlanding="/"',
            '[[source]]\nname="a"\nkind="cloudtrail"\nlanding="x"\ndigests="required"',
            '[[source]]\nname="a"\nkind="table"\nlanding="x"\n[[source]]\nname="a"\nkind="table"\nlanding="y"',
            '[[source]]\nname="a"\nkind="table"\nlanding="x"\n[[source]]\nname="b"\nkind="table"\nlanding="x/y"',
            '[[source]]\nname="api"\nkind="table"\nlanding="x"',
            "source = ",
            "[policy]\ndrift_percent = 101",
            "[policy]\ndrift_percent = 0.00001",
            '[policy]\non_drift = "stop"',
            "[policy]\nmax_age = 3",
        ],
    )
    def test_that_cannot_be_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "sources.toml").write_text('[[source]]\nname = "api"\n')
        with pytest.raises(StorageConfigError, match="none is billed"):
            self.load(tmp_path, text)

    @pytest.mark.parametrize(
        ("key", "day"),
        [
            ("x/2026-06-02/a.json", date(2026, 6, 2)),
            ("AWSLogs/1/CloudTrail/us-east-1/2026/06/02/a.json.gz", date(2026, 6, 2)),
            ("inv/2026-06-02T01-00Z/manifest.json", date(2026, 6, 2)),
            ("inv/2026-06-32/manifest.json", date(2026, 6, 5)),
            ("manifest.json", date(2026, 6, 5)),
        ],
    )
    def test_takes_the_delivery_day_from_the_path_or_the_clock(self, key: str, day: date) -> None:
        assert delivery_day_of(LandingFile(key=key, size_bytes=1, modified_at=AS_OF)) == day
