"""Grant, revoke and show credit. A grant that comes again with the same words is the one that is there.

Whatever changes an account's credit runs in a transaction on its invoices, which are compiled again with it. Not here: the rules
(billing_pipeline.credits), booking (credit_booking).
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID, uuid5

import psycopg

from billing_pipeline.amounts import Money, exact_text, minor_digits, to_money
from billing_pipeline.credits import CREDIT_NAMESPACE, CreditChange, Grant, GrantSource
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.items import digest_of
from billing_pipeline.invoicing.policy import InvoicingPolicy
from resources.catalog_store import current_catalog
from resources.credits.credit_rows import GrantRow, append_grant, read_grants
from resources.database import Database
from resources.invoicing.account_work import account_work

_NOTHING = "nothing was granted, revoked or posted"


class CreditRefusedError(BillingError):
    """A grant or a revocation that cannot be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantWords:
    """What a person grants. `amount` in major units; `expires_at` None: for ever. `key` is what it is granted for, once, such as a
    payment's number; without one the same words from the same instant on are the same grant."""

    amount: Decimal
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    source: GrantSource
    actor: str
    reason: str
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantState:
    """A grant, and what stands of it at the instant that was asked for. `spent` and `expired` are not below 0.

    `reserved` is what open invoices that are due later will take.
    """

    row: GrantRow
    spent: Money
    expired: Money
    reserved: Money

    @property
    def left(self) -> Money:
        """Return what may still be spent, reserved credit among it."""
        return self.row.grant.amount - self.spent - self.expired


@dataclass(frozen=True, slots=True)
class CreditStore:
    """The credits of one database."""

    database: Database
    policy: InvoicingPolicy = field(default_factory=InvoicingPolicy)

    def grant(self, account_id: str, words: GrantWords, *, now: datetime) -> tuple[Grant, bool]:
        """Grant credit to an account and compile its invoices with it; the second value is False where it was there already, and
        the first is the one that was there.

        Raises:
            UnknownEntryError: the catalog has no such account.
            CreditRefusedError: no reason, an amount that the currency cannot hold, or a key that something else was granted for.
            CreditGrantInvalidError: not above 0, or it expires before it begins.
        """
        with account_work(self.database, self.policy, account_id, as_of=now) as work:
            currency = work.catalog.account(account_id).currency
            grant = _grant(account_id, currency, words)
            is_new = append_grant(work.connection, grant, actor=words.actor, reason=words.reason, now=now)
            if not is_new:
                grant = _kept_before(work.connection, grant, words)
        return grant, is_new

    def revoke(self, grant_digits: str, *, actor: str, reason: str, now: datetime) -> GrantRow:
        """Take back what is left of a grant; what it has paid of final invoices stays. Again: nothing changes.

        Raises:
            CreditRefusedError: no such grant, several that begin so, or no reason.
        """
        if not reason.strip():
            raise _refused("there is no reason", "give --reason")
        with self.database.reading() as connection:
            account_id, grant_id = _find(connection, grant_digits)
        with account_work(self.database, self.policy, account_id, as_of=now) as work:
            work.connection.execute(
                """
                insert into billing.credit_revocation (grant_id, revoked_at, actor, reason)
                values (%s, %s, %s, %s)
                on conflict do nothing
                """,
                [grant_id, now, actor, reason],
            )
        return next(one.row for one in self.balances(account_id, at=now) if one.row.grant.grant_id == grant_id)

    def balances(self, account_id: str, *, at: datetime) -> tuple[GrantState, ...]:
        """Return the account's grants with what stands of each at `at`, in order of their begin.

        Raises:
            UnknownEntryError: the catalog has no such account.
        """
        with self.database.reading() as connection:
            current_catalog(connection).account(account_id)
            rows = read_grants(connection, [account_id])
            sums = _sums(connection, account_id, at)
        found = []
        for row in rows:
            grant = row.grant
            spent, expired, reserved = (
                Money(-sums.get((grant.grant_id, change, is_later), 0), grant.amount.currency)
                for change, is_later in (
                    (CreditChange.SPENT, False),
                    (CreditChange.EXPIRED, False),
                    (CreditChange.SPENT, True),
                )
            )
            found.append(GrantState(row=row, spent=spent, expired=expired, reserved=reserved))
        return tuple(found)


def _sums(connection: psycopg.Connection, account_id: str, at: datetime) -> dict[tuple[UUID, CreditChange, bool], int]:
    rows = connection.execute(
        """
        select grant_id, kind, effective_at > %(at)s, sum(delta_minor)::bigint
        from billing.credit_entry
        where account_id = %(account)s
        group by 1, 2, 3
        """,
        {"account": account_id, "at": at},
    ).fetchall()
    return {(row[0], CreditChange(row[1]), row[2]): row[3] for row in rows}


def _grant(account_id: str, currency: str, words: GrantWords) -> Grant:
    if not words.reason.strip():
        raise _refused("there is no reason", "give --reason")
    amount = to_money(words.amount, currency)
    if amount.major != words.amount:
        raise _refused(
            f"{exact_text(words.amount)} has more places than the {minor_digits(currency)} of {currency}",
            "grant an amount that the currency can hold",
        )
    said = (
        str(amount),
        str(words.priority),
        words.effective_at.isoformat(),
        "" if words.expires_at is None else words.expires_at.isoformat(),
        words.source,
        words.reason,
    )
    # A payment that is reported again a day later begins at another instant, and is the same one.
    identity = digest_of(account_id, "key", words.key) if words.key else digest_of(account_id, *said, "")
    return Grant(
        grant_id=uuid5(CREDIT_NAMESPACE, identity),
        account_id=account_id,
        amount=amount,
        priority=words.priority,
        effective_at=words.effective_at,
        expires_at=words.expires_at,
        source=words.source,
    )


def _kept_before(connection: psycopg.Connection, grant: Grant, words: GrantWords) -> Grant:
    """Return the grant that is kept under this id; it may have begun at another instant.

    Raises:
        CreditRefusedError: it is another one, of the same key.
    """
    before = next(
        row.grant for row in read_grants(connection, [grant.account_id]) if row.grant.grant_id == grant.grant_id
    )
    if replace(grant, effective_at=before.effective_at) != before:
        until = "" if before.expires_at is None else f" until {before.expires_at.isoformat()}"
        raise _refused(
            f"{words.key!r} was granted before with other words: {before.amount} as {before.source}, priority {before.priority}"
            f"{until} ({str(grant.grant_id)[:8]})",
            "give another --key to another grant; take a wrong one back with `billing revoke-credit`",
        )
    return before


def _find(connection: psycopg.Connection, digits: str) -> tuple[str, UUID]:
    rows = connection.execute(
        "select account_id, grant_id from billing.credit_grant where starts_with(grant_id::text, %s)", [digits]
    ).fetchall()
    if len(digits) < 4 or len(rows) != 1:
        raise _refused(
            f"{len(rows) or 'no'} grants begin with {digits!r}",
            "take a grant's id, or more of its digits, from `billing credits`",
        )
    return rows[0][0], rows[0][1]


def _refused(problem: str, fix: str) -> CreditRefusedError:
    return CreditRefusedError(problem, bill=_NOTHING, fix=fix)
