"""The published JSON Schema of the catalog's files says what the reader says."""

import json
import tomllib
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any

import jsonschema
import pytest

from billing_pipeline.catalog import FILES, Kind, file_schemas
from billing_pipeline.catalog.files import LIST_OF
from billing_pipeline.catalog.price_tables import MODEL_FIELDS
from resources.settings import PROJECT_ROOT

CATALOG = PROJECT_ROOT / "catalog"


def as_editors_see(value: object) -> object:
    """Return TOML values as a schema sees them: dates and times are strings."""
    match value:
        case dict():
            return {name: as_editors_see(part) for name, part in value.items()}
        case list():
            return [as_editors_see(part) for part in value]
        case datetime() | date() | time():
            return value.isoformat()
        case _:
            return value


def prices_with(**fields: object) -> dict[str, object]:
    """Return a prices.toml with one price of one version."""
    version = {"version": 1, "effective_from": "2026-01-01T00:00:00+00:00", **fields}
    return {"price": [{"id": "one", "meter": "requests", "currency": "USD", "versions": [version]}]}


def problems(file: str, tables: object) -> list[str]:
    """Return what the schema says against a file's tables."""
    validator = jsonschema.Draft202012Validator(file_schemas()[file.replace(".toml", ".schema.json")])
    return [error.message for error in validator.iter_errors(tables)]


@pytest.mark.parametrize("name", sorted(file_schemas()))
def test_the_published_file_is_the_one_that_is_made(name: str) -> None:
    published = json.loads((CATALOG / "schema" / name).read_text(encoding="utf-8"))
    assert published == file_schemas()[name], "run `billing catalog schema`"
    jsonschema.Draft202012Validator.check_schema(published)


def fields_of(part: object, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field that a schema names, with its place; what a charge model only refuses is none."""
    if isinstance(part, dict):
        for name, field in part.get("properties", {}).items():
            if field is not False:
                yield f"{place}.{name}", field
        for name, inner in part.items():
            if name == "if":
                continue
            yield from fields_of(inner, f"{place}.{name}")
    elif isinstance(part, list):
        for inner in part:
            yield from fields_of(inner, place)


@pytest.mark.parametrize("name", sorted(file_schemas()))
def test_every_field_says_what_it_is(name: str) -> None:
    fields = dict(fields_of(file_schemas()[name]))
    assert len(fields) > 2
    lists = {f".{LIST_OF[kind]}" for kind in Kind if kind is not Kind.BILLABLE_RULE}
    assert [place for place, field in fields.items() if place not in lists and not field.get("description")] == []


@pytest.mark.parametrize("file", sorted(FILES.values()))
class TestTheShippedCatalog:
    def test_fits(self, file: str) -> None:
        tables = as_editors_see(tomllib.loads((CATALOG / file).read_text(encoding="utf-8")))
        assert problems(file, tables) == []

    def test_names_its_schema_for_editors(self, file: str) -> None:
        first = (CATALOG / file).read_text(encoding="utf-8").splitlines()[0]
        assert first == f"#:schema ./schema/{file.replace('.toml', '.schema.json')}"


class TestPrices:
    def test_of_one_model_need_its_fields_and_refuse_those_of_others(self) -> None:
        assert problems("prices.toml", prices_with(model="standard", unit_price="0.05")) == []
        assert problems("prices.toml", prices_with(model="standard")) == ["'unit_price' is a required property"]
        assert problems("prices.toml", prices_with(model="standard", unit_price="0.05", package_size="10")) != []

    @pytest.mark.parametrize("model", sorted(MODEL_FIELDS))
    def test_without_the_fields_of_their_model_are_refused(self, model: str) -> None:
        needed, _ = MODEL_FIELDS[model]
        found = problems("prices.toml", prices_with(model=model))
        assert {f"'{field}' is a required property" for field in needed} <= set(found)

    def test_are_never_floats_and_never_below_0(self) -> None:
        assert problems("prices.toml", prices_with(model="standard", unit_price=0.05)) != []
        assert problems("prices.toml", prices_with(model="standard", unit_price="-1")) != []
        assert problems("prices.toml", prices_with(model="standard", unit_price=1)) == []

    def test_have_no_fields_that_the_reader_does_not_know(self) -> None:
        assert problems("prices.toml", prices_with(model="standard", unit_price="1", unit_prise="1")) != []
