"""An installation with prepaid accounts: a catalog, minutes of traffic, booked days, and what the books say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from billing_pipeline.catalog import Catalog
from resources.catalog_store import CatalogStore, read_catalog
from resources.charge_store import ChargeStore, DayBooking
from resources.database import Database

UUID_1 = "11111111-1111-1111-1111-111111111111"
BILLABLE = 'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{ endpoint = "/a" }]\n'
METERS = """
[[meter]]
id = "traffic"
source = "traffic"
aggregation = "sum"
field = "total_bytes"
unit = "byte"
[[meter]]
id = "downlink"
source = "traffic"
aggregation = "sum"
field = "downlink_bytes"
envs = ["prod", "preview"]
unit = "byte"
"""


def version(number: int = 1, *, since: str = "2026-01-01", body: str) -> str:
    """Return one version of a prepaid price."""
    return (
        f"[[price.versions]]\nversion = {number}\neffective_from = {since}T00:00:00Z\nmodel = "
        f'"metered_balance"\n{body}\n'
    )


def price(*versions: str, price_id: str = "per_byte", meter: str = "traffic", currency: str = "USD") -> str:
    """Return a prepaid price with its versions."""
    head = (
        f'[[price]]\nid = "{price_id}"\nmeter = "{meter}"\ncurrency = "{currency}"\nbilling_mode = "prepaid_balance"\n'
    )
    return head + "".join(versions)


HALF = price(version(body='unit_price = "0.5"'))


def subscription(account: str, *, plan: str = "paygo", since: str = "2026-01-01", rest: str = "") -> str:
    """Return a subscription that begins at midnight UTC."""
    return (
        f'[[subscription]]\nid = "s_{account}_{plan}"\naccount = "{account}"\nplan = "{plan}"\n'
        f"starts_at = {since}T00:00:00Z\n{rest}\n"
    )


def account(account_id: str, *, currency: str = "USD", zone: str = "UTC") -> str:
    """Return an account."""
    return (
        f'[[account]]\nid = "{account_id}"\nname = "{account_id.title()}"\ncurrency = "{currency}"\n'
        f'time_zone = "{zone}"\n'
    )


def write_catalog(folder: Path, **texts: str) -> Path:
    """Write a catalog with one prepaid account, or other texts for some files, and return its folder."""
    files = {
        "billable": BILLABLE,
        "meters": METERS,
        "prices": HALF,
        "plans": '[[plan]]\nid = "paygo"\nprices = ["per_byte"]\n',
        "accounts": account("acme"),
        "subscriptions": subscription("acme"),
    }
    folder.mkdir(exist_ok=True)
    for name, text in {**files, **texts}.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


def at(text: str) -> datetime:
    """Return an instant of UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def days(first: str, count: int = 1) -> list[date]:
    return [date.fromisoformat(first) + timedelta(days=number) for number in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """A row of usage.traffic_minute."""

    at: datetime
    uplink: int = 0
    downlink: int = 0
    account: str = "acme"
    env: str = "prod"
    node: str = "jp-node"
    inbound: str = ""
    region: str = ""
    line: str = ""
    uuid: str = UUID_1


@dataclass(frozen=True, slots=True)
class Books:
    """The prepaid books of one database."""

    database: Database
    folder: Path

    @classmethod
    def opened(cls, database: Database, folder: Path, **texts: str) -> "Books":
        """Load the catalog of this module, with other texts for some files."""
        books = cls(database, folder)
        books.load(**texts)
        return books

    def load(self, **texts: str) -> None:
        """Load a catalog in place of the one before."""
        CatalogStore(self.database).load(write_catalog(self.folder, **texts))

    def catalog(self) -> Catalog:
        return read_catalog(self.folder)

    def use(self, *minutes: Minute) -> None:
        """Put minutes of traffic in place of those with the same key."""
        with self.database.transaction() as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                insert into usage.traffic_minute
                    (event_day, account_id, bucket_start, env, node, inbound_tag, region, line, account_uuid,
                     uplink_bytes, downlink_bytes, on_first, on_reset, basis, epoch)
                values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'full', 'baseline', 'difference', 0)
                on conflict (account_id, bucket_start, env, node, inbound_tag, account_uuid) do update set
                    uplink_bytes = excluded.uplink_bytes,
                    downlink_bytes = excluded.downlink_bytes,
                    region = excluded.region,
                    line = excluded.line
                """,
                [
                    (
                        one.at.date(),
                        one.account,
                        one.at,
                        one.env,
                        one.node,
                        one.inbound,
                        one.region,
                        one.line,
                        one.uuid,
                        one.uplink,
                        one.downlink,
                    )
                    for one in minutes
                ],
            )

    def used(self, *amounts: tuple[str, int], **place: str) -> None:
        """Put downlink bytes by minute (UTC): `("2026-04-08T10:30", 100)`."""
        self.use(*(Minute(at=at(when), downlink=byte_count, **place) for when, byte_count in amounts))

    def forget(self, *, account: str = "acme") -> None:
        """Take all minutes of an account away."""
        with self.database.transaction() as connection:
            connection.execute("delete from usage.traffic_minute where account_id = %s", [account])

    def book(self, wanted: Sequence[date]) -> tuple[DayBooking, ...]:
        """Book days, as every run does."""
        return ChargeStore(self.database).book_days(wanted, run_id="run", code_version="test")

    def rows(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Return what the reader sees."""
        with self.database.reading() as connection:
            return connection.execute(statement.encode(), list(values)).fetchall()

    def number(self, statement: str, *values: object) -> Decimal:
        """Return the one number of a query."""
        ((found,),) = self.rows(statement, *values)
        assert isinstance(found, int | Decimal)
        return Decimal(found)

    def entries(self, account: str = "acme") -> list[tuple[object, ...]]:
        """Return (bucket start as HH:MM, revision, entry type, rated, included, amount) of traffic, in order."""
        return self.rows(
            """
            select to_char(bucket_start, 'HH24:MI'), revision, entry_type, rated_bytes, included_bytes, amount_delta
            from billing.prepaid_entry
            where account_id = %s and charge_id is not null
            order by bucket_start, env, node, account_uuid, region, line, revision
            """,
            account,
        )

    def buckets(self, account: str = "acme") -> Mapping[tuple[object, ...], tuple[object, ...]]:
        """Return what stands of each bucket: its key -> rated, included bytes and amount; without those that came to 0."""
        return {
            row[:6]: row[6:]
            for row in self.rows(
                """
                select bucket_start, env, node, account_uuid, region, line, sum(rated_bytes), sum(included_bytes),
                    sum(amount_delta)
                from billing.prepaid_entry
                where account_id = %s and charge_id is not null
                group by 1, 2, 3, 4, 5, 6
                having sum(rated_bytes) <> 0 or sum(included_bytes) <> 0 or sum(amount_delta) <> 0
                """,
                account,
            )
        }

    def balance(self, account: str = "acme") -> Decimal:
        """Return the balance, once it is proved to be the initial one and the sum of the ledger, to the byte and to the cent."""
        exact = self.number("select exact_balance from billing.account_balance_state where account_id = %s", account)
        assert exact == self.number(
            "select sum(amount_delta) from billing.prepaid_entry where account_id = %s", account
        )
        return exact

    def ledger(self, account: str = "acme") -> int:
        """Return the balance in the books, in minor units."""
        return int(
            self.number(
                "select coalesce(-sum(amount_minor), 0)::bigint from billing.ledger_posting where ledger_account = %s",
                f"prepaid:{account}",
            )
        )

    def state(self, account: str = "acme") -> tuple[object, ...]:
        """Return (remaining quota, balance, in arrears, since, throttle state, last bucket)."""
        (row,) = self.rows(
            """
            select remaining_included_quota, exact_balance, balance_arrears, balance_arrears_since, throttle_state,
                last_rated_bucket_at
            from billing.account_balance_state
            where account_id = %s
            """,
            account,
        )
        return row

    def everything(self) -> list[list[tuple[object, ...]]]:
        """Return every row that a booking writes to the prepaid tables and the ledger, with their times of writing."""
        return [
            self.rows(f"select * from billing.{table} order by 1, 2")
            for table in (
                "prepaid_entry",
                "prepaid_period",
                "account_balance_state",
                "ledger_posting",
                "charge_revision",
            )
        ]
