"""Invoices, killed before any statement and run again, or run by several at once: the money of one undisturbed run.

`BILLING_INVOICE_KILLS=all` kills before every statement of every step, not before some.
"""

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from billing_pipeline.errors import BillingError
from resources.database import Database
from resources.invoicing.invoice_reader import InvoiceReader
from resources.settings import PROJECT_ROOT
from tests.invoicing_process import JANUARY, NOW, STEPS
from tests.invoicing_world import InvoicingWorld, month

EVERY = os.environ.get("BILLING_INVOICE_KILLS") == "all"
KILLS_PER_STEP = 4
ORDER = (
    "compile",
    "adjust",
    "sell",
    "let through",
    "finalize",
    "late usage",
    "compile",
    "credit",
    "stripe",
    "void of stripe",
    "reissue",
)
# Without instants of the server, and identities that count attempts.
FACTS = (
    "select invoice_id, state, number, item_count, total_minor, items_digest, external_id from invoicing.invoice order by 1",
    "select invoice_id, item_key, part_of, kind, amount_minor, source_id, source_digest from invoicing.item order by 1, 2",
    "select adjustment_id, amount_minor, actor, reason from invoicing.adjustment order by 1",
    "select one_off_id, exact_amount, amount_minor from invoicing.one_off order by 1",
    "select credit_note_id, number, invoice_id, amount_minor, corrects from invoicing.credit_note order by 1",
    "select invoice_id, kind, actor, reason, detail::text from invoicing.invoice_event order by 1, event_id",
    "select transaction_id, posting_number, ledger_account, amount_minor from billing.ledger_posting order by 1, 2",
    "select source_id, amount_minor, why from invoicing.uninvoiced order by 1",
)


def facts(world: InvoicingWorld) -> list[list[tuple[object, ...]]]:
    """Return everything that two runs must agree on."""
    return [world.rows(query) for query in FACTS]


@pytest.fixture
def worlds(database: Database, second_database: Database, tmp_path: Path) -> tuple[InvoicingWorld, InvoicingWorld]:
    """Return two installations that are alike."""
    made = tuple(
        InvoicingWorld(one, tmp_path / f"catalog{number}", now=NOW)
        for number, one in enumerate((database, second_database))
    )
    for world in made:
        world.load()
        world.use("acme", "2026-01-03", 100)
        for number in (1, 2):
            world.book_month(number)
    return made[0], made[1]


@contextmanager
def killer(database: Database) -> Iterator[Callable[[str, int], int]]:
    """Provide what starts a step that dies before its n-th statement, and returns its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.invoicing_process", database.url],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def kill(step: str, die_at: int) -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"step": step, "die_at": die_at}) + "\n")
        process.stdin.flush()
        return int(json.loads(process.stdout.readline()))

    with process:
        yield kill


def late_usage(world: InvoicingWorld) -> None:
    world.use("acme", "2026-01-04", 250)
    world.book_month(1)


def let_through(world: InvoicingWorld) -> None:
    name = str(world.newest("acme", JANUARY).invoice_id)
    world.invoices.release(name, actor="kim", reason="as it is", now=NOW)


BETWEEN: Mapping[str, Callable[[InvoicingWorld], None]] = {"late usage": late_usage, "let through": let_through}


class TestKilledAtAnyStatement:
    def test_and_run_again_leaves_what_one_run_leaves(self, worlds: Sequence[InvoicingWorld]) -> None:
        tried, undisturbed = worlds
        chance = random.Random(20260210)
        kills = 0
        with killer(tried.database) as kill, killer(undisturbed.database) as run:
            for step in ORDER:
                if step in BETWEEN:
                    for world in worlds:
                        BETWEEN[step](world)
                    continue
                statements = run(step, 0)
                assert statements > 5
                expected = facts(undisturbed)
                moments = range(1, statements + 1)
                for die_at in moments if EVERY else sorted(chance.sample(moments, KILLS_PER_STEP)):
                    # What was committed before the last kill takes fewer statements now.
                    code = kill(step, die_at)
                    assert code == -9 or 0 < code < die_at, f"{step} before statement {die_at}"
                    kills += code == -9
                for _ in range(2):
                    STEPS[step](tried.database)
                assert facts(tried) == expected, step
        assert kills > 3 * len(STEPS)


class TestSeveralAtOnce:
    def test_end_in_one_invoice_with_one_number_and_every_adjustment(self, worlds: Sequence[InvoicingWorld]) -> None:
        world = worlds[0]
        world.compile()
        name = str(world.newest("acme", JANUARY).invoice_id)
        world.invoices.release(name, actor="test", reason="as it is", now=NOW)
        start = threading.Barrier(8)

        def run(number: int) -> str:
            start.wait()
            try:
                match number % 4:
                    case 0:
                        world.invoices.compile_invoices(as_of=NOW)
                    case 1:
                        world.invoices.finalize(name, actor=f"a{number}", reason="due", now=NOW)
                    case 2:
                        decision = world.decision(key=str(number))
                        world.added.adjust("acme", reach=JANUARY, amount=Decimal(-1), decision=decision)
                    case _:
                        late_usage(world)
            except BillingError as error:
                return type(error).__name__
            return "done"

        with ThreadPoolExecutor(8) as threads:
            outcomes = list(threads.map(run, range(8)))
        assert [outcomes[number] for number in (0, 1, 3, 4, 5, 7)] == ["done"] * 6
        world.compile()
        (final,) = world.rows("select number, total_minor from invoicing.final_invoice where account_id = 'acme'")
        assert final[0] == "INV-000001"
        adjusted = sum(outcomes[number] == "done" for number in (2, 6))
        assert world.rows("select count(*) from invoicing.adjustment") == [(adjusted,)]
        assert InvoiceReader(world.database).disagreements() == ()
        owed = 3997 + 100 + 250 - 100 * adjusted + 3997
        assert world.receivable("acme").minor_units == owed

    def test_compilations_write_what_one_writes(self, worlds: Sequence[InvoicingWorld]) -> None:
        tried, undisturbed = worlds
        undisturbed.compile()
        start = threading.Barrier(4)

        def run(_: int) -> int:
            start.wait()
            return tried.invoices.compile_invoices(as_of=NOW).written

        with ThreadPoolExecutor(4) as threads:
            written = sum(threads.map(run, range(4)))
        assert written == tried.invoices.compile_invoices(as_of=NOW).unchanged
        assert facts(tried) == facts(undisturbed)

    def test_finals_of_many_accounts_take_numbers_without_a_gap(self, worlds: Sequence[InvoicingWorld]) -> None:
        world = worlds[0]
        world.compile()
        rows = [
            row
            for account in ("acme", "beta")
            for row in InvoiceReader(world.database).of_account(account)
            if row.key.period in (JANUARY, month(2))
        ]
        for row in rows:
            world.invoices.release(str(row.invoice_id), actor="test", reason="as it is", now=NOW)
        start = threading.Barrier(len(rows) * 2)

        def run(number: int) -> None:
            start.wait()
            name = str(rows[number // 2].invoice_id)
            world.invoices.finalize(name, actor="test", reason="due", now=NOW)

        with ThreadPoolExecutor(len(rows) * 2) as threads:
            list(threads.map(run, range(len(rows) * 2)))
        numbers = world.rows("select number from invoicing.final_invoice order by number")
        assert [number for (number,) in numbers] == [f"INV-{one:06d}" for one in range(1, len(rows) + 1)]
