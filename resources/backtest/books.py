"""Read what is booked of accounts, for a backtest, and whether the books are what the loaded catalog makes of the usage of now.

Not here: what a draft can change (billing_pipeline.draft_reach), comparing (billing_pipeline.backtest).
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from uuid import UUID

import psycopg

from billing_pipeline.backtest import BookedSide
from billing_pipeline.catalog import Catalog
from billing_pipeline.draft_reach import DraftReach
from billing_pipeline.periods import Window
from resources.booking_scope import BookingScope
from resources.charge_store import USAGE_ASSETS


@dataclass(slots=True)
class Books:
    """Reads the books of one snapshot, accounts after accounts. `digests` are of every charge that was read. What `reach` does not
    change is only added up; None: nothing is."""

    connection: psycopg.Connection
    scope: BookingScope
    reach: DraftReach | None = None
    unaffected_charges: int = 0
    digests: list[bytes] = field(default_factory=list)

    def of_accounts(self, accounts: Collection[str]) -> tuple[dict[UUID, BookedSide], Mapping[tuple[str, str], int]]:
        """Return the newest revision of every charge of these accounts that the scope concerns and the draft can change, and what
        the others come to by account and currency."""
        rows = (
            self.connection.cursor(binary=True)
            .execute(
                """
            select distinct on (charge_id)
                charge_id, account_id, subscription_id, price_id, group_key, period_start, period_end, amount_minor, currency,
                rating_digest, lines <> '[]'::jsonb, revision
            from billing.charge_revision
            where account_id = any(%(accounts)s) and period_start < %(end)s and period_end > %(start)s
            order by charge_id, revision desc
            """,
                {"accounts": sorted(accounts), "start": self.scope.span.start, "end": self.scope.span.end},
            )
            .fetchall()
        )
        found = {}
        unaffected: dict[tuple[str, str], int] = defaultdict(int)
        concerns, digests, reach = self.scope.concerns, self.digests, self.reach
        for charge_id, account_id, subscription_id, price_id, group_key, start, end, units, currency, *rest in rows:
            period = _window(start, end)
            if not concerns(subscription_id, price_id, period):
                continue
            digests.append(charge_id.bytes + f"{units} {currency} {rest[0]}".encode())
            if reach is None or reach.changes(subscription_id, price_id, period):
                found[charge_id] = BookedSide(
                    account_id, subscription_id, price_id, group_key, period, units, currency, *rest
                )
            else:
                unaffected[account_id, currency] += units
                self.unaffected_charges += 1
        return found, unaffected

    def lines(self, charges: Mapping[UUID, BookedSide], charge_ids: Sequence[UUID]) -> Mapping[UUID, str]:
        """Return the arithmetic of some of the charges, as JSON."""
        revisions = [charges[charge_id].revision for charge_id in charge_ids]
        rows = self.connection.execute(
            """
            select charge_id, lines::text
            from unnest(%s::uuid[], %s::integer[]) as wanted (charge_id, revision)
            join billing.charge_revision using (charge_id, revision)
            """,
            [list(charge_ids), revisions],
        )
        return dict(rows.fetchall())


def books_digest(digests: Iterable[bytes]) -> str:
    """Return the SHA-256 of the charges that were read, in any order: ids, amounts, digests of what was rated."""
    return hashlib.sha256(b"\n".join(sorted(digests))).hexdigest()


def are_current(connection: psycopg.Connection, catalog: Catalog, days: Iterable[date], *, code_version: str) -> bool:
    """Tell whether charges of `days` are booked as this code rates them with `catalog` from the usage that is built.

    Every day must be booked so, and every other day that has usage: a period that meets `days` reaches further. What a person
    let wait is another matter (`put_off`).
    """
    row = connection.execute(
        """
        with
        booked_as_now as (
            select booked.event_day, booked.usage_asset
            from billing.booked_day as booked
            join usage.build as build on build.partition_key = booked.event_day and build.asset = booked.usage_asset
            where booked.state = 'booked' and booked.catalog_sha256 = %(catalog)s and booked.code_version = %(code)s
                and (booked.usage_state, booked.inputs_digest, booked.rules_digest)
                    = (build.state, build.inputs_digest, build.rules_digest)
        )
        select
            not exists (
                select from usage.build as build
                where build.asset = any(%(assets)s) and not exists (
                    select from booked_as_now as booked
                    where booked.event_day = build.partition_key and booked.usage_asset = build.asset
                )
            )
            and not exists (
                select from unnest(%(days)s::date[]) as wanted (event_day)
                where not exists (select from booked_as_now as booked where booked.event_day = wanted.event_day)
            )
        """,
        {"catalog": catalog.sha256, "code": code_version, "assets": list(USAGE_ASSETS), "days": list(days)},
    ).fetchone()
    return row is not None and bool(row[0])


def put_off(connection: psycopg.Connection) -> set[str]:
    """Return the subscriptions whose books may wait for something: a change of phases, a person's word."""
    rows = connection.execute(
        "select subscription_id from billing.reshaped_subscription union select subscription_id from invoicing.proposal"
    )
    return {subscription_id for (subscription_id,) in rows}


# Of many charges few have a period of their own.
_window = lru_cache(maxsize=1 << 14)(Window)
