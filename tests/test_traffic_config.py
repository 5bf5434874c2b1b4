"""traffic.toml: what an installation may say of its exporters, and what is refused with its cause."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from resources.settings import PROJECT_ROOT
from resources.traffic_config import TrafficConfigError, TrafficSource, load_traffic_sources

LEAST = """
[[source]]
name = "jp"
env = "prod"
node = "jp.example"
active_from = 2026-04-01T09:00:00+09:00
"""


def load(folder: Path, text: str) -> tuple[TrafficSource, ...]:
    (folder / "traffic.toml").write_text(text)
    return load_traffic_sources(folder)


class TestTrafficToml:
    def test_that_is_not_there_means_no_exporters(self, tmp_path: Path) -> None:
        assert load_traffic_sources(tmp_path) == ()

    def test_of_the_project_ends_with_the_demos_days(self) -> None:
        sources = load_traffic_sources(PROJECT_ROOT / "catalog")
        assert sources
        assert all(source.has_history and not source.base_url for source in sources)
        assert {source.active_to for source in sources} == {datetime(2026, 3, 4, tzinfo=UTC)}

    def test_needs_a_name_a_node_and_a_beginning(self, tmp_path: Path) -> None:
        (source,) = load(tmp_path, LEAST)
        assert source == TrafficSource(
            name="jp", env="prod", node="jp.example", active_from=datetime(2026, 4, 1, tzinfo=UTC)
        )
        assert (source.landing_folder, source.is_pulled, source.has_history) == ("traffic/jp", False, False)
        assert (source.on_first, source.on_reset, source.slot) == ("baseline", "baseline", timedelta(minutes=1))

    def test_may_say_everything_else(self, tmp_path: Path) -> None:
        more = """base_url = "https://jp.example:8443"
        landing = "/dropped/jp/"
        timeout_seconds = 20
        limit = 500
        retention_hours = 24
        overlap_seconds = 60
        expected_interval_seconds = 300
        on_first = "full"
        on_reset = "from_zero"
        region = "jp"
        line = "premium"
        max_resets_per_hour = 5
        token_env = "JP_TOKEN"
        client_cert_env = "JP_CERT"
        client_key_env = "JP_KEY"
        ca_env = "JP_CA"
        active_to = 2026-05-01T00:00:00Z
        """
        (source,) = load(tmp_path, LEAST + more)
        assert (source.landing_folder, source.has_history, source.slot) == (
            "dropped/jp",
            True,
            timedelta(minutes=5),
        )
        (named,) = load(tmp_path, LEAST + 'base_url_env = "JP_URL"\n')
        assert (named.is_pulled, named.has_history, named.base_url) == (True, True, "")
        (polled,) = load(tmp_path, LEAST + more + 'format = "debug_vars"\n')
        assert (polled.is_pulled, polled.has_history) == (True, False)

    @pytest.mark.parametrize(
        ("line", "cause"),
        [
            ("colour = 1", "colour"),
            ('base_url = "jp.example"', "base_url"),
            ('base_url = "https://user:secret@jp.example"', "base_url"),
            ('base_url = "https://jp.example"\nbase_url_env = "JP_URL"', "keep one"),
            ('landing = "../elsewhere"', "landing"),
            ('format = "csv"', "format"),
            ("limit = 1001", "limit"),
            ("expected_interval_seconds = 7", "expected_interval_seconds"),
            ("expected_interval_seconds = 90", "expected_interval_seconds"),
            ('on_reset = "guess"', "on_reset"),
            ('token_env = "not a variable"', "token_env"),
            ('client_cert_env = "CERT"', "client_key_env"),
            ("active_to = 2026-03-01T00:00:00Z", "active_to"),
            ("active_to = 2026-05-01T00:00:00", "no zone"),
            ('region = "a sentence"', "region"),
        ],
    )
    def test_is_refused_with_its_cause(self, tmp_path: Path, line: str, cause: str) -> None:
        with pytest.raises(TrafficConfigError, match=cause) as caught:
            load(tmp_path, f"{LEAST}{line}\n")
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("second", "cause"),
        [
            (LEAST, "twice: jp"),
            (LEAST.replace('"jp"', '"us"'), "two sources"),
            (
                LEAST.replace('"jp"', '"us"').replace("jp.example", "us.example") + 'landing = "traffic/jp/us"\n',
                "read as those of jp",
            ),
        ],
    )
    def test_gives_no_node_and_no_folder_to_two_sources(self, tmp_path: Path, second: str, cause: str) -> None:
        with pytest.raises(TrafficConfigError, match=cause):
            load(tmp_path, LEAST + second)

    def test_keeps_env_and_node_apart(self, tmp_path: Path) -> None:
        assert load(tmp_path, LEAST.replace('node = "', 'node = "eu:'))[0].node.startswith("eu:")
        with pytest.raises(TrafficConfigError, match="colon"):
            load(tmp_path, LEAST.replace('"prod"', '"prod:eu"'))

    @pytest.mark.parametrize("text", ["[[source]]\nname = ", "\x00", LEAST.replace("prod", "a b"), "[[source]]\n"])
    def test_that_is_no_such_file_is_refused(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(TrafficConfigError, match="not valid"):
            load(tmp_path, text)
