"""Stripe's operations as the installed SDK has them: service files -> method, path, the class of its parameters.

Read as text and once for a process: 0.1 s, nothing of the SDK is imported. Not here: what the parameters may be (parameters),
which operations are modelled (api).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from billing_pipeline.errors import BillingError

_METHOD = re.compile(r"\n    def \w+\(\n(.*?)(?=\n    (?:async )?def |\Z)", re.S)
_CALL = re.compile(r'self\._request(?:_stream)?\(\s*"(get|post|delete)",\s*"(/v[12][^"]*)"')
_PARAMETERS = re.compile(r'params: (?:Optional\[\s*)?"(\w+)"')
_IMPORT = re.compile(r"from (stripe\.params[\w.]*) import (?:\(([^)]*)\)|([^\n(]*))")
_PLACEHOLDER = re.compile(r"\{\w+\}")
# The SDK reads 649 today: far fewer mean that its files are written in another way.
_LEAST_OPERATIONS = 300


class SdkUnreadableError(BillingError):
    """The installed SDK is not written as this module expects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of the API. `path` has `{}` for ids, as `/v1/invoices/{}/add_lines`."""

    method: str
    path: str
    parameters_module: str
    parameters_class: str

    @property
    def name(self) -> str:
        """What limits, faults and the log call it, as `POST /v1/invoices/{}/add_lines`."""
        return f"{self.method} {self.path}"

    @property
    def is_v2(self) -> bool:
        """Whether bodies are JSON, as in /v2."""
        return self.path.startswith("/v2/")


class Routes:
    """Which operation a request means."""

    def __init__(self, operations: Mapping[str, Operation]) -> None:
        """Index the operations by the parts of their paths."""
        self._tree: dict[str, dict[tuple[str, ...], Operation]] = {}
        for operation in operations.values():
            parts = tuple(operation.path.strip("/").split("/"))
            self._tree.setdefault(operation.method, {})[parts] = operation
        self._lengths = {method: _by_length(tree) for method, tree in self._tree.items()}

    def find(self, method: str, path: str) -> tuple[Operation, tuple[str, ...]] | None:
        """Return the operation and the ids in the path; a literal part goes before an id."""
        parts = tuple(path.strip("/").split("/"))
        exact = self._tree.get(method, {}).get(parts)
        if exact is not None:
            return exact, ()
        for template, operation in self._lengths.get(method, {}).get((len(parts), *parts[:2]), ()):
            if all(wanted in ("{}", part) and part for wanted, part in zip(template, parts, strict=True)):
                return operation, tuple(part for wanted, part in zip(template, parts, strict=True) if wanted == "{}")
        return None


@lru_cache(maxsize=1)
def sdk_operations() -> Mapping[str, Operation]:
    """Return every operation of the installed SDK by its name.

    Raises:
        SdkUnreadableError: hardly any was found.
    """
    found = {operation.name: operation for operation in _read(sdk_folder())}
    if len(found) < _LEAST_OPERATIONS:
        raise SdkUnreadableError(
            f"only {len(found)} operations were read from the installed stripe package",
            bill="nothing: the stand-in for Stripe is for tests and the demo",
            fix="install the locked version of stripe, or teach resources/stripe_sim/operations.py the new form",
        )
    return found


def sdk_folder() -> Path:
    """Return where the installed stripe package lies.

    Raises:
        SdkUnreadableError: it is not installed.
    """
    found = find_spec("stripe")
    if found is None or not found.submodule_search_locations:
        raise SdkUnreadableError(
            "the package stripe is not installed",
            bill="nothing: the stand-in for Stripe is for tests and the demo",
            fix="pip install -r requirements.lock",
        )
    return Path(found.submodule_search_locations[0])


def _read(folder: Path) -> Iterator[Operation]:
    for path in sorted(folder.rglob("_*_service.py")):
        text = path.read_text(encoding="utf-8")
        modules = {
            name: module
            for module, several, one in _IMPORT.findall(text)
            for name in re.findall(r"\w+", several or one)
        }
        for (body,) in (match.groups() for match in _METHOD.finditer(text)):
            call, parameters = _CALL.search(body), _PARAMETERS.search(body)
            if call is not None and parameters is not None:
                yield Operation(
                    method=call.group(1).upper(),
                    path=_PLACEHOLDER.sub("{}", call.group(2)),
                    parameters_module=modules[parameters.group(1)],
                    parameters_class=parameters.group(1),
                )


def _by_length(
    tree: Mapping[tuple[str, ...], Operation],
) -> dict[tuple[int | str, ...], list[tuple[tuple[str, ...], Operation]]]:
    found: dict[tuple[int | str, ...], list[tuple[tuple[str, ...], Operation]]] = {}
    for template, operation in tree.items():
        found.setdefault((len(template), *template[:2]), []).append((template, operation))
    for several in found.values():
        several.sort(key=lambda one: [part == "{}" for part in one[0]])
    return found
