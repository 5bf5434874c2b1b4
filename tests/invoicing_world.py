"""A small installation for tests of invoices: accounts with fees and requests; usage is put in by hand, the stores are real."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from billing_pipeline.amounts import Money
from billing_pipeline.invoicing.items import CompiledInvoice
from billing_pipeline.invoicing.policy import InvoicingPolicy
from billing_pipeline.periods import Window
from resources.catalog_store import CatalogStore
from resources.charge_store import ChargeStore
from resources.database import Database
from resources.invoicing.added_store import AddedStore, Decision
from resources.invoicing.invoice_reader import Disagreement, InvoiceReader
from resources.invoicing.invoice_rows import InvoiceRow
from resources.invoicing.invoice_store import InvoiceStore

BILLABLE = 'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{ endpoint = "/a" }]\n'
METERS = '[[meter]]\nid = "requests"\naggregation = "count"\nunit = "request"\n'
BASIC, PLUS, SUPPORT = "10.99", "12.99", "15.99"


def _price(price_id: str, model: str, *, meter: str = "", more: str = "", currency: str = "USD") -> str:
    return (
        f'[[price]]\nid = "{price_id}"\ncurrency = "{currency}"\n{meter}{more}[[price.versions]]\nversion = 1\n'
        f"effective_from = 2025-01-01T00:00:00Z\n{model}\n"
    )


def _fee(price_id: str, amount: str) -> str:
    return _price(price_id, f'model = "flat_fee"\namount = "{amount}"')


_REQUESTS = 'meter = "requests"\n'
PRICES = "".join(
    (
        *(_fee(name, amount) for name, amount in (("basic", BASIC), ("plus", PLUS), ("support", SUPPORT))),
        _price("each", 'model = "standard"\nunit_price = "0.01"', meter=_REQUESTS),
        _price(
            "by_meter",
            'model = "standard"\nunit_price = "0.01"',
            meter=_REQUESTS,
            more='billing_mode = "stripe_meter"\n',
        ),
        _price(
            "grouped", 'model = "standard"\nunit_price = "0.01"', meter=_REQUESTS, more='group_by = ["client_id"]\n'
        ),
        _price("fils", 'model = "standard"\nunit_price = "0.001"', meter=_REQUESTS, currency="KWD"),
    )
)
PLANS = "".join(
    f'[[plan]]\nid = "{plan}"\nprices = [{", ".join(f"{chr(34)}{price}{chr(34)}" for price in prices)}]\n'
    for plan, prices in {
        "fees": ("basic", "plus", "support"),
        "fees_and_requests": ("basic", "plus", "support", "each"),
        "requests": ("each",),
        "metered": ("basic", "by_meter"),
        "metered_alone": ("by_meter",),
        "grouped": ("grouped",),
        "kuwait": ("fils",),
        "one_fee": ("basic",),
    }.items()
)
# account -> (plan, currency, more of its subscription)
ACCOUNTS = {
    "acme": ("fees_and_requests", "USD", ""),
    "beta": ("metered", "USD", ""),
    "gulf": ("kuwait", "KWD", ""),
    "many": ("grouped", "USD", ""),
    "gone": ("requests", "USD", "ends_at = 2026-03-01T00:00:00Z\n"),
}


def accounts_of(accounts: dict[str, tuple[str, str, str]]) -> str:
    """Return accounts.toml."""
    return (
        "".join(
            f'[[account]]\nid = "{account}"\nname = "{account.title()}"\ncurrency = "{currency}"\ntime_zone = "UTC"\n'
            for account, (_, currency, _) in accounts.items()
        )
        + '[[account]]\nid = "alone"\nname = "Alone"\ncurrency = "USD"\ntime_zone = "UTC"\n'
    )


def subscriptions_of(accounts: dict[str, tuple[str, str, str]]) -> str:
    """Return subscriptions.toml: one subscription for each account, `s_<account>`, from January 2026 on."""
    return "".join(
        f'[[subscription]]\nid = "s_{account}"\naccount = "{account}"\nplan = "{plan}"\n'
        f"starts_at = 2026-01-01T00:00:00Z\n{more}"
        for account, (plan, _, more) in accounts.items()
    )


def month(number: int, year: int = 2026) -> Window:
    """Return a month of the year, UTC."""
    following = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return Window(datetime(year, number, 1, tzinfo=UTC), following)


def at(text: str) -> datetime:
    """Return an instant in UTC, as 2026-03-01T12:00."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def days_of(period: Window) -> list[date]:
    """Return the days of a window that begins and ends at midnight, UTC."""
    count = (period.end - period.start).days
    return [(period.start + timedelta(days=number)).date() for number in range(count)]


@dataclass
class InvoicingWorld:
    """One database with this module's catalog, and what works on it. `now` is what the callers of stores pass."""

    database: Database
    folder: Path
    policy: InvoicingPolicy = field(default_factory=InvoicingPolicy)
    now: datetime = field(default_factory=lambda: at("2026-02-10T00:00"))

    def load(self, **texts: str) -> None:
        """Load the catalog, with other texts for some files."""
        files = {
            "billable": BILLABLE,
            "meters": METERS,
            "prices": PRICES,
            "plans": PLANS,
            "accounts": accounts_of(ACCOUNTS),
            "subscriptions": subscriptions_of(ACCOUNTS),
            **texts,
        }
        self.folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (self.folder / f"{name}.toml").write_text(text)
        CatalogStore(self.database).load(self.folder)

    @property
    def invoices(self) -> InvoiceStore:
        return InvoiceStore(self.database, self.policy)

    @property
    def added(self) -> AddedStore:
        return AddedStore(self.database, self.policy)

    @property
    def charges(self) -> ChargeStore:
        return ChargeStore(self.database, self.policy.thresholds)

    def use(self, account: str, day: str, quantity: int, *, client: str = "c1") -> None:
        """Put one usage row of requests at noon of the day, in place of the same row before."""
        start = at(f"{day}T12:00")
        with self.database.transaction() as connection:
            connection.execute(
                """
                insert into usage.api_requests
                    (event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id, quantity, unit,
                     request_count)
                values (%s, %s, 'requests', %s, %s, '/a', 'GET', %s, %s, 'request', 1)
                on conflict (account_id, meter_id, period_start, endpoint, method, client_id)
                    do update set quantity = excluded.quantity
                """,
                [start.date(), account, start, start + timedelta(hours=1), client, Decimal(quantity)],
            )

    def build(self, days: Sequence[date]) -> None:
        """Write that the usage of the days is built, and book them."""
        with self.database.transaction() as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                insert into usage.build
                values ('usage/api_requests', %s, 'built', 'inputs', 'rules', '[]', 0, 0, 0, 0, 0, 0, 'test', 'run')
                on conflict do nothing
                """,
                [(day,) for day in days],
            )
        self.book(days)

    def book(self, days: Sequence[date]) -> None:
        """Rate and book the days."""
        self.charges.book_days(days, run_id="run", code_version="test")

    def book_month(self, number: int) -> None:
        """Rate and book the periods of a month."""
        self.book([month(number).start.date()])

    def compile(self) -> None:
        """Compile every account's drafts."""
        assert self.invoices.compile_invoices(as_of=self.now).failed == {}

    def newest(self, account: str, period: Window) -> InvoiceRow:
        """Return the newest invoice of the account's own subscription for the period."""
        row = self.invoices.newest(account, f"s_{account}", period)
        assert row is not None, f"no invoice of {account} for {period}"
        return row

    def lines(self, account: str, period: Window) -> CompiledInvoice:
        """Return that invoice with its lines."""
        return self.invoices.compiled(self.newest(account, period))

    def finalize(self, account: str, period: Window) -> InvoiceRow:
        """Make the period's invoice final, whatever is missing in its period."""
        self.compile()
        name = str(self.newest(account, period).invoice_id)
        self.invoices.release(name, actor="test", reason="as it is", now=self.now)
        return self.invoices.finalize(name, actor="test", reason="the month is over", now=self.now)

    def decision(self, reason: str = "goodwill", key: str = "") -> Decision:
        """Return a decision of the support."""
        return Decision(actor="kim", reason=reason, now=self.now, key=key)

    def receivable(self, account: str) -> Money:
        """Return what the ledger says that the account owes."""
        return Money(self.balance(f"receivable:{account}"), "KWD" if account == "gulf" else "USD")

    def balance(self, ledger_account: str) -> int:
        """Return the balance of a ledger account in minor units."""
        with self.database.reading() as connection:
            row = connection.execute(
                "select coalesce(sum(amount_minor), 0)::bigint from billing.ledger_posting where ledger_account = %s",
                [ledger_account],
            ).fetchone()
        assert row is not None
        return int(row[0])

    def disagreements(self) -> tuple[Disagreement, ...]:
        """Return the accounts of which ledger and invoices say different."""
        return InvoiceReader(self.database).disagreements()

    def rows(self, query: str, *parameters: object) -> list[tuple[object, ...]]:
        """Return the rows of a query."""
        with self.database.reading() as connection:
            return list(connection.execute(query.encode(), parameters or None).fetchall())
