"""Source profiles: the shipped ones hold together with our schema, and a profile that cannot be is refused with its cause."""

import re
from decimal import Decimal
from pathlib import Path

import pytest

from billing_pipeline.sources.profile import (
    NumberField,
    ProfileError,
    SourceProfile,
    load_profile,
    parse_profile,
    shipped_profiles,
)
from billing_pipeline.sources.request_avro import wanted_of
from resources.settings import PROJECT_ROOT
from resources.source_config import SourcesError, load_sources
from tests.request_files import avro_fields

MINIMAL = """
name = "minimal"
version = 1
description = "the least that a profile says"
framing = "lines"
endpoints = ["/"]

[fields]
event_at = { path = "at" }
client_id = { path = "client" }
method = { path = "method" }
path = { path = "path" }
status_code = { path = "status" }
"""


def refused(text: str) -> str:
    with pytest.raises(ProfileError) as caught:
        parse_profile(text.encode(), origin="bad.toml")
    assert "bad.toml" in str(caught.value)
    return str(caught.value)


class TestShippedProfiles:
    def test_all_are_valid_and_named_as_their_files(self) -> None:
        names = list(shipped_profiles())
        assert names == ["billable_request_avro", "billable_request_json", "nginx_json", "web_requests_json"]
        assert [load_profile(name).name for name in names] == names

    def test_our_own_formats_differ_in_framing_and_the_name_of_one_field_only(self) -> None:
        lines, avro = load_profile("billable_request_json"), load_profile("billable_request_avro")
        assert lines.endpoints == avro.endpoints
        assert lines.fields.response_bytes is not None
        assert avro.fields.response_bytes is not None
        assert (lines.fields.response_bytes.path, avro.fields.response_bytes.path) == ("bytes", "response_bytes")
        same = {"response_bytes": None}
        assert lines.fields.model_copy(update=same) == avro.fields.model_copy(update=same)

    def test_the_avro_profile_reads_every_field_of_our_own_schema(self) -> None:
        wanted = {field.name for field in wanted_of(load_profile("billable_request_avro"))}
        assert wanted == {field["name"] for field in avro_fields()["fields"]}

    def test_no_profile_keeps_an_address_or_an_agent_other_than_hashed(self) -> None:
        fields = load_profile("nginx_json").fields
        assert fields.client_id.model_dump() == {
            "pseudonym_of": ("http_x_forwarded_for", "remote_addr", "http_user_agent")
        }


class TestParseProfile:
    def test_fills_what_is_left_out_with_what_most_sources_need(self) -> None:
        profile = parse_profile(MINIMAL.encode(), origin="minimal.toml")
        assert profile.fields.event_at.layout == "rfc3339"
        assert profile.fields.event_id is None
        assert profile.max_rejected_share == Decimal("0.5")
        assert profile.expected_hour_set == frozenset(range(24))
        assert len(profile.sha256) == 64

    @pytest.mark.parametrize(
        ("hours", "expected"),
        [("none", frozenset()), ("06-08", frozenset({6, 7, 8})), ("00-23", frozenset(range(24)))],
    )
    def test_reads_the_hours_in_which_records_are_expected(self, hours: str, expected: frozenset[int]) -> None:
        text = MINIMAL.replace('framing = "lines"', f'framing = "lines"\nexpected_hours = "{hours}"')
        assert parse_profile(text.encode(), origin="x").expected_hour_set == expected

    @pytest.mark.parametrize("hours", ["20-30", "24-25", "08-06", "6-8", "all"])
    def test_refuses_hours_that_no_day_has(self, hours: str) -> None:
        assert "hours" in refused(MINIMAL.replace("endpoints", f'expected_hours = "{hours}"\nendpoints'))

    @pytest.mark.parametrize(
        ("old", "new", "named"),
        [
            ("version = 1", "version = 0", "version"),
            ('framing = "lines"', 'framing = "csv"', "framing"),
            ('endpoints = ["/"]', "endpoints = []", "endpoints"),
            ('endpoints = ["/"]', 'endpoints = ["/{a}/{a}"]', "endpoint template"),
            ('endpoints = ["/"]', 'endpoints = ["/"]\nkeep = ["email"]', "keep"),
            ('{ path = "at" }', '{ path = "at", layout = "epoch_ns" }', "layout"),
            ('{ path = "at" }', '{ path = "" }', "path"),
            ('{ path = "client" }', '{ path = "client", pattern = "(" }', "pattern"),
            ('{ path = "client" }', "{ pseudonym_of = [] }", "pseudonym_of"),
            ('method = { path = "method" }', "", "request_line"),
            ('method = { path = "method" }', 'method = { path = "m" }\nrequest_line = { path = "r" }', "request_line"),
            ('status_code = { path = "status" }', "", "status_code"),
            ('{ path = "status" }', '{ path = "status" }\nemail = { path = "email" }', "email"),
            ('{ path = "status" }', '{ path = "status" }\nresponse_time = { path = "t" }', "unit"),
            ('{ path = "status" }', '{ path = "status" }\nsimulated = { path = "real" }', "simulated"),
            ("name =", "name", "not valid"),
        ],
    )
    def test_refuses_what_cannot_be_and_names_it(self, old: str, new: str, named: str) -> None:
        assert named in refused(MINIMAL.replace(old, new, 1))

    def test_two_versions_of_a_file_have_different_digests(self) -> None:
        first = parse_profile(MINIMAL.encode(), origin="x")
        second = parse_profile(MINIMAL.replace("version = 1", "version = 2").encode(), origin="x")
        assert first.sha256 != second.sha256

    def test_reads_the_profile_of_the_manual(self) -> None:
        manual = (PROJECT_ROOT / "docs" / "sources.md").read_text()
        (example,) = re.findall(r"```toml\n(.*?)```", manual, re.DOTALL)
        profile = parse_profile(example.encode(), origin="docs/sources.md")
        assert profile.expected_hour_set == frozenset(range(6, 23))
        everything = [*SourceProfile.model_fields, *type(profile.fields).model_fields, *NumberField.model_fields]
        assert [name for name in everything if f"`{name}`" not in manual] == ["fields", "sha256"]


class TestLoadProfile:
    def test_a_profile_of_the_installation_comes_before_a_shipped_one(self, tmp_path: Path) -> None:
        (tmp_path / "nginx_json.toml").write_text(MINIMAL)
        assert load_profile("nginx_json", [tmp_path]).name == "minimal"

    def test_an_unknown_name_lists_what_there_is(self, tmp_path: Path) -> None:
        (tmp_path / "ours.toml").write_text(MINIMAL)
        with pytest.raises(ProfileError, match="there is no source profile named 'theirs'") as caught:
            load_profile("theirs", [tmp_path])
        assert "nginx_json, ours, web_requests_json" in caught.value.fix


class TestLoadSources:
    def test_reads_each_source_with_its_profile(self, tmp_path: Path) -> None:
        (tmp_path / "profiles").mkdir()
        (tmp_path / "profiles" / "minimal.toml").write_text(MINIMAL)
        (tmp_path / "sources.toml").write_text(
            '[[source]]\nname = "api"\nlanding = "/requests/api/"\nprofile = "minimal"\ndelivery_day = "modified"\n'
            '[[source]]\nname = "auth"\nlanding = "requests/auth"\nprofile = "billable_request_avro"\n'
        )
        api, auth = load_sources(tmp_path)
        assert (api.name, api.landing, api.profile.name, api.delivery_day) == (
            "api",
            "requests/api",
            "minimal",
            "modified",
        )
        assert (auth.name, auth.delivery_day) == ("auth", "key")

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("", "source"),
            ("[[source]]\nname = 'api'\nlanding = 'a'\n", "profile"),
            ("[[source]]\nname = 'API'\nlanding = 'a'\nprofile = 'nginx_json'\n", "name"),
            (
                "[[source]]\nname = 'a'\nlanding = 'a'\nprofile = 'nginx_json'\n" * 2,
                "lists a source twice",
            ),
            ("[[source]]\nname = 'a'\nlanding = 'a'\nprofile = 'nginx_json'\ndelivery_day = 'name'\n", "delivery_day"),
            ("[[source", "not valid"),
        ],
    )
    def test_refuses_a_list_that_cannot_be(self, tmp_path: Path, text: str, named: str) -> None:
        (tmp_path / "sources.toml").write_text(text)
        with pytest.raises(SourcesError, match=named):
            load_sources(tmp_path)

    def test_a_missing_folder_names_the_setting(self, tmp_path: Path) -> None:
        with pytest.raises(SourcesError, match="no catalog folder") as found:
            load_sources(tmp_path / "nope")
        assert "BILLING_CATALOG_DIR" in found.value.fix

    def test_a_missing_list_names_the_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SourcesError, match=str(tmp_path)):
            load_sources(tmp_path)

    def test_an_unknown_profile_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "sources.toml").write_text("[[source]]\nname = 'a'\nlanding = 'a'\nprofile = 'csv'\n")
        with pytest.raises(ProfileError, match="csv"):
            load_sources(tmp_path)
