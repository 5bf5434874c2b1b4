"""Turn a raw request target into a path template. Pure.

Templates are written in the router syntax of the field (`/v2.0/vehicles/{vehicle_id}/odometer`, converters such as
`{id:int}`) and compiled by Starlette's own router, so that a path means here what it means to the API. The first match
wins; no match is `unmatched`. The raw path, its query and its parameters leave this module never (law 10).
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from starlette.routing import compile_path

from billing_pipeline.records import UNMATCHED_ENDPOINT

MAX_TARGET_LENGTH = 8192
# Paths of these characters alone, without a dot at the start of a segment, need no decoding and no second look.
PLAIN_PATH = r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*"

_SCHEME_AND_HOST = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_BROKEN_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Route:
    """A template and the pattern that a whole decoded path must match."""

    template: str
    pattern: str


@lru_cache(maxsize=64)
def compile_routes(templates: tuple[str, ...]) -> tuple[Route, ...]:
    """Return the routes in order; raises ValueError for a template that the router syntax does not know."""
    routes = []
    for template in templates:
        try:
            regex, _, _ = compile_path(template)
        except (AssertionError, ValueError) as error:
            raise ValueError(f"endpoint template {template!r}: {error}") from error
        routes.append(Route(template, regex.pattern.removeprefix("^").removesuffix("$")))
    return tuple(routes)


@lru_cache(maxsize=64)
def _compiled(templates: tuple[str, ...]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((route.template, re.compile(route.pattern)) for route in compile_routes(templates))


def endpoint_of(target: str, templates: tuple[str, ...]) -> str:
    """Return the template that `target` (path, with or without query; or absolute form) belongs to, or `unmatched`."""
    if len(target) > MAX_TARGET_LENGTH:
        return UNMATCHED_ENDPOINT
    absolute = _SCHEME_AND_HOST.match(target)
    path = target[absolute.end() :] if absolute else target
    path = path.split("?", 1)[0].split("#", 1)[0]
    if _BROKEN_PERCENT.search(path):
        return UNMATCHED_ENDPOINT
    try:
        path = unquote_to_bytes(path).decode("utf-8")
    except UnicodeError:
        return UNMATCHED_ENDPOINT
    if _CONTROL.search(path) or any(segment in (".", "..") for segment in path.split("/")):
        return UNMATCHED_ENDPOINT
    for template, pattern in _compiled(templates):
        if pattern.fullmatch(path):
            return template
    return UNMATCHED_ENDPOINT
