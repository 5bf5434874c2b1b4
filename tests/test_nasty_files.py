"""Every kind of broken file has one clear verdict, loses nothing in silence, and lets nothing personal through."""

import logging
import random
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from resources import duck, request_reader
from resources.database import Database
from resources.inflate import FileRejected
from resources.prepared_queries import PreparedQueries
from tests.nasty_files import ARCHIVES, AVRO, JSON_LINES, SECRETS, TEXTS, Kind, Refused, Taken, Verdict
from tests.request_files import Deliveries, api_source, day_key, read_file
from tests.test_privacy import every_table

DAY = date(2026, 3, 1)
PROFILES = {"json": "billable_request_json", "avro": "billable_request_avro"}
OF_LINES: dict[str, Kind] = {**ARCHIVES, **TEXTS, **JSON_LINES}
KINDS = {("json", name): kind for name, kind in OF_LINES.items()} | {
    ("avro", name): kind for name, kind in AVRO.items()
}
DRAWS = 2


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedQueries]:
    with duck.connect(tmp_path_factory.mktemp("duck"), threads=1) as engine, PreparedQueries(engine) as opened:
        yield opened


def verdict_of(path: Path, profile: str, queries: PreparedQueries) -> tuple[Verdict, str]:
    """Return what becomes of a file, and all that is said of it."""
    try:
        read = read_file(path, profile, queries)
    except FileRejected as error:
        return Refused((error.reason,)), f"{error} {error!r} {error.__cause__!r}"
    outcome = read.outcome
    assert all(1 <= one.line_number <= outcome.lines_read for one in outcome.rejections)
    return Taken(outcome.accepted, dict(outcome.rejected_by_reason), outcome.out_of_scope), repr(outcome.rejections)


def is_as_expected(found: Verdict, expected: Verdict) -> bool:
    if isinstance(expected, Refused):
        return isinstance(found, Refused) and found.reasons[0] in expected.reasons
    return found == expected


def leaks(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret.lower() in text.lower()]


class TestABrokenFile:
    @pytest.mark.parametrize(("profile", "name"), KINDS)
    def test_has_one_verdict_however_it_is_broken(
        self, tmp_path: Path, queries: PreparedQueries, monkeypatch: pytest.MonkeyPatch, profile: str, name: str
    ) -> None:
        make, expected = KINDS[profile, name]
        for draw in range(DRAWS):
            path = tmp_path / f"{draw}"
            path.write_bytes(make(random.Random(f"{name} {draw}")))
            found, said = verdict_of(path, PROFILES[profile], queries)
            assert is_as_expected(found, expected), found
            assert leaks(said) == []
        if profile == "json":
            # the query sees every line that it may see, and none is known by its spelling
            monkeypatch.setattr(request_reader, "FEW_LINES", 0)
            monkeypatch.setattr(request_reader.KnownSpellings, "learned", lambda *_: [])
            assert verdict_of(path, PROFILES[profile], queries) == (found, said)

    def test_is_of_more_than_a_hundred_kinds(self) -> None:
        assert len(KINDS) > 100


class TestADayOfBrokenFiles:
    def test_accounts_for_every_line_and_keeps_nothing_personal(
        self,
        database: Database,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        caplog.set_level(logging.DEBUG)
        deliveries = Deliveries(
            database,
            tmp_path,
            [api_source(profile, name=name, landing=f"requests/{name}") for name, profile in PROFILES.items()],
        )
        verdicts: dict[str, Verdict] = {}
        contents = set()
        for number, ((profile, name), (make, expected)) in enumerate(KINDS.items()):
            content = make(random.Random(f"{name} of a day"))
            if content not in contents:
                contents.add(content)
                deliveries.deliver(day_key(DAY, f"{number}", profile), content)
                verdicts[f"{number}"] = expected
        deliveries.ingest()

        manifest = deliveries.manifest()
        assert set(manifest) == set(verdicts)
        for name, (status, reason, read, accepted, rejected, duplicate, out_of_scope) in manifest.items():
            assert read == accepted + rejected + duplicate + out_of_scope
            match verdicts[name]:
                case Refused(reasons):
                    assert (status, reason, read) == ("rejected", reason, 0), name
                    assert reason in reasons
                case Taken(lines, refused, blank):
                    assert (status, reason) == ("accepted", None), name
                    # most lines are the same in all files
                    assert (accepted + duplicate, rejected, out_of_scope) == (lines, sum(refused.values()), blank)
        quarantined = deliveries.rows("select count(*) from core.quarantine where line_number >= 1 and reason <> ''")
        assert quarantined == [(sum(row[4] for row in manifest.values()),)]

        for table, text in every_table(database):
            assert leaks(text) == [], table
        for path in (*deliveries.lake_dir.rglob("*"), *deliveries.scratch_dir.rglob("*")):
            if path.is_file():
                assert leaks(path.read_bytes().decode("latin-1")) == [], path
        for path in deliveries.lake_dir.rglob("*.parquet"):
            assert leaks(repr(pq.read_table(path).to_pylist())) == []
        output = capfd.readouterr()
        assert leaks(caplog.text + output.out + output.err) == []
