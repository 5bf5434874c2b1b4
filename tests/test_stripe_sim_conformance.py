"""The stand-in is held to the installed SDK: operations, parameters, and the fields of every answer."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ForwardRef, Literal, Union, get_args, get_origin

import pytest

from resources.stripe_sim.api import MODELLED
from resources.stripe_sim.kinds import KINDS, left_out, sdk_class
from resources.stripe_sim.operations import Operation, Routes, sdk_operations
from resources.stripe_sim.parameters import parameter_names, read_parameters
from resources.stripe_sim.refusals import ApiError
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.server import RunningSim, serving_stripe
from tests.stripe_fixtures import START, sdk_client
from tests.stripe_scenario import play_everything


@pytest.fixture(scope="module")
def played() -> Iterator[tuple[RunningSim, list[Any]]]:
    """Return a stand-in that has been through everything, and answers that are in no table."""
    with serving_stripe(now=START) as sim, sdk_client(sim.url) as client:
        yield sim, play_everything(sim, client)


def shown(sim: RunningSim) -> Iterator[dict[str, Any]]:
    """Yield every object as the API shows it."""
    world = sim.application.world
    for table in world.tables.values():
        for row in table.oldest():
            if not row.get("deleted"):
                yield json.loads(json.dumps(rendered(world, row)))


class TestOperations:
    @pytest.mark.parametrize("name", sorted(MODELLED))
    def test_that_are_modelled_are_in_the_sdk_with_every_parameter_they_take(self, name: str) -> None:
        operation = sdk_operations()[name]
        assert MODELLED[name].takes - parameter_names(operation) - {"page"} == set()

    def test_are_found_by_method_and_path(self) -> None:
        routes = Routes(sdk_operations())
        for name, operation in sdk_operations().items():
            found = routes.find(operation.method, operation.path.replace("{}", "obj_1"))
            assert found is not None
            assert found[0].name == name
            assert found[1] == ("obj_1",) * operation.path.count("{}")

    def test_are_hundreds_and_all_of_their_parameters_can_be_read(self) -> None:
        assert len(sdk_operations()) > 600
        for operation in sdk_operations().values():
            # Compiles every type hint of every parameter.
            assert read_nothing(operation) in (None, "parameter_missing")


class TestAnswers:
    def test_hold_one_of_every_kind(self, played: tuple[RunningSim, list[Any]]) -> None:
        assert {row["object"] for row in shown(played[0])} == set(KINDS)

    def test_have_the_fields_and_types_that_the_sdk_declares(self, played: tuple[RunningSim, list[Any]]) -> None:
        sim, seen = played
        documents = [*shown(sim), *(json.loads(json.dumps(one.to_dict(), default=str)) for one in seen)]
        wrong = {problem for one in documents for problem in problems(one, sdk_class(one["object"]), one["object"])}
        assert wrong == set()

    def test_have_no_field_that_the_sdk_does_not_know(self, played: tuple[RunningSim, list[Any]]) -> None:
        unknown = {
            f"{row['object']}.{name}"
            for row in shown(played[0])
            for name in row
            if name not in sdk_class(row["object"]).__annotations__
        }
        # Thin events have fields by their type.
        assert unknown <= {"v2.core.event.data", "v2.core.event.related_object"}

    def test_have_the_fields_of_stripes_own_examples(
        self, played: tuple[RunningSim, list[Any]], real_data: Path
    ) -> None:
        examples = json.loads((real_data / "stripe" / "fixtures3.json").read_text())["resources"]
        missing = set()
        for row in shown(played[0]):
            kind = row["object"]
            wanted = set(examples.get(kind, {})) & set(sdk_class(kind).__annotations__)
            missing |= {f"{kind}.{name}" for name in wanted - set(row) - left_out()}
        assert missing == set()


def problems(document: Any, cls: type, path: str) -> Iterator[str]:
    """Yield what a document lacks of an SDK class, or has in another type."""
    for name, hint in cls.__annotations__.items():
        if "ClassVar" in repr(hint) or name.startswith("_"):
            continue
        optional = get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)
        if name not in document:
            if not optional:
                yield f"{path}.{name} is missing"
            continue
        yield from mismatches(document[name], hint, f"{path}.{name}")


def mismatches(value: Any, hint: Any, path: str) -> Iterator[str]:
    """Yield where a value is not of a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(hint, ForwardRef | str) or hint is Any:
        return
    if origin in (Union, UnionType):
        if value is None and NoneType in inner:
            return
        found = [list(mismatches(value, one, path)) for one in inner if one is not NoneType]
        if all(found):
            yield found[0][0]
    elif origin is Literal:
        if value not in inner:
            yield f"{path} is {value!r}, none of {inner}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{path} is no list"
        else:
            for one in value:
                yield from mismatches(one, inner[0], f"{path}[]")
    elif isinstance(hint, type) and "StripeObject" in {base.__name__ for base in hint.__mro__}:
        if not isinstance(value, dict):
            yield f"{path} is no object"
        else:
            yield from problems(value, hint, path)
    elif hint in (int, bool, str):
        if type(value) is not hint:
            yield f"{path} is {value!r}, no {hint.__name__}"
    elif getattr(hint, "__name__", "") == "Decimal" and not isinstance(value, str):
        yield f"{path} is {value!r}, no decimal in text"


def read_nothing(operation: Operation) -> str | None:
    """Read no parameters at all, and return the code of the refusal, if it is refused."""
    try:
        read_parameters(operation, {}, is_form=not operation.is_v2 or operation.method != "POST")
    except ApiError as error:
        return error.code
    return None
