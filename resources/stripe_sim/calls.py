"""One call of an operation: ids of the path and typed parameters; and which parameters an operation models.

An operation that is asked for a parameter that Stripe takes and the stand-in does not model answers 501.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from resources.stripe_sim.refusals import invalid, not_modelled
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World

Values: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a client asks for."""

    name: str
    ids: tuple[str, ...]
    params: Values

    @property
    def id(self) -> str:
        """The first id in the path."""
        return self.ids[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelled:
    """An operation that the stand-in has: what it does, and the parameters that it takes beside `expand`."""

    run: Callable[[World, Call], Row]
    takes: frozenset[str]


def modelled(run: Callable[[World, Call], Row], takes: str = "") -> Modelled:
    """Return an operation that takes the named parameters."""
    return Modelled(run=run, takes=frozenset(takes.split()))


def only(values: Values, takes: str, *, where: str) -> None:
    """Let a nested object pass if it has just these keys.

    Raises:
        ApiError: 501, there is another one.
    """
    others = sorted(set(values) - set(takes.split()))
    if others:
        raise not_modelled(f"{where}[{others[0]}]")


def one_of(values: Values, names: Iterable[str], *, what: str) -> str | None:
    """Return which of these parameters is given.

    Raises:
        ApiError: more than one is.
    """
    given = [name for name in names if name in values]
    if len(given) > 1:
        raise invalid(f"You may only specify one of these parameters for {what}: {', '.join(given)}.", param=given[1])
    return given[0] if given else None


def merged_metadata(before: Values | None, change: Values | str | None) -> dict[str, str]:
    """Return metadata after a change: keys are merged, an empty value unsets its key, an empty string all of them."""
    if change is None:
        return dict(before or {})
    if isinstance(change, str):
        return {}
    return {key: value for key, value in {**(before or {}), **change}.items() if value != ""}


def unset_to_null(value: Any) -> Any:
    """Return null for the empty string, with which a client unsets a field."""
    return None if value == "" else value


def needed(params: Values, name: str) -> Any:
    """Return a parameter that Stripe's types call optional and its server does not.

    Raises:
        ApiError: it is missing or empty.
    """
    if not params.get(name):
        raise invalid(f"Missing required param: {name}.", code="parameter_missing", param=name)
    return params[name]
