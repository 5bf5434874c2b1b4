"""Law 10 for traffic and storage: personal data that exporters, CloudTrail and inventories say is nowhere afterwards.

Not in a table, lake file, file that we write, log, message or metadata of a run: e-mail addresses, addresses of machines, user
agents, names of callers, and the names of objects.
"""

import gzip
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from assets.definitions import defs_of
from billing_pipeline.errors import BillingError
from resources.asgi_server import serving
from resources.exporter_certificates import ExporterCertificates
from resources.exporter_client import ExporterClient
from resources.stores import Stores, open_stores
from resources.traffic_config import TrafficSource
from resources.traffic_receipts import TrafficReceiver, e_mail_pseudonyms
from resources.traffic_store import TrafficStore
from tests.chain import Installation, Site
from tests.exporter_fixtures import certificates as certificates
from tests.exporter_fixtures import environment, no_pause
from tests.metered_chain import (
    JUNE_1,
    KEY,
    Delivery,
    MeteredChain,
    at,
    catalog_texts,
    inventory,
    listed,
    put,
    said,
    simulation,
    trail_log,
    write_catalog,
)
from tests.test_privacy import every_table

# Each is found nowhere in the project, so that a hit is a leak.
EMAIL = "jane.quuxfield@example.org"
USER_NAME = "jane-quuxfield-console"
PRINCIPAL = "AROAQUUXFIELDJANE5Z"
ADDRESS, ADDRESS_6 = "203.0.113.177", "2001:db8::dead:77"
AGENT = "QuuxBrowser/9.1 (Jane)"
OBJECT, OTHER_OBJECT = "passport-of-quuxfield.pdf", "diary of quuxfield+1.txt"
TOKEN = "bearer-of-quux-8842"
PLANTED = (EMAIL, USER_NAME, PRINCIPAL, ADDRESS, ADDRESS_6, AGENT, OBJECT, OTHER_OBJECT, TOKEN)
ACME = simulation().accounts[0]
PERSON = {"email": EMAIL, "client_ip": ADDRESS, "user_agent": AGENT, "user": {"name": USER_NAME, "ip": ADDRESS_6}}


def snapshot(node: str, minute: int, **changes: Any) -> dict[str, Any]:
    """Return a snapshot that says more than it should, and some of it in the wrong places."""
    totals = {"uplink_bytes_total": 1000 * minute, "downlink_bytes_total": 10**9 * minute}
    return {
        "collected_at": f"2026-06-01T10:{minute:02d}:05Z",
        "node_id": node,
        "env": "prod",
        "samples": [
            {"uuid": ACME, "inbound_tag": "tcp", **totals, **PERSON},
            {"uuid": EMAIL, "inbound_tag": "tcp", **totals},
            {"uuid": f"{USER_NAME} <{EMAIL}>", "inbound_tag": "tcp", **totals},
            {"uuid": ADDRESS, "inbound_tag": "tcp", **totals},
            {"uuid": ACME, "inbound_tag": f"tcp {EMAIL}", **totals},
            {"uuid": ACME, "inbound_tag": AGENT, **totals},
            {"uuid": ACME, "inbound_tag": "xhttp", **totals, "uplink_bytes_total": EMAIL},
        ],
        **PERSON,
        **changes,
    }


def nasty_bodies(node: str) -> list[bytes]:
    """Return bodies of which nothing can be taken."""
    whole = json.dumps(snapshot(node, 1)).encode()
    return [
        whole[: len(whole) // 2],
        whole + b" and " + EMAIL.encode(),
        f"{USER_NAME} <{EMAIL}> {ADDRESS} {AGENT}\n".encode(),
        json.dumps([EMAIL]).encode(),
        b"\xff" + whole,
        json.dumps(snapshot(EMAIL, 1)).encode(),
        json.dumps(snapshot(node, 1, env=f"prod {ADDRESS}")).encode(),
        json.dumps(snapshot(node, 1, collected_at=EMAIL)).encode(),
        json.dumps(snapshot(node, 1, xray_version=AGENT)).encode(),
        gzip.compress(whole)[:-9],
    ]


STATSQUERY = json.dumps(
    {
        "stat": [
            {"name": f"user>>>{EMAIL}>>>traffic>>>uplink", "value": "12"},
            {"name": f"user>>>{USER_NAME} {ADDRESS}>>>traffic>>>downlink", "value": "13"},
            {"name": f"user>>>{ACME}>>>traffic>>>uplink", "value": EMAIL},
        ]
    }
)
PROMETHEUS = (
    "# TYPE xray_user_uplink_bytes gauge\n"
    f'xray_user_uplink_bytes{{uuid="{ACME}",email="{EMAIL}",node_id="xe",env="prod",inbound_tag="tcp"}} 1024\n'
    f'xray_user_downlink_bytes{{uuid="{EMAIL}",email="{EMAIL}",node_id="xe",env="prod",inbound_tag="{AGENT}"}} 5\n'
    f'client_address{{ip="{ADDRESS}",agent="{AGENT}"}} {ADDRESS}\n'
)


def dropped_traffic() -> Delivery:
    """Return files of snapshots and of Xray's outputs, good and bad."""
    good = b"".join(json.dumps(snapshot("hk", minute)).encode() + b"\n" for minute in (0, 1, 2))
    return (
        ("traffic/hk/good.jsonl", good),
        *((f"traffic/hk/bad-{number}.json", body) for number, body in enumerate(nasty_bodies("hk"))),
        ("traffic/xs/20260601T100000Z.json", STATSQUERY.encode()),
        ("traffic/xs/20260601T100100Z.json", STATSQUERY[:-20].encode()),
        ("traffic/xe/20260601T100000Z.prom", PROMETHEUS.encode()),
        ("traffic/xe/20260601T100100Z.prom", PROMETHEUS.rpartition("client_address")[0].encode()),
    )


def caller(number: int, hours: float, key: str, **changes: Any) -> dict[str, Any]:
    """Return a record of CloudTrail by a person."""
    identity = {
        "type": "IAMUser",
        "principalId": f"{PRINCIPAL}:{EMAIL}",
        "arn": f"arn:aws:iam::111122223333:user/{USER_NAME}",
        "userName": USER_NAME,
        "accessKeyId": TOKEN,
        "sessionContext": {"sessionIssuer": {"userName": EMAIL}},
    }
    person = {
        "userIdentity": identity,
        "sourceIPAddress": ADDRESS,
        "userAgent": f"[{AGENT}]",
        "vpcEndpointId": ADDRESS_6,
    }
    return put(number, hours, key, 100, **{**person, **changes})


def delivered_storage() -> Delivery:
    """Return inventories, logs and events that name objects and people, good and bad."""
    key, other = f"ann/cats/{OBJECT}", f"ann/cats/{OTHER_OBJECT}"
    records = [
        caller(1, 5, key),
        caller(2, 6, other, eventName="DeleteObject", additionalEventData={"user": EMAIL}),
        caller(3, 6, key, eventName="CopyObject"),
        caller(4, 6, OBJECT),
        caller(5, 6, key, eventTime=EMAIL),
        caller(6, 6, key, eventID=f"{EMAIL} {'x' * 200}"),
        caller(7, 6, key, eventVersion=AGENT),
        caller(8, 6, key, errorCode="AccessDenied", errorMessage=f"{EMAIL} may not"),
        caller(9, 6, f"{key}\0{EMAIL}"),
        caller(10, 6, key, eventCategory=EMAIL),
        caller(11, 6, key, requestParameters=EMAIL),
        caller(13, 7, f"{EMAIL}/cats/table"),
        caller(14, 7, f"{EMAIL.upper()}/cats/other", eventName="CopyObject"),
        caller(15, 7, f"ann/backup of {EMAIL}, July/table"),
        caller(16, 7, f"{EMAIL.replace('@', '%40')}/dogs/table"),
        caller(12, 6, key, addendum={"reason": "UPDATED_DATA", "originalEventID": [EMAIL]}),
    ]
    wrapper = {"Records": [{"eventSource": "aws:s3", "s3": {"object": {"key": OBJECT}}, "userIdentity": {"p": EMAIL}}]}
    folder = trail_log("x", JUNE_1)[0].rpartition("/")[0]
    lines = [
        {"event_id": "v1", "at": "2026-06-01T01:00:00Z", "repository": "ann/cats", "visibility": "private", **PERSON},
        {"event_id": "v2", "at": EMAIL, "repository": "ann/cats", "visibility": "public"},
        {"event_id": "v3", "at": "2026-06-01T01:00:00Z", "repository": "ann/cats", "visibility": EMAIL},
        {"event_id": EMAIL, "at": "2026-06-01T02:00:00Z", "repository": f"{EMAIL}/cats", "visibility": "private"},
        {"event_id": "v5", "at": "2026-06-01T02:00:00Z", "repository": "ann/cats", "owner": EMAIL},
        {"event_id": "v4", "at": "2026-06-01T01:00:00Z", "repository": [EMAIL], "visibility": "public"},
    ]
    return (
        *inventory(
            [
                listed(key, 100),
                listed(other, 7),
                listed(OBJECT, 5),
                listed("ann/cats/b", 1),
                listed(f"{EMAIL}/cats/table", 9),
                listed(f"ann/backup of {EMAIL}, July/table", 2),
            ],
            at(7),
        ),
        *inventory([listed(key, EMAIL), listed(other, -7)], at(8)),
        *inventory([(EMAIL, OBJECT), (ADDRESS,)], at(9)),
        trail_log("AAAAAAAAAAAAAAAA", JUNE_1, *records),
        (f"{folder}/truncated.json.gz", gzip.compress(json.dumps({"Records": records}).encode(), mtime=0)[:-20]),
        (f"{folder}/wrapper.json.gz", gzip.compress(json.dumps(wrapper).encode(), mtime=0)),
        (f"{folder}/text.json.gz", gzip.compress(f"{EMAIL} {ADDRESS} {OBJECT}".encode(), mtime=0)),
        said(JUNE_1, "a", *lines),  # type: ignore[arg-type]
        (f"storage/visibility/{JUNE_1}/b.jsonl", f"{EMAIL} {ADDRESS}\n".encode()),
    )


class Exporters:
    """Two nodes: `jp` says more than it should, `us` sends what is no JSON."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        node = scope["path"].split("/")[1]
        pages = {"node_id": node, "env": "prod", "snapshots": [snapshot(node, 0), snapshot(node, 1)], "has_more": False}
        body = json.dumps({**pages, **PERSON}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body if node == "jp" else body[:-40] + EMAIL.encode()})


def traffic_sources(url: str) -> list[TrafficSource]:
    common: dict[str, Any] = {"env": "prod", "active_from": at(10), "active_to": at(10.03), "retention_hours": 100_000}
    pulled = {"token_env": "NODE_TOKEN", "ca_env": "EXPORTER_CA", **common}
    return [
        *(TrafficSource(name=node, node=node, base_url=f"{url}/{node}", **pulled) for node in ("jp", "us")),
        TrafficSource(name="hk", node="hk", **common),
        TrafficSource(name="xs", node="xs", format="statsquery", **common),
        TrafficSource(name="xe", node="xe", format="prometheus_x_evor", **common),
    ]


@pytest.fixture
def installation(postgres_url: str, template_database: str, tmp_path: Path) -> Iterator[Installation]:
    texts = catalog_texts()
    person = f'[[account]]\nid = "jane"\nname = "J"\ncurrency = "USD"\nclients = [{{ id = "{EMAIL.title()}" }}]\n'
    write_catalog(tmp_path / "catalog", **{**texts, "accounts": texts["accounts"] + person})
    with Site(postgres_url, template_database, tmp_path).installation() as installation:
        yield installation


@pytest.fixture
def stores(installation: Installation, certificates: ExporterCertificates) -> Iterator[Stores]:
    """Return the stores of an installation whose exporters are served over TLS."""
    with serving(Exporters(), certificate=certificates.server.certificate, key=certificates.server.key) as url:
        environ = {**environment(certificates), "NODE_TOKEN": TOKEN}
        chain = replace(MeteredChain.of(installation), sources=tuple(traffic_sources(url)))
        traffic = TrafficStore(
            installation.database,
            chain.lake,
            chain.landing,
            chain.sources,
            lambda source: ExporterClient(source, environ, pseudonymise=e_mail_pseudonyms(KEY), pause=no_pause),
            installation.settings.scratch_dir,
            KEY,
        )
        yield replace(
            open_stores(installation.settings, installation.database),
            traffic=traffic,
            traffic_usage=chain.traffic_usage,
            storage=chain.storage,
            storage_usage=chain.storage_usage,
            catalog=chain.catalog,
        )


def leaks(text: str) -> list[str]:
    """Return what is in `text`, in any case and with the escapes of JSON and URLs."""
    folded = text.lower()
    return [
        value
        for value in PLANTED
        for form in {
            value,
            value.replace("@", "%40"),
            json.dumps(value)[1:-1],
            value.replace(" ", "%20"),
            value.replace(" ", "+"),
        }
        if form.lower() in folded
    ]


def run_everything(installation: Installation, stores: Stores) -> str:
    """Run the assets from deliveries to the ledger, and return all that Dagster keeps of it."""
    definitions = defs_of(installation.settings, installation.database, stores=stores)
    told = []
    with dg.DagsterInstance.ephemeral() as instance:
        for job in ("collect_traffic", "ingest_storage", "backfill_usage"):
            result = definitions.resolve_job_def(job).execute_in_process(
                instance=instance, partition_key=JUNE_1.isoformat(), raise_on_error=False
            )
            assert result.get_asset_materialization_events(), job
            told += [repr(entry) for entry in instance.all_logs(result.run_id)]
    return "\n".join(told)


class TestPersonalData:
    def test_is_nowhere_after_a_run_from_deliveries_to_the_ledger(
        self,
        installation: Installation,
        stores: Stores,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        caplog.set_level(logging.DEBUG)
        installation.deliver((*dropped_traffic(), *delivered_storage()))
        told = run_everything(installation, stores)

        statuses = dict(installation.rows("select status, count(*) from core.source_file group by 1"))
        assert statuses["rejected"] >= 12
        assert statuses["accepted"] >= 6
        assert installation.rows("select last_error_kind from core.traffic_sync_state where source = 'us'") == [
            ("malformed",)
        ]
        assert installation.rows("select count(*) >= 10 from core.quarantine") == [(True,)]
        assert installation.rows("select count(*) >= 4 from core.traffic_refusal") == [(True,)]
        chain = MeteredChain.of(installation)
        samples = chain.lake_rows("core/traffic_samples")
        assert {row[2] for row in samples} == {ACME, e_mail_pseudonyms(KEY)(EMAIL)}
        assert {row[1] for row in samples} == {"jp", "hk", "xs", "xe"}
        assert chain.lake_rows("core/object_events")
        jane = e_mail_pseudonyms(KEY)(EMAIL)
        named = {"ann/cats", f"ann/backup of {jane}, July", f"{jane}/cats"}
        assert {row[3] for row in chain.lake_rows("core/storage_snapshots")} == named
        assert {row[3] for row in chain.lake_rows("core/object_events")} == {*named, f"{jane}/dogs"}
        # the catalog names her by her address, traffic and storage by the pseudonym of it
        assert installation.rows("select client_id from catalog.account_client where account_id = 'jane'") == [(jane,)]
        billed = installation.rows(
            "select count(*) > 0, bool_and(account_id = 'jane') from usage.storage_state where owner = %s", jane
        )
        assert billed == [(True, True)]

        for name, text in every_table(installation.database):
            assert leaks(text) == [], name
        for path in (*(installation.home / "lake").rglob("*"), *installation.settings.scratch_dir.rglob("*")):
            if path.is_file():
                assert leaks(path.read_bytes().decode("latin-1")) == [], path
        for path in (installation.home / "lake").rglob("*.parquet"):
            table = pq.read_table(path)
            assert leaks(repr(table.to_pylist()) + repr(table.schema.metadata)) == [], path
        output = capfd.readouterr()
        for text in (told, caplog.text, output.out, output.err, repr(stores)):
            assert leaks(text) == []

    def test_is_in_no_file_or_answer_of_what_is_pushed(self, installation: Installation, stores: Stores) -> None:
        sources = traffic_sources("https://nowhere.example")
        landing = installation.home / "landing"
        receiver = TrafficReceiver(
            str(landing), sources, installation.settings.scratch_dir, pseudonymise=e_mail_pseudonyms(KEY)
        )
        now = datetime(2026, 6, 2, tzinfo=UTC)
        body = json.dumps([snapshot("hk", 0), snapshot("hk", 1)]).encode()
        received = receiver.receive("hk", body, received_at=now)
        assert (received.snapshots, received.samples) == (2, 4)
        for nasty in nasty_bodies("hk"):
            with pytest.raises(BillingError) as refused:
                receiver.receive("hk", nasty, received_at=now)
            assert leaks(f"{refused.value!r} {refused.value}") == []
            # The sender is told how his own body begins, without what could name somebody else.
            assert EMAIL not in getattr(refused.value, "excerpt", "")
        written = [path for path in landing.rglob("*") if path.is_file()]
        assert written
        for path in written:
            assert leaks(f"{path} {path.read_bytes().decode()}") == [], path

    def test_is_found_by_this_test_where_it_is(self) -> None:
        raw = b"".join(content for _, content in dropped_traffic()).decode("latin-1")
        for key, content in delivered_storage():
            is_whole = key.endswith(".gz") and "truncated" not in key
            raw += (gzip.decompress(content) if is_whole else content).decode("latin-1")
        assert set(leaks(raw)) == set(PLANTED)
