"""Path templates: what matches, in which order, and that nothing of a raw path is left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.records import UNMATCHED_ENDPOINT
from billing_pipeline.sources.endpoints import MAX_TARGET_LENGTH, compile_routes, endpoint_of

TEMPLATES = (
    "/",
    "/vehicles",
    "/vehicles/{vehicle_id}",
    "/vehicles/{vehicle_id}/odometer",
    "/orders/{order_id:int}",
    "/orders/{order_id}",
    "/files/{rest:path}",
    "/v2.0/caf\u00e9",
)


class TestEndpointOf:
    @pytest.mark.parametrize(
        ("target", "template"),
        [
            ("/", "/"),
            ("/vehicles", "/vehicles"),
            ("/vehicles/7f3a", "/vehicles/{vehicle_id}"),
            ("/vehicles/7f3a/odometer", "/vehicles/{vehicle_id}/odometer"),
            ("/vehicles/7f3a/odometer?unit=km&token=abc", "/vehicles/{vehicle_id}/odometer"),
            ("/vehicles/7f3a#fragment", "/vehicles/{vehicle_id}"),
            ("/vehicles/7f3a?x#y", "/vehicles/{vehicle_id}"),
            ("/vehicles?", "/vehicles"),
            ("/vehicles/a%20b", "/vehicles/{vehicle_id}"),
            ("/vehicles/%C3%A9", "/vehicles/{vehicle_id}"),
            ("/vehicles/\u00e9", "/vehicles/{vehicle_id}"),
            ("/vehicles/7;v=1", "/vehicles/{vehicle_id}"),
            ("/vehicles/john.doe@example.com", "/vehicles/{vehicle_id}"),
            ("/vehicles/{vehicle_id}", "/vehicles/{vehicle_id}"),
            ("/vehicles/..a", "/vehicles/{vehicle_id}"),
            ("/vehicles/%5Bx", "/vehicles/{vehicle_id}"),
            ("/%76ehicles", "/vehicles"),
            ("/v2.0/caf%C3%A9", "/v2.0/caf\u00e9"),
            ("https://api.example.com/vehicles?x=1", "/vehicles"),
            ("HTTP://API.EXAMPLE.COM:8080/vehicles", "/vehicles"),
            ("/orders/12", "/orders/{order_id:int}"),
            ("/orders/x12", "/orders/{order_id}"),
            ("/files/", "/files/{rest:path}"),
            ("/files/a/b/c.txt", "/files/{rest:path}"),
            ("/files/a//b", "/files/{rest:path}"),
        ],
    )
    def test_gives_the_first_template_that_the_whole_path_matches(self, target: str, template: str) -> None:
        assert endpoint_of(target, TEMPLATES) == template

    @pytest.mark.parametrize(
        "target",
        [
            "",
            "*",
            "vehicles",
            "//vehicles",
            "/vehicles/",
            "/vehicles/7f3a/",
            "/vehicles//odometer",
            "/Vehicles",
            "/vehicles/7f3a/odometer/extra",
            "/vehicles/a%2Fb",
            "/vehicles/a/b",
            "/unknown/4111111111111111",
            "https://api.example.com",
            "ftp://host/vehicles",
            "/v2x0/caf\u00e9",
        ],
    )
    def test_says_unmatched_for_a_path_of_no_template(self, target: str) -> None:
        assert endpoint_of(target, TEMPLATES) == UNMATCHED_ENDPOINT

    @pytest.mark.parametrize(
        "target",
        [
            "/vehicles/%",
            "/vehicles/%z9",
            "/vehicles/%4",
            "/vehicles/%E9",
            "/vehicles/%FF%FE",
            "/vehicles/%ED%A0%80",
            "/vehicles/%00",
            "/vehicles/a%0Ab",
            "/vehicles/a\tb",
            "/vehicles/%7F",
            "/files/../secret",
            "/files/a/..",
            "/files/./a",
            "/files/%2e%2E/secret",
            "/files/a%2F..%2Fb",
        ],
    )
    def test_says_unmatched_for_what_cannot_be_decoded_or_climbs(self, target: str) -> None:
        assert endpoint_of(target, TEMPLATES) == UNMATCHED_ENDPOINT

    def test_reads_a_target_up_to_its_longest_length(self) -> None:
        longest = "/files/" + "a" * (MAX_TARGET_LENGTH - 7)
        assert endpoint_of(longest, TEMPLATES) == "/files/{rest:path}"
        assert endpoint_of(longest + "a", TEMPLATES) == UNMATCHED_ENDPOINT

    @given(st.text())
    def test_never_gives_anything_but_a_template_or_unmatched(self, target: str) -> None:
        assert endpoint_of(target, TEMPLATES) in {*TEMPLATES, UNMATCHED_ENDPOINT}

    @given(st.text(alphabet=st.characters(exclude_characters="/?#%.", exclude_categories=["Cc", "Cs"]), min_size=1))
    def test_takes_any_segment_as_a_parameter(self, segment: str) -> None:
        assert endpoint_of(f"/vehicles/{segment}/odometer", TEMPLATES) == "/vehicles/{vehicle_id}/odometer"


class TestCompileRoutes:
    def test_keeps_the_order_of_the_profile(self) -> None:
        assert [route.template for route in compile_routes(TEMPLATES)] == list(TEMPLATES)

    @pytest.mark.parametrize("template", ["/a/{b:nothing}", "/a/{b}/{b}"])
    def test_refuses_a_template_that_the_router_does_not_know(self, template: str) -> None:
        with pytest.raises(ValueError, match="endpoint template"):
            compile_routes((template,))

    def test_takes_a_dot_in_a_template_as_a_dot(self) -> None:
        assert endpoint_of("/v2x0/user", ("/v2.0/user",)) == UNMATCHED_ENDPOINT
