"""A file's schema against what a reader wants: every version of ours is read, what does not fit is refused."""

from pathlib import Path
from typing import Any

import pytest

from billing_pipeline.records import Reason
from billing_pipeline.sources.avro import (
    TIMESTAMPS,
    AvroSchemaError,
    Kind,
    Resolution,
    SchemaRefusal,
    WantedField,
    compatible,
    parse_schema,
    resolve,
    wanted_fields,
)
from resources.avro import read_schema
from resources.inflate import Compression
from tests.avro_files import CURRENT, ENUM, NAMES, V1, changed, encoded, record, requests, rows_of, written


class TestOurSchema:
    def test_follows_every_version_before(self) -> None:
        assert compatible(V1, CURRENT) == ()
        assert V1["schema_version"] + 1 == CURRENT["schema_version"]

    def test_describes_every_field(self) -> None:
        assert all(field["doc"] for field in CURRENT["fields"])

    @pytest.mark.parametrize("schema", [V1, CURRENT], ids=["v1", "current"])
    def test_is_read_in_all_its_versions(self, tmp_path: Path, schema: Any) -> None:
        rows = requests(50)
        path = written(tmp_path, encoded(schema, rows))
        resolution = resolve(read_schema(path, Compression.NONE), wanted_fields(CURRENT), record_names=NAMES)
        assert isinstance(resolution, Resolution)
        names = [field.source for field in resolution.fields]
        expected = [{name: row[name] for name in names} for row in rows]
        assert [{name: row[name] for name in names} for row in rows_of(path, fields=names)] == expected
        assert resolution.absent == (() if schema is CURRENT else ("response_bytes",))


class TestCompatible:
    @pytest.mark.parametrize(
        ("new", "problem"),
        [
            (
                {**V1, "fields": [*V1["fields"], {"name": "region", "type": "string"}]},
                "region is new and has no default",
            ),
            ({**V1, "fields": V1["fields"][1:]}, "request_id was removed"),
            (changed(V1, "status_code", type="string"), "status_code was int and cannot become string"),
            (changed(V1, "timestamp", type="long"), "timestamp was timestamp-millis and cannot become long"),
            (changed(V1, "client_id", name="caller"), "caller is new and has no default"),
            ({**V1, "name": "Request"}, "renamed without an alias"),
            ({**V1, "aliases": ["ApiRequest"], "name": "Request"}, None),
            (changed(V1, "client_id", name="caller", aliases=["client_id"]), None),
            (changed(V1, "status_code", type="long"), None),
            (changed(V1, "client_id", type=["null", "string"]), None),
            ({**V1, "fields": [*V1["fields"], {"name": "region", "type": "string", "default": ""}]}, None),
        ],
    )
    def test_says_what_breaks_readers(self, new: Any, problem: str | None) -> None:
        problems = compatible(V1, new)
        if problem is None:
            assert problems == ()
        else:
            assert problem in "; ".join(problems)

    def test_refuses_to_take_null_back(self) -> None:
        assert compatible(changed(V1, "client_id", type=["null", "string"]), V1) == (
            "client_id could be null and cannot become required",
        )

    def test_refuses_to_lose_a_symbol(self) -> None:
        old = record({"type": "enum", "name": "e", "symbols": ["A", "B"]})
        new = record({"type": "enum", "name": "e", "symbols": ["A"]})
        assert compatible(old, new) == ("f0 lost symbols of its enum",)
        assert compatible(new, old) == ()

    def test_wants_records(self) -> None:
        assert compatible({"type": "long"}, V1) == ("both versions must be records",)


class TestResolve:
    @pytest.mark.parametrize(
        ("writer", "reason", "field"),
        [
            (changed(V1, "client_id", name="caller", aliases=["client_id"]), "schema_incompatible", "client_id"),
            (changed(V1, "is_real_vehicle", type=ENUM), "schema_incompatible", "is_real_vehicle"),
            (changed(V1, "is_real_vehicle", type="string"), "schema_incompatible", "is_real_vehicle"),
            (changed(V1, "status_code", type="long"), None, None),
            (changed(V1, "status_code", type="string"), "schema_incompatible", "status_code"),
            (changed(V1, "timestamp", type="long"), "timestamp_unit_unknown", "timestamp"),
            (changed(V1, "timestamp", type={"type": "long", "logicalType": "unheard-of"}), "timestamp_unit_unknown", "timestamp"),
            (changed(V1, "timestamp", type={"type": "long", "logicalType": "local-timestamp-millis"}), "no_timezone", "timestamp"),
            (changed(V1, "timestamp", type={"type": "long", "logicalType": "timestamp-micros"}), None, None),
            (changed(V1, "timestamp", type="string"), "schema_incompatible", "timestamp"),
            (changed(V1, "is_real_vehicle", type=["null", "boolean"]), None, None),
            (changed(V1, "is_real_vehicle", type=["null", "boolean", "string"]), "schema_incompatible", "is_real_vehicle"),
            ({**V1, "name": "Other"}, "schema_incompatible", None),
            ({**V1, "namespace": "elsewhere"}, "schema_incompatible", None),
            ({**V1, "fields": [*V1["fields"], {"name": "new", "type": {"type": "map", "values": "string"}}]}, None, None),
            ("long", "schema_incompatible", None),
            ({"type": "record", "name": "r"}, "bad_avro", None),
        ],
    )  # fmt: skip
    def test_gives_each_change_of_the_writer_its_verdict(
        self, writer: Any, reason: str | None, field: str | None
    ) -> None:
        outcome = resolve(
            writer,
            wanted_fields(V1 | {"fields": changed(V1, "status_code", type="long")["fields"]}),
            record_names=NAMES,
        )
        if reason is None:
            assert isinstance(outcome, Resolution)
        else:
            assert isinstance(outcome, SchemaRefusal)
            assert (outcome.reason, outcome.field) == (reason, field)

    def test_takes_a_renamed_field_by_the_readers_alias(self) -> None:
        reader = changed(V1, "response_time_ms", aliases=["duration_ms"])
        outcome = resolve(
            changed(V1, "response_time_ms", name="duration_ms"), wanted_fields(reader), record_names=NAMES
        )
        assert isinstance(outcome, Resolution)
        assert {field.name: field.source for field in outcome.fields}["response_time_ms"] == "duration_ms"

    def test_prefers_names_in_their_order(self) -> None:
        want = WantedField(name="at", names=("occurred_at", "timestamp"), kinds=TIMESTAMPS)
        instant = {"type": "long", "logicalType": "timestamp-millis"}
        writer = {
            "type": "record",
            "name": "r",
            "fields": [{"name": "timestamp", "type": instant}, {"name": "occurred_at", "type": instant}],
        }
        outcome = resolve(writer, [want], record_names=["r"])
        assert isinstance(outcome, Resolution)
        assert outcome.fields[0].source == "occurred_at"

    def test_may_insist_on_a_type_without_null(self) -> None:
        want = WantedField(name="f0", names=("f0",), kinds=frozenset({Kind.LONG}), nullable=False)
        outcome = resolve(record(["null", "long"]), [want], record_names=["r"])
        assert isinstance(outcome, SchemaRefusal)
        assert outcome.reason is Reason.SCHEMA_INCOMPATIBLE

    def test_accepts_any_namespace_for_a_bare_name(self) -> None:
        assert isinstance(resolve(V1, wanted_fields(V1), record_names=["ApiRequest"]), Resolution)


class TestParseSchema:
    @pytest.mark.parametrize(
        "document",
        [
            None,
            7,
            [],
            {},
            {"type": "unheard-of"},
            {"type": "record", "name": "r", "fields": [{"name": "a", "type": "missing"}]},
            {"type": "record", "name": "r", "fields": [{"name": "a"}]},
            {"type": "record", "name": "", "fields": []},
            record("long") | {"fields": record("long")["fields"] * 2},
            record({"type": "enum", "name": "r", "symbols": []}),
            {"type": "fixed", "name": "f", "size": -1},
            {"type": "array"},
        ],
    )
    def test_refuses_what_is_no_schema(self, document: Any) -> None:
        with pytest.raises(AvroSchemaError):
            parse_schema(document)

    def test_refuses_bottomless_nesting(self) -> None:
        document: Any = "long"
        for _ in range(500):
            document = {"type": "array", "items": document}
        with pytest.raises(AvroSchemaError, match="deeper"):
            parse_schema(document)
