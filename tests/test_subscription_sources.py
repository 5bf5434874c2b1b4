"""Subscriptions from an application's table and from Stripe: taken in, kept in order, left out with a reason."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from billing_pipeline.catalog import CatalogError, PhaseStatus
from billing_pipeline.periods import Anchored
from resources.catalog_store import CatalogLoad, CatalogStore
from resources.charge_store import ChargeStore
from resources.database import Database
from resources.subscriptions.statements import read_findings
from tests.test_billing_schedule import BILLABLE, METERS, PLANS, PRICES, at
from tests.test_catalog_store import count
from tests.test_charge_store import book, day

ACCOUNTS = "".join(
    f'[[account]]\nid = "{name}"\nname = "{name.title()}"\ncurrency = "USD"\ntime_zone = "America/New_York"\n'
    for name in ("acme", "beta", "gamma")
)
OF_FILES = '[[subscription]]\nid = "of_files"\naccount = "acme"\nplan = "business"\nstarts_at = 2026-01-01T05:00:00Z\n'


class Sources:
    """A database with this module's catalog folder, and what an application and Stripe say beside it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder, self.store = database, folder, CatalogStore(database)
        folder.mkdir()
        self.write(
            billable=BILLABLE, meters=METERS, prices=PRICES, plans=PLANS, accounts=ACCOUNTS, subscriptions=OF_FILES
        )

    def write(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.folder / f"{name}.toml").write_text(text)

    def say(self, subscription: str, statement: str, when: str, **fields: object) -> int:
        """Write a statement as an application does, and return its id."""
        given = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in fields.items()}
        columns = ["subscription_id", "statement", "at", *given]
        with self.database.transaction() as connection:
            row = connection.execute(
                f"insert into catalog.subscription_statement ({', '.join(columns)}) "
                f"values ({', '.join(['%s'] * len(columns))}) returning statement_id".encode(),
                [subscription, statement, at(when), *given.values()],
            ).fetchone()
        assert row is not None
        return int(row[0])

    def start(self, subscription: str, account: str = "beta", plan: str = "basic", **fields: object) -> int:
        more: Mapping[str, object] = {"quantities": {"seat": 5}, **fields}
        return self.say(subscription, "start", "2026-01-01T05:00:00", account_id=account, plan_id=plan, **more)

    def load(self) -> CatalogLoad:
        return self.store.load(self.folder)

    def phases(self, subscription: str) -> list[tuple[datetime, str, PhaseStatus, str]]:
        found = self.store.current().subscriptions[subscription].phases
        return [(one.starts_at, one.plan_id, one.status, str(one.quantities.get("seat"))) for one in found]


@pytest.fixture
def sources(database: Database, tmp_path: Path) -> Sources:
    """Return the sources of a database that nothing was loaded into."""
    return Sources(database, tmp_path / "catalog")


class TestTable:
    def test_a_subscription_and_its_changes_are_taken_in(self, sources: Sources) -> None:
        sources.start("t")
        sources.say("t", "change", "2026-03-10T12:00:00", plan_id="pro")
        sources.say("t", "change", "2026-04-10T12:00:00", quantities={"seat": "6.5"}, note="half a seat")
        sources.say("t", "change", "2026-05-10T12:00:00", cancel=True, at_end_of="month")
        assert sources.load().left_out == ()
        assert sources.phases("t") == [
            (at("2026-01-01T05:00"), "basic", "active", "5"),
            (at("2026-03-10T12:00"), "pro", "active", "5"),
            (at("2026-04-10T12:00"), "pro", "active", "6.5"),
        ]
        subscription = sources.store.current().subscriptions["t"]
        assert (subscription.anchor.zone, subscription.ends_at) == ("America/New_York", at("2026-06-01T04:00"))
        assert "of_files" in sources.store.current().subscriptions
        assert not sources.load().changed

    def test_a_change_may_move_the_anchor(self, sources: Sources) -> None:
        sources.start("t", anchor_day=1)
        sources.say("t", "change", "2026-03-10T12:00:00", anchor_day=15, anchor_time="14:37:12")
        assert sources.load().left_out == ()
        anchors = [(one.anchor.day, str(one.anchor.time_of_day)) for one in self.anchored(sources)]
        assert anchors == [(1, "00:00:00"), (15, "14:37:12")]

    def anchored(self, sources: Sources) -> tuple[Anchored, ...]:
        return sources.store.current().subscriptions["t"].anchored

    def test_what_is_wrong_waits_with_its_reason_and_the_rest_counts(self, sources: Sources) -> None:
        sources.start("t")
        wrong = sources.say("t", "change", "2026-03-10T12:00:00", plan_id="gold")
        sources.say("t", "change", "2026-03-11T12:00:00", quantities={"seat": 7})
        lost = sources.start("u", account="nobody")
        float_seats = sources.say(
            "v", "start", "2026-01-01T05:00:00", account_id="gamma", plan_id="pro", quantities={"seat": 2.5}
        )
        left_out = {one.statement_id: (one.field, one.message) for one in sources.load().left_out}
        assert left_out[wrong] == ("changes.1.plan", "'gold' is not a plan")
        assert left_out[lost] == ("account", "'nobody' is not an account")
        assert "is not exact; write it as text" in left_out[float_seats][1]
        assert [one[3] for one in sources.phases("t")] == ["5", "7"]
        assert set(sources.store.current().subscriptions) == {"of_files", "t"}
        with sources.database.reading() as connection:
            assert {one.statement_id for one in read_findings(connection)} == {wrong, lost, float_seats}

    def test_what_waits_names_its_row_and_what_to_do(self, sources: Sources) -> None:
        sources.start("t")
        row = sources.say("t", "change", "2026-03-10T12:00:00", plan_id="gold", external_id="evt_2")
        (finding,) = sources.load().left_out
        assert finding.place == f"row {row} of catalog.subscription_statement (external_id evt_2)"
        assert f"withdraw this one (statement = 'withdrawal', withdraws = {row})" in finding.fix
        assert str(finding).startswith(f"{finding.place}: t: changes.1.plan: 'gold' is not a plan; write a further row")
        with sources.database.reading() as connection:
            assert read_findings(connection) == (finding,)

    def test_what_has_become_right_is_taken_in_behind_what_was_before(self, sources: Sources) -> None:
        sources.start("t")
        sources.say("t", "change", "2026-03-10T12:00:00", plan_id="gold")
        sources.say("t", "change", "2026-03-10T12:00:00", plan_id="pro")
        assert len(sources.load().left_out) == 1
        book(ChargeStore(sources.database), [day("2026-03-05")])
        sources.write(plans=PLANS + '[[plan]]\nid = "gold"\nprices = ["pro_fee"]\n')
        assert sources.load().left_out == ()
        # Of two at one instant the later one taken in counts: history only grows.
        assert sources.phases("t")[-1][1] == "gold"

    def test_a_statement_that_was_not_taken_in_may_be_withdrawn(self, sources: Sources) -> None:
        sources.start("t")
        wrong = sources.say("t", "change", "2026-03-10T12:00:00", plan_id="gold")
        assert len(sources.load().left_out) == 1
        sources.say("t", "withdrawal", "2026-03-12T00:00:00", withdraws=wrong)
        assert sources.load().left_out == ()

    def test_a_withdrawal_that_comes_too_late_is_told(self, sources: Sources) -> None:
        taken = sources.start("t")
        sources.load()
        sources.say("t", "withdrawal", "2026-03-12T00:00:00", withdraws=taken)
        (finding,) = sources.load().left_out
        assert "was taken in before: write a change" in finding.message
        assert "t" in sources.store.current().subscriptions

    def test_two_that_bill_the_same_do_not_go_together_and_the_first_stays(self, sources: Sources) -> None:
        sources.start("t")
        sources.load()
        again = sources.start("a_second", plan="pro")
        (finding,) = sources.load().left_out
        assert finding.statement_id == again
        assert "bills meter 'requests' of account 'beta' together with" in finding.message
        assert set(sources.store.current().subscriptions) == {"of_files", "t"}

    def test_a_change_that_begins_to_bill_what_another_bills_is_left_out(self, sources: Sources) -> None:
        sources.start("a", plan="business", quantities={})
        sources.start("b", plan="basic")
        assert sources.load().left_out == ()
        change = sources.say("a", "change", "2026-06-01T00:00:00", plan_id="pro", quantities={"seat": 1})
        (finding,) = sources.load().left_out
        assert finding.statement_id == change

    def test_files_that_break_what_was_taken_in_are_refused(self, sources: Sources) -> None:
        sources.start("t", plan="pro")
        sources.load()
        sources.write(plans=PLANS.replace('id = "pro"', 'id = "other"'))
        with pytest.raises(
            CatalogError,
            match=r"row \d+ of catalog\.subscription_statement: t: plan: 'pro' is not a plan; it was taken in before: let",
        ):
            sources.load()

    def test_files_that_break_a_change_that_was_taken_in_name_the_row_of_the_change(self, sources: Sources) -> None:
        sources.start("t")
        row = sources.say("t", "change", "2026-03-10T12:00:00", plan_id="pro", external_id="evt_9")
        sources.load()
        sources.write(plans=PLANS.replace('id = "pro"', 'id = "other"'))
        with pytest.raises(CatalogError, match=rf"row {row} of .*\(external_id evt_9\): t: changes\.1\.plan: 'pro'"):
            sources.load()

    def test_a_loaded_catalog_that_has_become_wrong_names_the_row(self, sources: Sources) -> None:
        row = sources.start("t", external_id="evt_1")
        sources.load()
        with psycopg.connect(sources.database.url) as connection:
            connection.execute(
                "update catalog.entry set content = jsonb_set(content, '{plan}', '\"gone\"') where entry_id = 't'"
            )
        with pytest.raises(CatalogError) as caught:
            sources.store.current()
        assert f"row {row} of catalog.subscription_statement (external_id evt_1): t: plan: 'gone'" in str(caught.value)

    def test_a_subscription_has_one_source(self, sources: Sources) -> None:
        sources.start("of_files")
        (finding,) = sources.load().left_out
        assert finding.message.startswith("subscriptions.toml has this subscription too")
        assert sources.store.current().subscriptions["of_files"].account_id == "acme"

    def test_a_start_that_is_missing_or_comes_twice(self, sources: Sources) -> None:
        sources.say("t", "change", "2026-03-10T12:00:00", plan_id="pro")
        (finding,) = sources.load().left_out
        assert "has no start" in finding.message
        sources.start("t")
        twice = sources.start("t")
        (finding,) = sources.load().left_out
        assert (finding.statement_id, sources.phases("t")[-1][1]) == (twice, "pro")

    @pytest.mark.parametrize(
        "fields",
        [
            {"statement": "start", "account_id": "beta"},
            {"statement": "change"},
            {"statement": "change", "cancel": True, "account_id": "beta"},
            {"statement": "change", "plan_id": "pro", "at": "2026-03-10 12:00:00.5Z"},
            {"statement": "withdrawal"},
        ],
    )
    def test_postgresql_refuses_what_says_nothing(self, sources: Sources, fields: Mapping[str, object]) -> None:
        given = {"subscription_id": "t", "at": "2026-03-10 12:00Z", **fields}
        statement = (
            f"insert into catalog.subscription_statement ({', '.join(given)}) values ({', '.join(['%s'] * len(given))})"
        )
        with pytest.raises(psycopg.errors.CheckViolation), sources.database.transaction() as connection:
            connection.execute(statement.encode(), list(given.values()))

    def test_statements_are_never_edited(self, sources: Sources) -> None:
        sources.start("t")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), sources.database.transaction() as connection:
            connection.execute("update catalog.subscription_statement set plan_id = 'pro'")


class Mirror:
    """Rows of the Stripe mirror, as a fetch leaves them."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def put(self, *, fetched: str, plan: str | None = "basic", seats: int | None = None, **fields: object) -> None:
        """Put subscription sub_1 of customer cus_1, which is account beta, as Stripe has it."""
        row = {
            "subscription_id": "sub_1",
            "customer_id": "cus_1",
            "status": "active",
            "currency": "USD",
            "collection_method": "charge_automatically",
            "started_at": at("2026-01-31T10:30:15"),
            "billing_cycle_anchor": at("2026-01-31T10:30:15"),
            "cancel_at_period_end": False,
            "created_at": at("2026-01-31T10:30:15"),
            "metadata": json.dumps({"bp_account": "beta", **({"bp_plan": plan} if plan else {})}),
            "fetched_at": at(fetched),
            "fetch_number": 1,
            **fields,
        }
        with self.database.transaction() as connection:
            connection.execute("delete from stripe.subscription")
            connection.execute(
                f"insert into stripe.subscription ({', '.join(row)}) values ({', '.join(['%s'] * len(row))})".encode(),
                list(row.values()),
            )
            if seats is not None:
                connection.execute(
                    "insert into stripe.subscription_item values ('sub_1', 'si_1', 'price_1', %s, false, now(), now(), "
                    """'{"bp_quantity": "seat"}')""",
                    [seats],
                )


class TestStripe:
    def test_what_the_mirror_shows_becomes_dated_statements(self, sources: Sources) -> None:
        mirror = Mirror(sources.database)
        mirror.put(fetched="2026-02-01T00:00", seats=5, trial_end=at("2026-02-14T10:30:15"), status="trialing")
        assert sources.load().left_out == ()
        subscription = sources.store.current().subscriptions["sub_1"]
        anchor = subscription.anchor
        assert (anchor.day, anchor.time_of_day.isoformat(), anchor.zone) == (31, "10:30:15", "UTC")
        mirror.put(fetched="2026-03-10T12:00:07", seats=7, plan="pro", trial_end=at("2026-02-14T10:30:15"))
        sources.load()
        assert [(one[0], one[1], str(one[2]), one[3]) for one in sources.phases("sub_1")] == [
            (at("2026-01-31T10:30:15"), "basic", "trial", "5"),
            (at("2026-02-14T10:30:15"), "basic", "active", "5"),
            (at("2026-03-10T12:00:07"), "pro", "active", "7"),
        ]
        written = count(sources.database, "catalog.subscription_statement")
        assert not sources.load().changed
        assert count(sources.database, "catalog.subscription_statement") == written

    def test_a_cancellation_at_stripe_ends_it_there_and_may_be_taken_back(self, sources: Sources) -> None:
        mirror = Mirror(sources.database)
        mirror.put(fetched="2026-02-01T00:00", seats=1)
        sources.load()
        mirror.put(fetched="2026-02-10T00:00", seats=1, cancel_at=at("2026-02-28T10:30:15"))
        sources.load()
        assert sources.store.current().subscriptions["sub_1"].ends_at == at("2026-02-28T10:30:15")
        mirror.put(fetched="2026-02-11T00:00", seats=1)
        sources.load()
        assert sources.store.current().subscriptions["sub_1"].ends_at is None
        mirror.put(fetched="2026-03-01T00:00", seats=1, status="canceled", ended_at=at("2026-02-27T08:00"))
        sources.load()
        assert sources.store.current().subscriptions["sub_1"].ends_at == at("2026-02-27T08:00")

    def test_one_that_was_cancelled_at_once_does_not_go_on(self, sources: Sources) -> None:
        mirror = Mirror(sources.database)
        mirror.put(fetched="2026-02-01T00:00", seats=1)
        sources.load()
        mirror.put(fetched="2026-02-02T00:00", seats=1, status="canceled", ended_at=at("2026-01-31T10:30:15"))
        for _ in range(2):
            assert sources.load().left_out == ()
            assert sources.store.current().subscriptions["sub_1"].ends_at == at("2026-01-31T10:30:16")

    def test_a_pause_and_an_item_that_is_gone(self, sources: Sources) -> None:
        mirror = Mirror(sources.database)
        mirror.put(fetched="2026-02-01T00:00", seats=3)
        sources.load()
        mirror.put(fetched="2026-02-10T00:00", status="paused", seats=3)
        sources.load()
        mirror.put(fetched="2026-02-12T00:00")
        sources.load()
        assert [(str(one[2]), one[3]) for one in sources.phases("sub_1")] == [
            ("active", "3"),
            ("paused", "3"),
            ("active", "0"),
        ]

    def test_a_link_without_a_plan_or_one_that_has_not_begun_is_no_source(self, sources: Sources) -> None:
        mirror = Mirror(sources.database)
        mirror.put(fetched="2026-02-01T00:00", plan=None)
        sources.load()
        mirror.put(fetched="2026-02-01T00:00", status="incomplete")
        sources.load()
        assert set(sources.store.current().subscriptions) == {"of_files"}
        assert count(sources.database, "catalog.subscription_statement") == 0

    def test_an_anchor_that_stripe_moves_is_told(self, sources: Sources) -> None:
        mirror = Mirror(sources.database)
        mirror.put(fetched="2026-02-01T00:00", seats=1)
        sources.load()
        mirror.put(fetched="2026-02-10T00:00", seats=1, billing_cycle_anchor=at("2026-02-10T00:00"))
        (finding,) = sources.load().left_out
        assert finding.message.startswith("Stripe has moved the billing cycle's anchor to 2026-02-10T00:00:00+00:00")
        assert finding.place == "Stripe subscription sub_1"

    def test_what_is_wrong_at_stripe_names_its_subscription_there(self, sources: Sources) -> None:
        mirror = Mirror(sources.database)
        ours = json.dumps({"bp_account": "beta", "bp_plan": "gold", "bp_subscription": "ours"})
        mirror.put(fetched="2026-02-01T00:00", seats=1, metadata=ours)
        (finding,) = sources.load().left_out
        assert (finding.subscription_id, finding.field) == ("ours", "plan")
        assert (
            finding.place == f"Stripe subscription sub_1 (row {finding.statement_id} of catalog.subscription_statement)"
        )
        assert finding.fix.startswith("correct sub_1 at Stripe (metadata bp_plan, ")

    def test_files_that_break_what_stripe_said_name_its_subscription_there(self, sources: Sources) -> None:
        Mirror(sources.database).put(fetched="2026-02-01T00:00", seats=1, plan="pro")
        sources.load()
        sources.write(plans=PLANS.replace('id = "pro"', 'id = "other"'))
        with pytest.raises(
            CatalogError, match=r"Stripe subscription sub_1 \(row \d+ of .*\): sub_1: plan: 'pro' is not a"
        ):
            sources.load()
