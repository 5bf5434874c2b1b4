"""Wire -> typed parameters, by the SDK's own types: a form of /v1 or the JSON of /v2 -> values, or Stripe's refusal.

The SDK's params TypedDicts are compiled to readers on first use and kept. A parameter that the TypedDict does not have is
refused, as is a value of another type and an enum's value that it does not list (the SDK leaves enums open for later
values; the server does not). Decimals are plain digits with at most 12 places: an exponent is refused. Not here: what the
values mean.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import cache, lru_cache
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, ForwardRef, Literal, NotRequired, Required, TypeAlias, Union, get_args, get_origin
from urllib.parse import parse_qsl

from resources.stripe_sim.operations import Operation
from resources.stripe_sim.refusals import ApiError, invalid

Reader: TypeAlias = Callable[[Any, str], Any]
"""(value on the wire, name of the parameter) -> value; raises ApiError."""

MOST_DECIMAL_PLACES = 12

_INTEGER = re.compile(r"-?\d{1,19}")
_DECIMAL = re.compile(rf"-?\d+(?:\.\d{{1,{MOST_DECIMAL_PLACES}}})?")
_KEY = re.compile(r"^([^\[\]]+)((?:\[[^\[\]]*\])*)$")
_SUBKEY = re.compile(r"\[([^\[\]]*)\]")
_LONGEST_METADATA = {"keys": 50, "key": 40, "value": 500}


def read_form(text: str) -> dict[str, Any]:
    """Return a form's pairs as nested dicts: `a[b][0]=c` -> {"a": {"b": {"0": "c"}}}.

    Raises:
        ApiError: a key cannot be read.
    """
    found: dict[str, Any] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        match = _KEY.match(key)
        if match is None:
            raise invalid(f"Invalid parameter name: {key}", param=key)
        path = [match.group(1), *_SUBKEY.findall(match.group(2))]
        place = found
        for part in path[:-1]:
            inner = place.setdefault(part or str(len(place)), {})
            if not isinstance(inner, dict):
                raise invalid(f"Invalid parameter name: {key}", param=key)
            place = inner
        place[path[-1] or str(len(place))] = value
    return found


def read_parameters(operation: Operation, given: Mapping[str, Any], *, is_form: bool) -> dict[str, Any]:
    """Return what `given` means for the operation.

    Raises:
        ApiError: a parameter is unknown, missing, or of another type.
    """
    reader = _form_reader(operation) if is_form else _json_reader(operation)
    values: dict[str, Any] = reader(given, "")
    return values


def parameter_names(operation: Operation) -> frozenset[str]:
    """Return every parameter that the SDK has for the operation."""
    return frozenset(_class_of(operation).__annotations__) - _request_options()


@cache
def _form_reader(operation: Operation) -> Reader:
    # Pages of /v2 are asked for by an address that the server gave, with a parameter that no client ever builds.
    others = {"page": _string} if operation.is_v2 and operation.parameters_class.endswith("ListParams") else {}
    return _typed_dict(_class_of(operation), is_form=True, others=others)


@cache
def _json_reader(operation: Operation) -> Reader:
    return _typed_dict(_class_of(operation), is_form=False)


def _class_of(operation: Operation) -> type:
    found = getattr(import_module(operation.parameters_module), operation.parameters_class)
    assert isinstance(found, type)
    return found


@lru_cache(maxsize=1)
def _request_options() -> frozenset[str]:
    return frozenset(import_module("stripe._request_options").RequestOptions.__annotations__)


def _typed_dict(cls: type, *, is_form: bool, others: Mapping[str, Reader] | None = None) -> Reader:
    names = [name for name in cls.__annotations__ if name not in _request_options()]
    scope = vars(import_module(cls.__module__))
    readers = {name: _reader(cls.__annotations__[name], scope, is_form) for name in names} | dict(others or {})
    required = [name for name in names if name in cls.__required_keys__]  # type: ignore[attr-defined]

    def read(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise invalid("Invalid object", param=name)
        unknown = [key for key in value if key not in readers]
        if unknown:
            full = _inner(name, unknown[0])
            raise invalid(f"Received unknown parameter: {full}", code="parameter_unknown", param=full)
        for key in required:
            if key not in value:
                full = _inner(name, key)
                raise invalid(f"Missing required param: {full}.", code="parameter_missing", param=full)
        return {key: readers[key](one, _inner(name, key)) for key, one in value.items()}

    return read


def _inner(name: str, key: str) -> str:
    return f"{name}[{key}]" if name else key


def _reader(hint: Any, scope: Mapping[str, Any], is_form: bool) -> Reader:
    """Compile a type hint of the SDK. `scope`: the names of its module."""
    if isinstance(hint, str):
        hint = ForwardRef(hint)
    if isinstance(hint, ForwardRef):
        hint = eval(hint.__forward_arg__, dict(scope))
        return _reader(hint, scope, is_form)
    origin = get_origin(hint)
    if origin in (NotRequired, Required):
        return _reader(get_args(hint)[0], scope, is_form)
    if origin in (Union, UnionType):
        return _union(get_args(hint), scope, is_form)
    if origin is Literal:
        return _literal(get_args(hint))
    if origin in (list, Sequence):
        return _list(_reader(get_args(hint)[0], scope, is_form), is_form)
    if origin is dict:
        return _dict(_reader(get_args(hint)[1], scope, is_form))
    if hasattr(hint, "__required_keys__"):
        return _typed_dict(hint, is_form=is_form)
    return _leaf(hint, is_form)


def _leaf(hint: Any, is_form: bool) -> Reader:
    leaves: dict[Any, Reader] = {
        str: _string,
        int: _form_integer if is_form else _json_integer,
        bool: _form_boolean if is_form else _json_boolean,
        Decimal: _decimal,
        float: _decimal,
    }
    return leaves.get(hint, lambda value, name: value)


def _union(hints: Sequence[Any], scope: Mapping[str, Any], is_form: bool) -> Reader:
    hints = [hint for hint in hints if hint is not NoneType and "UntypedStripeObject" not in repr(hint)]
    literals = [value for hint in hints if get_origin(hint) is Literal for value in get_args(hint)]
    others = [hint for hint in hints if get_origin(hint) is not Literal]
    if any(value != "" for value in literals):
        # An enum that the SDK leaves open for values of later versions.
        others = [hint for hint in others if hint is not str]
    nested = [_reader(hint, scope, is_form) for hint in others if not _is_leaf(hint)]
    leaves = [_leaf(hint, is_form) for hint in others if _is_leaf(hint)]
    choice = _literal([value for value in literals if value != ""] or literals)

    def read(value: Any, name: str) -> Any:
        if value in literals and not isinstance(value, Mapping | list):
            return value
        tried = nested if isinstance(value, Mapping | list) else leaves
        for place, one in enumerate(tried):
            try:
                return one(value, name)
            except ApiError:
                if place == len(tried) - 1:
                    raise
        if literals and not (nested or leaves):
            return choice(value, name)
        raise invalid(f"Invalid value for {name}", param=name)

    return read


def _is_leaf(hint: Any) -> bool:
    return hint in (str, int, bool, Decimal, float)


def _literal(values: Sequence[Any]) -> Reader:
    def read(value: Any, name: str) -> Any:
        for one in values:
            if value == one or (isinstance(one, bool) and value == str(one).lower()):
                return one
        choices = ", ".join(str(one) for one in values)
        raise invalid(f"Invalid {name}: must be one of {choices}", param=name)

    return read


def _list(inner: Reader, is_form: bool) -> Reader:
    def read(value: Any, name: str) -> list[Any]:
        if is_form and isinstance(value, Mapping):
            if not all(key.isdecimal() for key in value):
                raise invalid("Invalid array", param=name)
            value = [value[key] for key in sorted(value, key=int)]
        if not isinstance(value, list):
            raise invalid("Invalid array", param=name)
        return [inner(one, f"{name}[{place}]") for place, one in enumerate(value)]

    return read


def _dict(inner: Reader) -> Reader:
    def read(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise invalid("Invalid object", param=name)
        if name.rpartition("[")[2].rstrip("]") == "metadata":
            _check_metadata(value, name)
        return {key: inner(one, f"{name}[{key}]") for key, one in value.items()}

    return read


def _check_metadata(value: Mapping[str, Any], name: str) -> None:
    if len(value) > _LONGEST_METADATA["keys"]:
        raise invalid("Metadata can have up to 50 keys", param=name)
    for key, text in value.items():
        if len(key) > _LONGEST_METADATA["key"]:
            raise invalid("Metadata keys can be up to 40 characters long", param=f"{name}[{key}]")
        if len(str(text)) > _LONGEST_METADATA["value"]:
            raise invalid("Metadata values can be up to 500 characters long", param=f"{name}[{key}]")


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise invalid("Invalid string", param=name)
    return value


def _form_integer(value: Any, name: str) -> int:
    if not isinstance(value, str) or _INTEGER.fullmatch(value) is None:
        raise invalid(f"Invalid integer: {value}", code="parameter_invalid_integer", param=name)
    return int(value)


def _json_integer(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(f"Invalid integer: {value}", code="parameter_invalid_integer", param=name)
    return value


def _form_boolean(value: Any, name: str) -> bool:
    if value not in ("true", "false"):
        raise invalid(f"Invalid boolean: {value}", param=name)
    return bool(value == "true")


def _json_boolean(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise invalid(f"Invalid boolean: {value}", param=name)
    return value


def _decimal(value: Any, name: str) -> Decimal:
    if not isinstance(value, str) or _DECIMAL.fullmatch(value) is None:
        raise invalid(f"Invalid decimal: {value}", param=name)
    return Decimal(value)
