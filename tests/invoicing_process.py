"""Steps of invoices that are killed: a process that forks one for each line of standard input and lets it kill itself.

Run as a program: `python -m tests.invoicing_process DATABASE_URL`. A line is JSON: `{"step": name, "die_at": n}`; the step dies
before its n-th statement or commit. The answer is its exit code: -9, or how many statements it took.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal

from resources.database import Database
from resources.invoicing.added_store import AddedStore, Decision
from resources.invoicing.invoice_store import InvoiceStore
from tests.invoicing_world import at, month
from tests.prepaid_process import Statements

NOW = at("2026-02-10T00:00")
JANUARY, FEBRUARY = month(1), month(2)
KIM = Decision(actor="kim", reason="goodwill", now=NOW)


def _name(store: InvoiceStore) -> str:
    """Return the id of acme's newest January invoice."""
    row = store.newest("acme", "s_acme", JANUARY)
    assert row is not None
    return str(row.invoice_id)


def _stores(database: Database) -> tuple[InvoiceStore, AddedStore]:
    return InvoiceStore(database), AddedStore(database)


def _finalize(database: Database) -> None:
    store, _ = _stores(database)
    store.finalize(_name(store), actor="kim", reason="due", now=NOW)


def _recorded(database: Database) -> None:
    store, _ = _stores(database)
    row = store.newest("acme", "s_acme", FEBRUARY)
    assert row is not None
    store.record_finalized(row.key, external_id="in_february", finalized_at=NOW, held={}, now=NOW)


STEPS: Mapping[str, Callable[[Database], object]] = {
    "compile": lambda database: _stores(database)[0].compile_invoices(as_of=NOW),
    "adjust": lambda database: _stores(database)[1].adjust("acme", reach=JANUARY, amount=Decimal("-5"), decision=KIM),
    "sell": lambda database: _stores(database)[1].sell_once(
        "acme",
        description="Set-up",
        quantity=Decimal(1),
        unit="piece",
        unit_price=Decimal("9.99"),
        sold_at=JANUARY.start,
        decision=KIM,
    ),
    "finalize": _finalize,
    "credit": lambda database: _stores(database)[1].credit("INV-000001", amount=Decimal(2), decision=KIM),
    "void of stripe": lambda database: _stores(database)[0].record_voided("in_february", reason="a mistake", now=NOW),
    "stripe": _recorded,
    "reissue": lambda database: _stores(database)[0].reissue("in_february", actor="kim", reason="again", now=NOW),
}


def main(url: str) -> None:
    """Answer each line of standard input."""
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            statements = Statements(request["die_at"])
            STEPS[request["step"]](Database(url))
            os._exit(min(statements.seen, 255))
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(json.dumps(os.waitstatus_to_exitcode(status)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
