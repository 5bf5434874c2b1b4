"""Endpoints found by position are those of the rule, whatever the target; usual targets are always found."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing_pipeline.sources.endpoints import endpoint_of
from billing_pipeline.sources.profile import load_profile
from resources.byte_windows import ByteWindows
from resources.shaped_lines import LONGEST_SHAPE
from resources.shaped_paths import read_targets, routes_of

TEMPLATES = (
    *load_profile("web_requests_json").endpoints,
    "/a/{x}",
    "/a/{x}/b",
    "/{x}/c",
    "/{x}",
    "/a/b",
    "/items/{item_id:int}",
    "/items/{item_id}",
    "/a/{x}-{y}",
)
SEGMENT = st.sampled_from(
    ["a", "b", "c", "12", "..", ".", ".x", "x.y", "", "a-b_c", "%41", "é", "a/b", "x" * 62, "x" * 70]
)
TEMPLATE = st.sampled_from(TEMPLATES)


@st.composite
def targets(draw: st.DrawFn) -> str:
    """A template with anything in its parameters, perhaps with more behind, a query, a fragment."""
    path = re.sub(r"\{[^}]*\}", lambda _: draw(SEGMENT), draw(TEMPLATE))
    return path + draw(
        st.sampled_from(["", "", "", "/", "/..", "?", "?a=b", "?a=[b]", "#c", "?q=" + "y" * 60, "?é", "?a/../b"])
    )


def found(targets: list[str], templates: tuple[str, ...]) -> list[tuple[str, int] | None]:
    """Return (endpoint, length) of each target in quotes, None where that is not sure."""
    routes = routes_of(templates)
    assert routes is not None
    quoted = [f'"{target}"'.encode() for target in targets]
    at = np.cumsum([0, *map(len, quoted)])[:-1] + 1
    windows = ByteWindows(b"".join(quoted) + b" " * LONGEST_SHAPE)
    lengths, numbers, sure = read_targets(windows, at, routes)
    sure &= windows.bytes_at(at + lengths) == ord('"')
    names = routes.names.to_pylist()
    return [
        (names[number], length) if is_sure else None
        for number, length, is_sure in zip(numbers.tolist(), lengths.tolist(), sure.tolist(), strict=True)
    ]


class TestTargets:
    @settings(max_examples=300, deadline=None)
    @given(st.lists(targets(), min_size=1, max_size=6), st.permutations(TEMPLATES), st.integers(1, len(TEMPLATES)))
    def test_have_the_endpoint_of_the_rule_or_are_left_to_it(
        self, texts: list[str], templates: list[str], count: int
    ) -> None:
        chosen = tuple(templates[:count])
        for target, one in zip(texts, found(texts, chosen), strict=True):
            assert one is None or one == (endpoint_of(target, chosen), len(target.encode()))

    @pytest.mark.parametrize("name", ["billable_request_json", "web_requests_json"])
    def test_of_the_usual_kind_are_found(self, name: str) -> None:
        templates = load_profile(name).endpoints
        usual = [template for template in templates if template.count("{") <= 1]
        texts = [
            re.sub(r"\{[^}]*\}", "7f3a-_b", template) + query for template in usual for query in ("", "?x=1&y=%20")
        ]
        in_doubt = "/api/dashboard/{dashboard_id}/wobs/{wob_id}" in templates
        for target, one in zip(texts, found(texts, templates), strict=True):
            if not (in_doubt and target.startswith("/api/dashboard/")):
                assert one == (endpoint_of(target, templates), len(target))

    def test_of_templates_with_dots_in_front_of_a_segment_are_for_others(self) -> None:
        assert routes_of(("/.well-known/{x}",)) is None
