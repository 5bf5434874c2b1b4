"""Landing and lake on S3, against a local server: paging, replaced objects, one writer wins, errors that a person can act on."""

import os
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ResponseStreamingError
from moto.server import ThreadedMotoServer

from resources import object_store
from resources.lake import Lake, LakeConflictError, LakeFileMissingError
from resources.landing import Landing, LandingFileChangedError
from resources.object_store import Bucket, ObjectChangedError, ObjectStoreError

DAY = date(2026, 3, 1)
SECRET = "SECRETKEYxSECRETKEY"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    client = boto3.client("s3")
    client.create_bucket(Bucket="logs")
    yield client
    for found in client.list_objects_v2(Bucket="logs").get("Contents", ()):
        client.delete_object(Bucket="logs", Key=found["Key"])
    client.delete_bucket(Bucket="logs")
    client.close()


@pytest.fixture
def landing(s3: Any, tmp_path: Path) -> Landing:
    return Landing("s3://logs/landing", tmp_path / "scratch")


@pytest.fixture
def lake(s3: Any, tmp_path: Path) -> Lake:
    return Lake("s3://logs/lake/", tmp_path / "scratch")


def put(s3: Any, key: str, content: bytes = b"line\n") -> None:
    s3.put_object(Bucket="logs", Key=key, Body=content)


def scratch_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class TestBucketList:
    def test_reads_every_page(self, s3: Any) -> None:
        for number in range(7):
            put(s3, f"landing/{number}.log")
        put(s3, "landing2/other.log")
        assert [found.key for found in Bucket("s3://logs/landing", page_size=2).list()] == [
            f"{number}.log" for number in range(7)
        ]

    def test_finds_now_or_next_time_what_appears_between_pages(self, s3: Any) -> None:
        for key in ("b", "c", "d", "e"):
            put(s3, f"landing/{key}")
        bucket = Bucket("s3://logs/landing", page_size=2)
        listing = bucket.list()
        seen = [next(listing).key]
        put(s3, "landing/a")
        put(s3, "landing/d2")
        seen += [found.key for found in listing]
        assert seen == ["b", "c", "d", "d2", "e"]
        assert [found.key for found in bucket.list()] == ["a", "b", "c", "d", "d2", "e"]

    @pytest.mark.parametrize("key", ["a b.log", "ä/日.log", "a+b&c=d.log", "a%20b.log", "a//b.log"])
    def test_keeps_names_as_they_are(self, s3: Any, key: str, tmp_path: Path) -> None:
        put(s3, f"landing/{key}", b"content")
        bucket = Bucket("s3://logs/landing")
        assert [found.key for found in bucket.list()] == [key]
        assert bucket.download(key, tmp_path).read_bytes() == b"content"


class TestLanding:
    def test_lists_files_of_a_prefix(self, s3: Any, landing: Landing) -> None:
        for key in ("r/1.log", "r/", "r/_SUCCESS", "r/.x", "r/x.part", "r/_tmp/y.log", "s/1.log"):
            put(s3, f"landing/{key}")
        (file,) = landing.list("r/")
        assert (file.key, file.size_bytes) == ("r/1.log", 5)
        assert abs(datetime.now(UTC) - file.modified_at) < timedelta(minutes=5)

    def test_finds_nothing_in_a_prefix_without_objects(self, landing: Landing) -> None:
        assert list(landing.list("requests/")) == []

    def test_fetches_into_scratch_and_cleans_up(self, s3: Any, landing: Landing, tmp_path: Path) -> None:
        put(s3, "landing/a/b.log", b"content")
        with landing.fetched("a/b.log") as local:
            assert local.read_bytes() == b"content"
        assert scratch_files(tmp_path) == []

    def test_cleans_up_after_an_error(self, s3: Any, landing: Landing, tmp_path: Path) -> None:
        put(s3, "landing/a.log")
        with pytest.raises(RuntimeError), landing.fetched("a.log"):
            raise RuntimeError
        assert scratch_files(tmp_path) == []

    def test_says_changed_when_the_object_is_gone(self, landing: Landing) -> None:
        with pytest.raises(LandingFileChangedError), landing.fetched("gone.log"):
            pass


class _BrokenBody:
    """A download whose connection breaks after its first bytes."""

    def __init__(self, body: Any, good_bytes: int) -> None:
        self._body = body
        self._good_bytes = good_bytes

    def iter_chunks(self, size: int) -> Iterator[bytes]:
        yield self._body.read(self._good_bytes)
        raise ResponseStreamingError(error="connection reset")

    def close(self) -> None:
        self._body.close()


def break_first_download(bucket: Bucket, good_bytes: int) -> list[dict[str, Any]]:
    """Break the connection of the next download; return the list of answers that the server then gives."""
    answers: list[dict[str, Any]] = []

    def on_answer(parsed: dict[str, Any], **_: Any) -> None:
        if not answers:
            parsed["Body"] = _BrokenBody(parsed["Body"], good_bytes)
        answers.append(parsed)

    bucket._s3.meta.events.register("after-call.s3.GetObject", on_answer)
    return answers


class TestBucketDownload:
    def test_goes_on_after_a_broken_connection(self, s3: Any, tmp_path: Path) -> None:
        put(s3, "landing/a.log", b"0123456789")
        bucket = Bucket("s3://logs/landing")
        answers = break_first_download(bucket, 4)
        assert bucket.download("a.log", tmp_path).read_bytes() == b"0123456789"
        assert [answer["ContentLength"] for answer in answers] == [10, 6]

    def test_never_mixes_two_versions(self, s3: Any, tmp_path: Path) -> None:
        put(s3, "landing/a.log", b"0123456789")
        bucket = Bucket("s3://logs/landing")
        break_first_download(bucket, 4)
        original = bucket._s3.get_object

        def replaced_before_the_second(**request: Any) -> Any:
            if "IfMatch" in request:
                put(s3, "landing/a.log", b"abcdefghij")
            return original(**request)

        bucket._s3.get_object = replaced_before_the_second  # type: ignore[method-assign]
        with pytest.raises(ObjectChangedError):
            bucket.download("a.log", tmp_path)
        assert scratch_files(tmp_path) == []

    def test_reads_an_empty_object(self, s3: Any, tmp_path: Path) -> None:
        put(s3, "landing/empty", b"")
        assert Bucket("s3://logs/landing").download("empty", tmp_path).read_bytes() == b""


class TestLake:
    def test_publishes_once(self, s3: Any, lake: Lake, tmp_path: Path) -> None:
        local = tmp_path / "out.parquet"
        local.write_bytes(b"rows")
        first = lake.publish(local, dataset="core/request_records", partition=DAY, generation="g")
        etag = s3.head_object(Bucket="logs", Key=f"lake/{first.uri}")["LastModified"]
        assert lake.publish(local, dataset="core/request_records", partition=DAY, generation="g") == first
        assert s3.head_object(Bucket="logs", Key=f"lake/{first.uri}")["LastModified"] == etag
        assert lake.fetch(first.uri).read_bytes() == b"rows"

    def test_never_changes_a_generation(self, s3: Any, lake: Lake, tmp_path: Path) -> None:
        local = tmp_path / "out.parquet"
        local.write_bytes(b"rows")
        published = lake.publish(local, dataset="core", partition=DAY, generation="g")
        local.write_bytes(b"ROWS")
        with pytest.raises(LakeConflictError):
            lake.publish(local, dataset="core", partition=DAY, generation="g")
        assert lake.fetch(published.uri).read_bytes() == b"rows"

    def test_reads_a_file_once(self, s3: Any, lake: Lake, tmp_path: Path) -> None:
        local = tmp_path / "out.parquet"
        local.write_bytes(b"rows")
        published = lake.publish(local, dataset="core", partition=DAY, generation="g")
        first = lake.fetch(published.uri)
        s3.delete_object(Bucket="logs", Key=f"lake/{published.uri}")
        assert lake.fetch(published.uri) == first
        assert lake.sweep(unused_since=datetime.now(UTC) + timedelta(minutes=1)) == 1
        with pytest.raises(LakeFileMissingError):
            lake.fetch(published.uri)

    def test_removes_file_and_cached_copy(self, lake: Lake, tmp_path: Path) -> None:
        local = tmp_path / "out.parquet"
        local.write_bytes(b"rows")
        published = lake.publish(local, dataset="core", partition=DAY, generation="g")
        lake.fetch(published.uri)
        lake.remove(published.uri)
        lake.remove(published.uri)
        with pytest.raises(LakeFileMissingError):
            lake.fetch(published.uri)


class TestBucketPutOnce:
    def test_asks_again_when_another_writer_is_at_work(self, s3: Any, tmp_path: Path) -> None:
        local = tmp_path / "out"
        local.write_bytes(b"rows")
        bucket = Bucket("s3://logs/lake")
        original = bucket._s3.put_object
        answers = [ClientError({"Error": {"Code": "ConditionalRequestConflict"}}, "PutObject")]

        def busy_once(**request: Any) -> Any:
            if answers:
                raise answers.pop()
            return original(**request)

        bucket._s3.put_object = busy_once  # type: ignore[method-assign]
        bucket.put_once("key", local, sha256="ab")
        assert s3.get_object(Bucket="logs", Key="lake/key")["Body"].read() == b"rows"

    def test_gives_up_when_others_never_end(self, s3: Any, tmp_path: Path) -> None:
        local = tmp_path / "out"
        local.write_bytes(b"rows")
        bucket = Bucket("s3://logs/lake")

        def busy(**request: Any) -> Any:
            raise ClientError({"Error": {"Code": "409"}}, "PutObject")

        bucket._s3.put_object = busy  # type: ignore[method-assign]
        with pytest.raises(ObjectStoreError, match="other writers"):
            bucket.put_once("key", local, sha256="ab")

    def test_lets_one_of_two_writers_win(self, s3: Any, tmp_path: Path) -> None:
        lake = Lake("s3://logs/lake", tmp_path)
        results: list[str] = []

        def publish(content: bytes) -> None:
            local = tmp_path / content.decode()
            local.write_bytes(content)
            try:
                results.append(lake.publish(local, dataset="core", partition=DAY, generation="g").sha256)
            except LakeConflictError:
                results.append("conflict")

        threads = [threading.Thread(target=publish, args=(content,)) for content in (b"rows", b"other")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results.count("conflict") == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "fix"),
        [
            ("AccessDenied", "allow s3:ListBucket"),
            ("InvalidAccessKeyId", "correct AWS_ACCESS_KEY_ID"),
            ("SignatureDoesNotMatch", "correct AWS_SECRET_ACCESS_KEY"),
            ("SlowDown", "S3 server's documentation"),
        ],
    )
    def test_name_the_fix_of_a_refusal(self, s3: Any, tmp_path: Path, code: str, fix: str) -> None:
        bucket = Bucket("s3://logs/landing")

        def refuse(**request: Any) -> Any:
            raise ClientError({"Error": {"Code": code, "Message": SECRET}}, "GetObject")

        bucket._s3.get_object = refuse  # type: ignore[method-assign]
        with pytest.raises(ObjectStoreError, match=fix) as refused:
            bucket.download("a", tmp_path)
        assert SECRET not in str(refused.value)

    def test_name_the_missing_bucket(self, s3: Any, tmp_path: Path) -> None:
        with pytest.raises(ObjectStoreError, match=r"(?s)NoSuchBucket.*create the bucket"):
            list(Landing("s3://nowhere/x", tmp_path).list())

    def test_name_an_unreachable_server_and_no_secret(
        self, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setattr(object_store, "ATTEMPTS", 2)
        with pytest.raises(ObjectStoreError, match="AWS_ENDPOINT_URL") as refused:
            list(Landing("s3://logs/x", tmp_path).list())
        assert SECRET not in str(refused.value)
        assert "test" not in str(refused.value)

    def test_name_missing_credentials(self, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        with pytest.raises(ObjectStoreError, match="NoCredentialsError"):
            list(Landing("s3://logs/x", tmp_path).list())

    @pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://user:password@logs/x"])
    def test_refuse_what_is_no_location(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(ObjectStoreError, match="expected s3://bucket") as refused:
            Landing(url, tmp_path)
        assert "password" not in str(refused.value)

    def test_repr_has_no_secret(self, s3: Any) -> None:
        assert repr(Bucket("s3://logs/landing")) == "Bucket('s3://logs/landing/')"
