"""Laws of prepaid balances: whatever comes late, twice, moved or in pieces, and whoever dies meanwhile, the money is the same."""

import json
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from billing_pipeline.amounts import to_money
from billing_pipeline.catalog import Catalog
from billing_pipeline.prepaid import Bucket, balance_terms, spend
from resources.database import Database
from resources.settings import PROJECT_ROOT
from tests.prepaid_books import Books, Minute, account, at, days, price, subscription, version

HISTORIES = 1_000
SEED = 20260408
FIRST = at("2026-03-28")
DAYS = 8
PRICES = {
    "plain": price(version(body='unit_price = "0.5"'), price_id="plain"),
    "quota": price(
        version(
            body='unit_price = "0.0000001"\nincluded_quota_bytes = 3000\ninitial_balance = "12.34"\n'
            'minimum_balance = "12.33"\nregion_multipliers = { jp = "1.2" }\nline_multipliers = { premium = "2.0" }'
        ),
        price_id="quota",
    ),
    "peak": price(
        version(
            body='unit_price = "0.003"\nincluded_quota_bytes = 500\n'
            'peak = { hours = [[18, 23], [0, 1]], zone = "Asia/Kolkata" }\npeak_multiplier = "1.7"\n'
            'off_peak_multiplier = "0.9"'
        ),
        price_id="peak",
    ),
    "versions": price(
        version(1, body='unit_price = "0.01"\nincluded_quota_bytes = 800'),
        version(2, since="2026-03-30", body='unit_price = "0.02"\nincluded_quota_bytes = 2000'),
        version(3, since="2026-04-02", body='unit_price = "0.005"\nincluded_quota_bytes = 400'),
        price_id="versions",
    ),
    "unit": price(
        version(
            body='unit_price = "7.77"\nincluded_quota_bytes = 10\nregion_multipliers = { jp = "0.123456789012" }\n'
            'conversion = { unit = "kbyte", divide = "1024" }'
        ),
        price_id="unit",
    ),
}
PLANS = "".join(f'[[plan]]\nid = "{name}"\nprices = ["{name}"]\n' for name in PRICES)
ANCHORS = ("", "anchor_day = 31\nanchor_time = 10:30:00", "anchor_day = 2\nanchor_time = 23:59:00")


@dataclass(frozen=True, slots=True)
class History:
    """The minutes of one account as they are in the end."""

    account: str
    minutes: tuple[Minute, ...]


def random_history(chance: random.Random, account_id: str) -> History:
    """Return minutes of several nodes, envs, inbounds and places, close together so that they share buckets."""
    uuids = [f"{account_id}-{number}" for number in range(chance.choice((1, 1, 2)))]
    minutes = {}
    for _ in range(chance.randrange(1, 14)):
        start = FIRST + timedelta(days=chance.randrange(DAYS), hours=chance.choice((0, 10, 12, 17, 23)))
        one = Minute(
            at=start + timedelta(minutes=chance.randrange(28, 33)),
            uplink=chance.choice((0, 1, chance.randrange(400))),
            downlink=chance.choice((0, chance.randrange(2_000))),
            account=account_id,
            env=chance.choice(("prod", "prod", "preview")),
            node=chance.choice(("jp-1", "us-1")),
            inbound=chance.choice(("", "tcp", "xhttp")),
            region=chance.choice(("jp", "us", "")),
            line=chance.choice(("premium", "")),
            uuid=chance.choice(uuids),
        )
        minutes[one.at, one.env, one.node, one.inbound, one.uuid] = one
    return History(account_id, tuple(minutes.values()))


def deliveries(chance: random.Random, histories: Sequence[History], rounds: int) -> Iterator[list[Minute]]:
    """Yield the minutes in pieces: late, twice, first with other bytes or at another place; all of them by the end."""
    pieces: list[list[Minute]] = [[] for _ in range(rounds)]
    for history in histories:
        for minute in history.minutes:
            first = chance.randrange(rounds)
            for number in range(first, rounds - 1):
                if chance.random() < 0.4:
                    wrong = {"downlink": chance.randrange(3_000), "region": chance.choice(("jp", "us"))}
                    pieces[number].append(replace(minute, **wrong) if chance.random() < 0.5 else minute)
            pieces[-1 if first < rounds - 1 else first].append(minute)
    for piece in pieces:
        chance.shuffle(piece)
        yield piece


def expected(
    catalog: Catalog, history: History
) -> tuple[Mapping[tuple[object, ...], tuple[object, ...]], Decimal, int, int]:
    """Return an account's buckets, exact balance, ledger in minor units and quota left, by the pure reference."""
    (one,) = catalog.subscriptions_by_account[history.account]
    (paid_by,) = catalog.prices_of(one)
    bytes_by_bucket: dict[Bucket, int] = defaultdict(int)
    for minute in history.minutes:
        if minute.env == "prod":
            bucket = Bucket(
                bucket_start=minute.at,
                env=minute.env,
                node=minute.node,
                account_uuid=minute.uuid,
                region=minute.region,
                line=minute.line,
            )
            bytes_by_bucket[bucket] += minute.uplink + minute.downlink
    by_period: dict[datetime, dict[Bucket, int]] = defaultdict(dict)
    # Every day of the span is booked, so the newest period is that of its last instant, used or not.
    last = one.anchor.period_containing(FIRST + timedelta(days=DAYS, microseconds=-1))
    for bucket, byte_count in bytes_by_bucket.items():
        if byte_count:
            by_period[one.anchor.period_containing(bucket.bucket_start).start][bucket] = byte_count
    terms = balance_terms(paid_by.versions[0])
    balance, ledger = terms.initial_balance, to_money(terms.initial_balance, "USD").minor_units
    found: dict[tuple[object, ...], tuple[object, ...]] = {}
    for buckets in by_period.values():
        spent = list(spend(buckets.items(), paid_by))
        total = sum((bucket.amount for bucket in spent), Decimal(0))
        balance += total
        ledger -= to_money(-total, "USD").minor_units
        for part in spent:
            key = part.bucket
            found[key.bucket_start, key.env, key.node, key.account_uuid, key.region, key.line] = (
                part.rated_bytes,
                part.included_bytes,
                part.amount,
            )
    newest = by_period.get(last.start, {})
    in_force = paid_by.version_at(max((bucket.bucket_start for bucket in newest), default=last.start))
    assert in_force is not None
    quota = max(balance_terms(in_force).included_quota_bytes - sum(newest.values()), 0)
    return found, balance, ledger, quota


def standing(books: Books) -> dict[str, dict[tuple[object, ...], tuple[object, ...]]]:
    """Return what stands of each bucket, by account; without buckets that came to nothing."""
    found: dict[str, dict[tuple[object, ...], tuple[object, ...]]] = defaultdict(dict)
    for account_id, *row in books.rows(
        """
        select account_id, bucket_start, env, node, account_uuid, region, line, sum(rated_bytes), sum(included_bytes),
            sum(amount_delta)
        from billing.prepaid_entry
        where charge_id is not null
        group by 1, 2, 3, 4, 5, 6, 7
        having sum(rated_bytes) <> 0 or sum(included_bytes) <> 0 or sum(amount_delta) <> 0
        """
    ):
        found[str(account_id)][tuple(row[:6])] = tuple(row[6:])
    return found


class TestHistories:
    def test_a_thousand_in_any_order_and_pieces_come_to_what_the_reference_says(
        self, database: Database, tmp_path: Path
    ) -> None:
        chance = random.Random(SEED)
        histories = [random_history(chance, f"a{number}") for number in range(HISTORIES)]
        plans = list(PRICES)
        books = Books.opened(
            database,
            tmp_path / "catalog",
            prices="".join(PRICES.values()),
            plans=PLANS,
            accounts="".join(account(history.account) for history in histories),
            subscriptions="".join(
                subscription(history.account, plan=plans[number % len(plans)], rest=ANCHORS[number % len(ANCHORS)])
                for number, history in enumerate(histories)
            ),
        )
        span = days("2026-03-28", DAYS)
        for piece in deliveries(chance, histories, 4):
            books.use(*piece)
            # Only some of the days, in any order: what is left out is booked by a later round.
            wanted = chance.sample(span, chance.randrange(1, DAYS))
            for part in (wanted[: len(wanted) // 2], wanted[len(wanted) // 2 :]):
                books.book(part)
        rest = chance.sample(span, DAYS)
        booked = [*books.book(rest[:3]), *books.book(rest[3:])]
        assert {verdict.status.value for booking in booked for verdict in booking.verdicts} == {"passed"}
        before = books.number("select count(*) from billing.prepaid_entry")
        books.book(span)
        assert books.number("select count(*) from billing.prepaid_entry") == before
        catalog, buckets = books.catalog(), standing(books)
        states = {row[0]: row[1:] for row in books.rows(_STATES)}
        for history in histories:
            found, balance, ledger, quota = expected(catalog, history)
            assert buckets.get(history.account, {}) == found, history
            assert states[history.account] == (balance, balance, ledger, quota), history


_STATES = """
    with
    entries as (
        select account_id, sum(amount_delta) as amount from billing.prepaid_entry group by account_id
    ),
    ledger as (
        select account_id, -sum(amount_minor)::bigint as amount_minor
        from billing.ledger_posting
        where starts_with(ledger_account, 'prepaid:')
        group by account_id
    )
    select account_id, exact_balance, coalesce(entries.amount, 0), coalesce(amount_minor, 0), remaining_included_quota
    from billing.account_balance_state
    left join entries using (account_id)
    left join ledger using (account_id)
"""


@contextmanager
def killer(database: Database) -> Iterator["Killer"]:
    """Provide a process that starts bookings and kills them."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.prepaid_process", database.url, "2026-04-08", "2"],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Killer(process)


@dataclass(frozen=True, slots=True)
class Killer:
    """The other end of tests.prepaid_process."""

    process: "subprocess.Popen[str]"

    def kill(self, **when: int) -> int:
        """Start a booking, kill it, and return its exit code: -9, or 0 where it was done before."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(when) + "\n")
        self.process.stdin.flush()
        return int(json.loads(self.process.stdout.readline()))


class TestKills:
    def test_a_hundred_between_ledger_and_quota_leave_balance_and_ledger_equal(
        self, database: Database, tmp_path: Path
    ) -> None:
        terms = 'unit_price = "0.5"\nincluded_quota_bytes = 100\ninitial_balance = "1000"'
        books = Books.opened(database, tmp_path / "catalog", prices=price(version(body=terms)))
        books.used(("2026-04-08T10:30", 150))
        books.book(days("2026-04-08", 2))
        assert proved(books) == (0, Decimal(975), 97_500)
        chance = random.Random(SEED)
        killed = statement = 0
        booked, used = 150, 180
        with killer(database) as other:
            use(books, used)
            while killed < 100:
                # Before each statement in turn, and now and then at any moment.
                if chance.random() < 0.1:
                    code = other.kill(after_microseconds=chance.randrange(120_000))
                else:
                    statement += 1
                    code = other.kill(die_at=statement)
                assert code in (0, -9)
                killed += code == -9
                assert proved(books) in (balances(booked), balances(used))
                if code == 0:
                    assert proved(books) == balances(used)
                    booked, used, statement = used, used + 30, 0
                    use(books, used)
        books.book(days("2026-04-08", 2))
        assert proved(books) == balances(used)


def use(books: Books, used: int) -> None:
    """Have `used` bytes in all: more in a minute that is booked, and in another, so that a booking adjusts and adds."""
    late = (used - 150) // 3
    books.used(("2026-04-08T10:30", 150 + late), ("2026-04-09T08:00", used - 150 - late))


def balances(used: int) -> tuple[int, Decimal, int]:
    """Return (quota left, balance, ledger) after `used` bytes: 1000 - (used - 100) x 0.5."""
    balance = 1000 - (Decimal(used) - 100) / 2
    return 0, balance, int(balance * 100)


def proved(books: Books) -> tuple[object, Decimal, int]:
    """Return (quota left, balance, ledger in minor units), once entries, periods, ledger and balance agree."""
    balance, ledger = books.balance(), books.ledger()
    assert balance * 100 == ledger
    spent = books.number("select sum(exact_amount) from billing.prepaid_period")
    assert 1000 - spent == balance
    assert books.number("select sum(amount_minor) from billing.ledger_posting") == 0
    return books.state()[0], balance, ledger
