"""Incidents: told once, with evidence, until they end; nothing is lost when a channel fails or a process dies."""

import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from dagster_slack import SlackResource
from rich.console import Console

from assets.alert_channels import SlackChannel, all_channels
from console.alerts_page import print_alerts
from resources.alerting import incidents
from resources.alerting.channel_settings import ChannelSettingsError
from resources.alerting.channels import EmailChannel, HttpChannel, LogChannel
from resources.alerting.conditions import CLOSING, ConditionReader
from resources.alerting.desk import AlertDesk
from resources.alerting.notice import ChannelError, Condition, IncidentKind, Notice, Phase
from resources.alerting.policy import AlertPolicy, AlertPolicyError, load_alert_policy
from resources.database import Database
from resources.stripe_mirror import trueup_queue
from resources.stripe_sync import sync_store
from resources.stripe_sync.sync_store import FindingKind
from tests.stripe_books import Mirror

NOW = datetime(2026, 4, 2, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=2)
LAG = IncidentKind.SYNC_LAG
BEHIND = Condition(subject="account acme", message="acme is behind. To fix: sync it.", evidence={"since": NOW})
NOTICE = Notice(
    incident_id=7,
    kind=LAG,
    subject="account acme",
    phase=Phase.OPENED,
    message="acme is behind",
    opened_at=NOW,
    closed_at=None,
    evidence=({"runs": 3},),
)


@dataclass
class Recorder:
    """A channel that remembers, and fails as often as it is told to."""

    name: str = "recorder"
    failures: int = 0
    got: list[str] = field(default_factory=list)

    def send(self, notice: Notice) -> None:
        if self.failures:
            self.failures -= 1
            raise ChannelError("recorder did not take a notice", bill="", fix="")
        self.got.append(f"{notice.phase.value} {notice.subject}: {notice.message}")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def desk(database: Database, recorder: Recorder) -> AlertDesk:
    return AlertDesk(database=database, channels=(recorder, Recorder(name="other")))


class TestIncident:
    """DH-17."""

    def test_is_told_once_however_often_it_is_seen(self, desk: AlertDesk, recorder: Recorder) -> None:
        assert desk.report(LAG, BEHIND, now=NOW)
        assert desk.deliver(now=NOW).sent == 2
        for minute in range(1, 5):
            assert not desk.report(LAG, BEHIND, now=NOW + timedelta(minutes=minute))
            assert desk.deliver(now=NOW).sent == 0
        assert recorder.got == ["opened account acme: acme is behind. To fix: sync it."]
        (incident,) = desk.open()
        assert (incident.opened_at, incident.seen_at) == (NOW, NOW + timedelta(minutes=4))

    def test_ends_with_a_message_and_may_come_again_as_another(self, desk: AlertDesk, recorder: Recorder) -> None:
        desk.report(LAG, BEHIND, now=NOW)
        assert desk.over(LAG, "account acme", "it is in step", now=LATER)
        assert not desk.over(LAG, "account acme", "it is in step", now=LATER)
        desk.report(LAG, BEHIND, now=LATER)
        desk.deliver(now=LATER)
        assert [one.partition(" ")[0] for one in recorder.got] == ["opened", "closed", "opened"]
        assert len({one.incident_id for one in desk.open()}) == 1

    def test_keeps_the_evidence_of_every_sighting(self, desk: AlertDesk, database: Database) -> None:
        for run in ("r1", "r2", "r1"):
            desk.report(IncidentKind.RUN_FAILED, Condition(subject="j -", message="m", evidence={"run": run}), now=NOW)
        with database.reading() as connection:
            rows = connection.execute("select evidence from alerts.evidence order by evidence ->> 'run'").fetchall()
        assert [row[0] for row in rows] == [{"run": "r1"}, {"run": "r2"}]

    def test_of_a_kind_follows_what_is_found(self, desk: AlertDesk) -> None:
        def seen(*accounts: str) -> tuple[int, int]:
            found = [Condition(subject=account, message="behind") for account in accounts]
            return desk.observe(LAG, found, closing_message="in step", now=NOW)

        assert seen("a", "b") == (2, 0)
        assert seen("b", "c") == (1, 1)
        assert seen("b", "c") == (0, 0)
        assert seen() == (0, 2)

    def test_of_a_muted_kind_is_none(self, database: Database, recorder: Recorder) -> None:
        quiet = AlertDesk(database=database, channels=[recorder], muted=frozenset({LAG}))
        assert not quiet.report(LAG, BEHIND, now=NOW)
        assert quiet.observe(LAG, [BEHIND], closing_message="", now=NOW) == (0, 0)

    def test_is_written_with_its_messages_or_not_at_all(self, desk: AlertDesk, database: Database) -> None:
        """Killed in between, nothing is there, and the next tick reports it."""

        with database.connect() as connection:
            incidents.open_incident(connection, LAG, BEHIND, channels=["recorder"], now=NOW)
            connection.rollback()
        assert desk.open() == ()
        assert desk.report(LAG, BEHIND, now=NOW)


class TestDelivery:
    def test_that_fails_is_tried_again_and_loses_nothing(self, desk: AlertDesk, recorder: Recorder) -> None:
        recorder.failures = 3
        desk.report(LAG, BEHIND, now=NOW)
        now, rounds = NOW, 0
        while not recorder.got:
            desk.deliver(now=now)
            now, rounds = now + timedelta(seconds=30), rounds + 1
        # Waits of 1, 2 and 4 minutes.
        assert rounds == 15
        assert desk.deliver(now=now).sent == 0

    def test_that_fails_does_not_keep_other_channels_waiting(self, desk: AlertDesk, recorder: Recorder) -> None:
        recorder.failures = 1_000
        for account in ("a", "b"):
            desk.report(LAG, Condition(subject=account, message="behind"), now=NOW)
        done = desk.deliver(now=NOW)
        assert (done.sent, len(done.problems)) == (2, 1)

    def test_of_an_end_waits_for_that_of_the_beginning(self, desk: AlertDesk, recorder: Recorder) -> None:
        recorder.failures = 1
        desk.report(LAG, BEHIND, now=NOW)
        desk.deliver(now=NOW)
        desk.over(LAG, "account acme", "in step", now=NOW)
        desk.deliver(now=NOW)
        assert recorder.got == []
        desk.deliver(now=LATER)
        assert [one.partition(" ")[0] for one in recorder.got] == ["opened", "closed"]

    def test_of_an_end_goes_wherever_the_beginning_went(self, desk: AlertDesk, recorder: Recorder) -> None:
        desk.report(LAG, BEHIND, now=NOW)
        AlertDesk(database=desk.database, channels=()).over(LAG, "account acme", "a person says so", now=NOW)
        assert desk.deliver(now=NOW).sent == 4
        assert recorder.got[1] == "closed account acme: a person says so"

    def test_by_two_processes_at_once_is_one(self, desk: AlertDesk, recorder: Recorder) -> None:
        for number in range(12):
            desk.report(LAG, Condition(subject=f"a{number}", message="behind"), now=NOW)
        threads = [threading.Thread(target=desk.deliver, kwargs={"now": NOW}) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(recorder.got) == len(set(recorder.got)) == 12


class HttpReceiver:
    """A server that keeps what is posted and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], Any]] = []
        self.status = 200
        self.answer: Any = {"ok": True}
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator["HttpReceiver"]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                receiver.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                payload = json.dumps(receiver.answer).encode()
                self.send_response(receiver.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_address[1]}/"
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            yield self
            server.shutdown()


class TestHttpChannel:
    def test_posts_json_under_an_id_that_stays_the_same(self) -> None:
        with HttpReceiver().serving() as receiver:
            channel = HttpChannel(url=receiver.url, token="secret")
            for _ in range(2):
                channel.send(NOTICE)
        headers = [headers["idempotency-key"] for _, headers, _ in receiver.got]
        assert headers == ["incident-7-opened"] * 2
        assert receiver.got[0][1]["authorization"] == "Bearer secret"
        body = json.loads(receiver.got[0][2])
        assert (body["kind"], body["phase"], body["evidence"]) == ("sync_lag", "opened", [{"runs": 3}])

    @pytest.mark.parametrize("status", [302, 400, 500])
    def test_is_not_satisfied_with_anything_but_2xx(self, status: int) -> None:
        receiver = HttpReceiver()
        receiver.status = status
        with receiver.serving(), pytest.raises(ChannelError, match=str(status)):
            HttpChannel(url=receiver.url).send(NOTICE)

    def test_tells_no_secret_when_nobody_answers(self) -> None:
        channel = HttpChannel(url="http://user:hunter2@127.0.0.1:1/", token="hunter3")
        with pytest.raises(ChannelError) as caught:
            channel.send(NOTICE)
        assert "hunter" not in str(caught.value) + repr(channel)


class TestSlackChannel:
    def channel(self, receiver: HttpReceiver) -> SlackChannel:
        client = SlackResource(token="xoxb-secret").get_client()
        client.base_url = receiver.url
        return SlackChannel(open_client=lambda: client, channel="#billing")

    def test_posts_a_message(self) -> None:
        with HttpReceiver().serving() as receiver:
            self.channel(receiver).send(NOTICE)
        path, headers, body = receiver.got[0]
        assert path.endswith("chat.postMessage")
        assert headers["authorization"] == "Bearer xoxb-secret"
        assert "incident 7 opened: sync_lag account acme" in json.loads(body)["text"]

    def test_says_what_slack_does_not_like(self) -> None:
        receiver = HttpReceiver()
        receiver.answer = {"ok": False, "error": "channel_not_found"}
        with receiver.serving(), pytest.raises(ChannelError, match="channel_not_found"):
            self.channel(receiver).send(NOTICE)

    def test_says_that_slack_does_not_answer(self) -> None:
        receiver = HttpReceiver()
        receiver.url = "http://127.0.0.1:1/"
        with pytest.raises(ChannelError) as caught:
            self.channel(receiver).send(NOTICE)
        assert "xoxb" not in str(caught.value)


class SmtpReceiver(threading.Thread):
    """A mail server for one message."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.lines: list[str] = []

    def run(self) -> None:
        connection, _ = self._listener.accept()
        with self._listener, connection, connection.makefile("rwb") as stream:
            answer = lambda text: (stream.write(f"{text}\r\n".encode()), stream.flush())  # noqa: E731
            answer("220 here")
            in_data = False
            for raw in stream:
                line = raw.decode().rstrip("\r\n")
                self.lines.append(line)
                if in_data:
                    in_data = line != "."
                    if not in_data:
                        answer("250 kept")
                elif line.upper() == "DATA":
                    in_data = True
                    answer("354 go on")
                elif line.upper() == "QUIT":
                    answer("221 bye")
                    return
                else:
                    answer("250 ok")


class TestEmailChannel:
    def test_sends_a_message_to_everybody(self) -> None:
        server = SmtpReceiver()
        server.start()
        channel = EmailChannel(
            host="127.0.0.1",
            port=server.port,
            sender="billing@example.com",
            receivers=("a@example.com", "b@example.com"),
            is_encrypted=False,
        )
        channel.send(NOTICE)
        server.join(timeout=10)
        text = "\n".join(server.lines)
        assert "Subject: [billing] incident 7 opened: sync_lag account acme" in text
        assert "rcpt to:<b@example.com>" in text.lower()
        assert '{"runs": 3}' in text

    def test_tells_no_secret_when_nobody_answers(self) -> None:
        channel = EmailChannel(
            host="127.0.0.1", port=1, sender="s@x.invalid", receivers=("r@x.invalid",), user="u", password="hunter2"
        )
        with pytest.raises(ChannelError) as caught:
            channel.send(NOTICE)
        assert "hunter2" not in str(caught.value) + repr(channel)


class TestChannels:
    def test_are_the_log_by_default(self, caplog: pytest.LogCaptureFixture) -> None:
        (channel,) = all_channels({})
        assert isinstance(channel, LogChannel)
        channel.send(NOTICE)
        (record,) = caplog.records
        assert (record.levelno, record.getMessage()) == (
            logging.ERROR,
            "incident 7 opened: sync_lag account acme: acme is behind",
        )

    def test_come_from_the_environment(self) -> None:
        environ = {
            "BILLING_SLACK_TOKEN": "xoxb",
            "BILLING_ALERT_SLACK_CHANNEL": "#b",
            "BILLING_ALERT_EMAIL_TO": "a@example.com, b@example.com",
            "BILLING_SMTP_HOST": "mail.example.com",
            "BILLING_ALERT_WEBHOOK_URL": "https://example.com/hook",
        }
        found = {channel.name: channel for channel in all_channels(environ)}
        assert set(found) == {"log", "email", "webhook", "slack"}
        email = found["email"]
        assert isinstance(email, EmailChannel)
        assert (email.receivers, email.port, email.is_encrypted) == (("a@example.com", "b@example.com"), 587, True)

    @pytest.mark.parametrize(
        "environ",
        [
            {"BILLING_SLACK_TOKEN": "xoxb"},
            {"BILLING_ALERT_SLACK_CHANNEL": "#b"},
            {"BILLING_ALERT_EMAIL_TO": "a@example.com"},
            {"BILLING_ALERT_EMAIL_TO": "a@b.c", "BILLING_SMTP_HOST": "h", "BILLING_SMTP_PORT": "x"},
        ],
    )
    def test_by_halves_are_refused(self, environ: dict[str, str]) -> None:
        with pytest.raises(ChannelSettingsError) as caught:
            all_channels(environ)
        assert "xoxb" not in str(caught.value)


class TestPolicy:
    def test_is_read_from_the_catalog(self, tmp_path: Path) -> None:
        assert load_alert_policy(tmp_path) == AlertPolicy()
        (tmp_path / "alerts.toml").write_text('sync_lag_hours = 2\nmuted = ["gap_open"]\n')
        policy = load_alert_policy(tmp_path)
        assert (policy.sync_lag, policy.muted) == (timedelta(hours=2), {IncidentKind.GAP_OPEN})

    @pytest.mark.parametrize("text", ["sync_lag_hours = 0", "x = 1", 'muted = ["everything"]', "nonsense"])
    def test_that_is_wrong_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "alerts.toml").write_text(text)
        with pytest.raises(AlertPolicyError):
            load_alert_policy(tmp_path)


class TestConditions:
    @pytest.fixture
    def mirror(self, database: Database, tmp_path: Path) -> Mirror:
        return Mirror.opened(database, tmp_path / "catalog")

    def found(self, database: Database, kind: IncidentKind, now: datetime = NOW) -> list[str]:
        return [one.subject for one in ConditionReader(database=database).conditions(now=now)[kind]]

    def hold(self, database: Database, guard: str, day: str = "2026-04-01") -> None:
        with database.transaction() as connection:
            connection.execute(
                "insert into guards.verdict (asset, partition_key, guard, status, expected, actual, message, inputs_digest, run_id)"
                " values ('usage/api_requests', %s, %s, 'held', '1', '2', 'no', 'd', 'r')",
                [day, guard],
            )

    def test_are_none_in_a_new_installation(self, database: Database) -> None:
        assert not any(ConditionReader(database=database).conditions(now=NOW).values())

    def test_are_held_checks_until_a_person_lets_them_through(self, database: Database) -> None:
        self.hold(database, "no_conflict")
        assert self.found(database, IncidentKind.CHECK_HELD) == ["usage/api_requests 2026-04-01 no_conflict"]
        with database.transaction() as connection:
            connection.execute(
                "insert into guards.release (asset, partition_key, guard, inputs_digest, actor, reason)"
                " values ('usage/api_requests', '2026-04-01', 'no_conflict', 'd', 'me', 'so')"
            )
        assert self.found(database, IncidentKind.CHECK_HELD) == []

    def test_are_gaps_of_days_that_are_long_over(self, database: Database) -> None:
        self.hold(database, "hours_delivered")
        end = datetime(2026, 4, 2, tzinfo=UTC)
        assert self.found(database, IncidentKind.GAP_OPEN, end + timedelta(hours=2)) == []
        assert len(self.found(database, IncidentKind.GAP_OPEN, end + timedelta(hours=3))) == 1
        assert self.found(database, IncidentKind.CHECK_HELD) == []

    def test_are_dead_events(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        mirror.stripe.broken.add("cus_acme")
        mirror.poll()
        for _ in range(9):
            mirror.apply()
            mirror.now += timedelta(hours=2)
        assert self.found(mirror.database, IncidentKind.DEAD_LETTER) == ["stripe customer cus_acme"]

    def test_are_missed_true_ups_until_they_are_made_good(self, mirror: Mirror) -> None:
        """Row 20."""
        invoice = mirror.stripe.invoice(mirror.stripe.customer("acme"))
        mirror.stripe.finalize(invoice)
        mirror.follow()
        assert self.found(mirror.database, IncidentKind.TRUE_UP_MISSED) == [f"acme {invoice}"]
        with mirror.database.transaction() as connection:
            trueup_queue.done(connection, invoice, now=NOW)
        assert self.found(mirror.database, IncidentKind.TRUE_UP_MISSED) == []

    def test_are_of_every_kind_that_can_be_wrong_here(self, database: Database) -> None:
        """A kind that nobody looks for is never told of."""
        looked_for = set(ConditionReader(database=database).conditions(now=NOW))
        by_dagster = {IncidentKind.RUN_FAILED, IncidentKind.DAY_SKIPPED, IncidentKind.CHECK_FAILED}
        assert looked_for == set(CLOSING) == set(IncidentKind) - by_dagster

    def reconciled(self, database: Database, run_id: str, day: int, agreement: str, difference: int = 0) -> None:
        with database.transaction() as connection:
            connection.execute(
                """
                insert into invoicing.reconciliation (
                    run_id, row_number, day, compared_at, account_id, currency, ours_stripe_minor, held_stripe_minor,
                    difference_stripe_minor, agreement, drifts
                )
                values (%s, 1, make_date(2026, 4, %s), clock_timestamp(), 'acme', 'USD', 800, 800 + %s, %s, %s, '[]')
                """,
                [run_id, day, difference, difference, agreement],
            )

    def test_are_drifts_of_the_newest_day_until_a_later_look_finds_none(self, database: Database) -> None:
        """Row 39, and that a look at an older day says nothing of this one."""
        self.reconciled(database, "r1", 2, "drift", 1)
        self.reconciled(database, "r2", 1, "equal")
        (drift,) = ConditionReader(database=database).conditions(now=NOW)[IncidentKind.STRIPE_DRIFT]
        assert drift.subject == "acme unknown lines USD"
        assert "+1 USD" in drift.message
        self.reconciled(database, "r3", 2, "equal")
        assert self.found(database, IncidentKind.STRIPE_DRIFT) == []

    def test_are_canaries_that_came_out_otherwise(self, database: Database) -> None:
        with database.transaction() as connection:
            connection.execute(
                """
                insert into invoicing.canary_result values (
                    'r1', 'canary', 's', '2026-03-01', '2026-04-01', '2026-04-01', '2026-04-01', 'USD', 4200, 4199, 4200, false
                )
                """
            )
        assert self.found(database, IncidentKind.CANARY) == ["canary s 2026-03-01"]
        self.reconciled(database, "r2", 2, "equal")
        assert self.found(database, IncidentKind.CANARY) == []

    def test_are_what_the_sync_found_and_dead_letters(self, database: Database) -> None:
        with database.transaction() as connection:
            for kind, subject in ((FindingKind.PERIOD_INCOMPLETE, "in_1"), (FindingKind.FINAL_BEFORE_TRUE_UP, "in_2")):
                sync_store.open_finding(connection, kind, subject, "it is so", account_id="acme", now=NOW)
        assert self.found(database, IncidentKind.STRIPE_FINDING) == ["period_incomplete in_1"]
        assert self.found(database, IncidentKind.TRUE_UP_MISSED) == ["acme in_2"]
        with database.transaction() as connection:
            sync_store.close_finding(connection, FindingKind.PERIOD_INCOMPLETE, "in_1", now=NOW)
        assert self.found(database, IncidentKind.STRIPE_FINDING) == []

    def test_are_syncs_that_do_not_come_to_an_end(self, database: Database) -> None:
        """FLY-16: also of accounts of which no sync could even ask."""
        counts = sync_store.RunCounts(accounts=1, in_step=1)
        sync_store.begin_run(database, "good", "daily", now=NOW)
        sync_store.end_run(database, "good", counts, now=NOW)
        with database.transaction() as connection:
            sync_store.put_in_step(
                connection, "acme", "cus_1", wanted_digest="d", began_at=NOW, verified_at=NOW, run_id="good"
            )
        late = NOW + timedelta(hours=27)
        sync_store.begin_run(database, "away", "daily", now=late)
        sync_store.end_run(database, "away", sync_store.RunCounts(left_over=9, problem="Stripe is away"), now=late)
        assert self.found(database, LAG, NOW + timedelta(hours=26)) == []
        (lag,) = ConditionReader(database=database).conditions(now=late)[LAG]
        assert lag.subject == "stripe sync"
        assert "Stripe is away" in lag.message
        sync_store.begin_run(database, "again", "daily", now=late)
        sync_store.end_run(database, "again", counts, now=late)
        assert self.found(database, LAG, late) == []

    def test_are_feeds_that_nobody_reads(self, mirror: Mirror) -> None:
        mirror.poll()
        assert self.found(mirror.database, LAG, mirror.now + timedelta(minutes=30)) == []
        assert self.found(mirror.database, LAG, mirror.now + timedelta(minutes=31)) == ["stripe feed v1"]


class TestAlertsPage:
    def test_shows_what_is_open_and_what_could_not_be_told(self, desk: AlertDesk, recorder: Recorder) -> None:
        recorder.failures = 1
        desk.report(LAG, BEHIND, now=NOW)
        desk.deliver(now=NOW)
        text = StringIO()
        print_alerts(Console(file=text, width=200), desk.database)
        assert "account acme" in text.getvalue()
        assert "recorder did not take a notice" in text.getvalue()
