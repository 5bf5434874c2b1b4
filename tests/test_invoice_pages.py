"""The commands about invoices, as a person types them: what they print, what they refuse, and that repeating adds nothing."""

from pathlib import Path

import pytest

from console import cli
from resources.database import Database
from resources.invoicing.policy_file import load_invoicing_policy
from tests.invoicing_world import InvoicingWorld, days_of, month

JANUARY = month(1)


@pytest.fixture
def world(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InvoicingWorld:
    """Return an installation that the environment leads to, with January and February 2026 booked."""
    made = InvoicingWorld(database, tmp_path / "catalog")
    made.load()
    made.use("acme", "2026-01-03", 100)
    made.build(days_of(JANUARY))
    made.book_month(2)
    made.compile()
    monkeypatch.setenv("BILLING_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BILLING_DATABASE_URL", database.url)
    monkeypatch.setenv("DAGSTER_DATABASE_URL", database.url)
    monkeypatch.setenv("BILLING_CATALOG_DIR", str(made.folder))
    return made


class Terminal:
    """Runs commands, and returns what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run `billing` with these words and return both outputs; the exit code must be `code`."""
        found = cli.run(arguments)
        told = self.capsys.readouterr()
        assert found == code, told.out + told.err
        return told.out + told.err


@pytest.fixture
def billing(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


BY = ("--reason", "goodwill", "--actor", "kim")


class TestInvoices:
    def test_of_an_account_and_month_show_lines_total_and_trail(self, world: InvoicingWorld, billing: Terminal) -> None:
        shown = billing.run("invoice", "acme", "2026-01")
        for text in ("draft", "10.99 USD", "100 request", "1.00 USD", "40.97 USD"):
            assert text in shown
        assert "Open" not in shown
        number = billing.run("finalize", shown.split()[1], *BY).split()[2]
        assert number == "INV-000001"
        final = billing.run("invoice", number)
        assert "final" in final
        assert "finalized by kim: goodwill (total 40.97 USD, number INV-000001)" in final
        listed = billing.run("invoices", "acme")
        assert listed.index("2026-02-01") < listed.index("INV-000001")
        assert "final: 1 invoices, 40.97 USD" in listed
        months = billing.run("invoices", "--months")
        assert "2026-01" in months

    def test_are_looked_at_without_a_write_and_show_what_the_next_compilation_writes(
        self, world: InvoicingWorld, billing: Terminal
    ) -> None:
        kept = "select invoice_id, items_digest, compiled_at from invoicing.draft_invoice order by 1"
        assert "Shown as it is compiled now" not in billing.run("invoice", "acme", "2026-01")
        world.use("acme", "2026-01-03", 203)
        world.book_month(1)
        before = world.rows(kept)
        shown = billing.run("invoice", "acme", "2026-01")
        assert "42.00 USD" in shown
        assert "Shown as it is compiled now; kept as 40.97 USD since" in shown
        assert world.rows(kept) == before
        world.compile()
        assert world.rows(kept) != before
        again = billing.run("invoice", "acme", "2026-01")
        assert [line for line in shown.splitlines() if "Shown" not in line] == again.splitlines()

    def test_say_what_keeps_them_from_becoming_final(self, world: InvoicingWorld, billing: Terminal) -> None:
        shown = billing.run("invoice", "acme", "2026-02")
        assert "Open: usage/api_requests is not built on 2026-02-01, 2026-02-02" in shown
        name = shown.split()[1]
        assert "is not whole" in billing.run("finalize", name, *BY, code=1)
        billing.run("hold", name, *BY)
        assert "is held by kim: goodwill" in billing.run("finalize", name, *BY, code=1)
        assert "DAY GUARD" in billing.run("release", "usage/api_requests", "2026-02-01", *BY, code=2)
        assert "Released: invoice" in billing.run("release", name, *BY)
        billing.run("hold", name, *BY)
        released = billing.run("release-invoice", name, "--reason", "as it is", "--actor", "lee")
        assert "It may become final although usage/api_requests is not built" in released
        assert "Final: invoice INV-000001 of acme" in billing.run("finalize", name, *BY)

    def test_that_are_not_there_are_told_with_what_is(self, world: InvoicingWorld, billing: Terminal) -> None:
        assert "close: acme" in billing.run("invoice", "acne", "2026-01", code=1)
        assert "has no invoice in 2024-01" in billing.run("invoice", "acme", "2024-01", code=1)
        assert "there is no invoice 'INV-000009'" in billing.run("invoice", "INV-000009", code=1)
        assert "--state is" in billing.run("invoices", "--state", "open", code=2)


class TestSupport:
    def test_adjusts_a_draft_once_however_often_the_command_is_run(
        self, world: InvoicingWorld, billing: Terminal
    ) -> None:
        assert "now comes to 35.97 USD" in billing.run("adjust", "acme", "2026-01", "-5.00", *BY)
        assert "nothing was added" in billing.run("adjust", "acme", "2026-01", "-5.00", *BY)
        assert "now comes to 30.97 USD" in billing.run("adjust", "acme", "2026-01-20", "-5.00", *BY, "--key", "7")
        assert "is no amount" in billing.run("adjust", "acme", "2026-01", "5,00", *BY, code=1)
        assert "no billing period there" in billing.run("adjust", "acme", "2024-01", "5.00", *BY, code=1)
        assert "reason is empty" in billing.run("adjust", "acme", "2026-01", "1", "--reason", " ", code=1)
        assert world.balance("adjustments:USD") == 1000

    def test_is_refused_on_a_final_invoice_and_gives_back_by_credit_note(
        self, world: InvoicingWorld, billing: Terminal
    ) -> None:
        name = billing.run("invoice", "acme", "2026-01").split()[1]
        billing.run("finalize", name, *BY)
        refused = billing.run("adjust", "acme", "2026-01", "-5.00", *BY, code=1)
        assert "billing credit-note INV-000001" in refused
        issued = billing.run("credit-note", "INV-000001", "5.00", *BY)
        assert "Issued credit note CN-000001 of 5.00 USD on invoice INV-000001. Left of it: 35.97 USD." in issued
        assert "nothing was added" in billing.run("credit-note", "INV-000001", "5.00", *BY)
        assert "more than what is left" in billing.run("credit-note", "INV-000001", "36", *BY, code=1)
        assert "Credit note CN-000001 of 5.00 USD" in billing.run("invoice", "INV-000001")
        assert "has the credit notes CN-000001" in billing.run("void", "INV-000001", *BY, code=1)

    def test_voids_and_issues_again(self, world: InvoicingWorld, billing: Terminal) -> None:
        name = billing.run("invoice", "acme", "2026-01").split()[1]
        assert "cannot become void" in billing.run("void", name, *BY, code=1)
        billing.run("finalize", name, *BY)
        assert "Next: billing reissue INV-000001" in billing.run("void", "INV-000001", *BY)
        assert "On no invoice: 40.97 USD" in billing.run("invoices")
        assert "40.97 USD" in billing.run("reissue", "INV-000001", *BY)
        assert "issue 2" in billing.run("invoice", "acme", "2026-01")

    def test_sells_something_once(self, world: InvoicingWorld, billing: Terminal) -> None:
        told = billing.run(
            "one-off", "acme", "Set-up", "0.0001", "--quantity", "20000", "--at", "2026-01-05T00:00Z", *BY
        )
        assert "Sold for 2.00 USD" in told
        assert "now comes to 42.97 USD" in told
        assert "20000 piece x 0.0001 USD" in billing.run("invoice", "acme", "2026-01")


class TestProposals:
    def test_are_listed_approved_and_booked(self, world: InvoicingWorld, billing: Terminal) -> None:
        (world.folder / "invoicing.toml").write_text(
            '[[proposal]]\ncurrency = "USD"\nabsolute = "10"\nrelative = "9"\n'
        )
        assert "No change" in billing.run("proposals")
        billing.run("finalize", billing.run("invoice", "acme", "2026-01").split()[1], *BY)
        world.use("acme", "2026-01-04", 5_000)
        world.policy = load_invoicing_policy(world.folder)
        world.book_month(1)
        listed = billing.run("proposals")
        assert "51.00 USD" in listed
        name = listed.splitlines()[2].split()[0]
        assert "Approved and booked: acme" in billing.run("approve", name, *BY)
        assert "89.97 USD" in billing.run("invoice", "acme", "2026-02")
        assert "no proposal" in billing.run("reject", name, *BY, code=1)
