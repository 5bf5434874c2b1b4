"""Bring all accounts in step, or one on demand: compile, find who is due, work on several at once at the pace of the limits.

An account whose invoices say what Stripe was last seen to hold costs no call; once in `verify_every` it is looked at again, a
hundred items a call for all accounts together. One account that fails is one finding; the others go on. When Stripe is away the
run ends at once and the next one goes on. Not here: one account (account_sync), renewals (true_up).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import psycopg

from billing_pipeline.catalog import Catalog
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.items import CompiledInvoice
from billing_pipeline.stripe_sync.policy import SyncPolicy
from resources.catalog_store import current_catalog
from resources.database import Database
from resources.invoicing.invoice_store import InvoiceStore
from resources.stripe_api.calls import Json
from resources.stripe_api.errors import StripeDeniedError, StripeUnavailableError
from resources.stripe_mirror import changed_accounts
from resources.stripe_mirror.links import stripe_links
from resources.stripe_sync import intent_store, sync_store
from resources.stripe_sync.account_sync import AccountOutcome, AccountSync, wanted_digest_of
from resources.stripe_sync.accounts import StripeAccount, stripe_accounts
from resources.stripe_sync.held import list_all
from resources.stripe_sync.intent_store import Purpose, Write
from resources.stripe_sync.meter_errors import tell_meter_errors
from resources.stripe_sync.meter_writer import MeterUnusableError, MeterWriter, usable_meters
from resources.stripe_sync.sync_store import FindingKind, RunCounts, SyncState
from resources.stripe_sync.work import Worked, work_on
from resources.stripe_sync.writer import Reached, nothing_reached

if TYPE_CHECKING:
    from resources.stripe_api.gateway import StripeGateway

# From so many accounts on, one list of all is cheaper than a list for each.
_LIST_ALL_FROM = 10
# A demand looks at Stripe again only when the last look is older: 50 demands at once are one sync.
DEMAND_FRESH_SECONDS = 60.0


class AccountNotLinkedError(BillingError):
    """An account that has no customer at Stripe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """What a run came to. `outcomes` are of the accounts that were worked on; `skipped` were in step already."""

    run_id: str
    outcomes: tuple[AccountOutcome, ...]
    skipped: int
    unlinked: tuple[str, ...]
    left_over: tuple[str, ...]
    reads: int
    writes: int
    problem: str | None = None

    @property
    def failed(self) -> tuple[AccountOutcome, ...]:
        """Return the accounts that need a person."""
        return tuple(one for one in self.outcomes if one.state is SyncState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeSync:
    """The sync of one installation. `gateway` is opened when it is needed: an installation without a key reads its state all the
    same. `clock` tells the time by which keys age."""

    database: Database
    store: InvoiceStore
    gateway: Callable[[], "StripeGateway"]
    policy: SyncPolicy = field(default_factory=SyncPolicy)
    clock: Callable[[], datetime]
    sleep: Callable[[float], None] = time.sleep
    reached: Reached = nothing_reached

    def run(
        self,
        *,
        run_id: str,
        purpose: Purpose = Purpose.DAILY,
        accounts: Sequence[str] | None = None,
        verify: bool = False,
    ) -> SyncReport:
        """Bring `accounts`, or all that are due, in step. `verify`: look at those that have not changed as well.

        Raises:
            StripeKeyError: there is no usable key.
            CatalogNotLoadedError: there is no catalog.
        """
        began_at = self.clock()
        gateway = self.gateway()
        self.store.compile_invoices(as_of=began_at, accounts=accounts)
        linked, invoices, unlinked = self._accounts(accounts)
        self._tell_unlinked(unlinked, linked, run_id)
        tell_meter_errors(self.database, now=began_at)
        changed = self._changed_at_stripe()
        due = self._due(linked, invoices, began_at, changed=frozenset(changed), verify=verify)
        sync_store.begin_run(self.database, run_id, purpose, now=began_at)
        before = gateway.calls_made
        worked: Worked[StripeAccount, AccountOutcome] = Worked(results=(), left_over=due, problem=None)
        try:
            listing = None
            if len(due) >= _LIST_ALL_FROM:
                with self.database.reading() as connection:
                    newest = intent_store.newest_number(connection)
                listing = list_all(gateway, since=_since(due, invoices, began_at), after_intent=newest)
            meters = usable_meters(gateway, self.policy) if due else {}
            worked = work_on(
                self.database,
                due,
                lambda connection, account: self._account_sync(
                    gateway, connection, run_id, purpose, meters, again=verify
                ).sync(account, fresh_for_seconds=0, listing=listing),
                concurrency=self.policy.concurrency,
            )
        except (StripeUnavailableError, StripeDeniedError) as error:
            # Already the list of all could not be read.
            worked = Worked(results=(), left_over=due, problem=error.what)
        self._looked_at(changed, worked.results)
        made = gateway.calls_made
        report = SyncReport(
            run_id=run_id,
            outcomes=worked.results,
            skipped=len(linked) - len(due),
            unlinked=tuple(sorted(unlinked)),
            left_over=tuple(one.account_id for one in worked.left_over),
            reads=made.reads - before.reads,
            writes=made.writes - before.writes,
            problem=worked.problem,
        )
        sync_store.end_run(self.database, run_id, _counts(report), now=self.clock())
        return report

    def demand(self, account_id: str, *, run_id: str) -> AccountOutcome:
        """Bring one account in step now. Demands at the same time wait for the first, and find the work done.

        Raises:
            AccountNotLinkedError: it has no customer at Stripe.
            StripeUnavailableError, StripeDeniedError: Stripe is away, or the key may not.
            UnknownEntryError: the catalog has no such account.
        """
        gateway = self.gateway()
        account = self._linked(account_id)
        self.store.compile_invoices(as_of=self.clock(), accounts=[account_id])
        with closing(self.database.connect()) as connection:
            connection.autocommit = True
            meters = usable_meters(gateway, self.policy)
            sync = self._account_sync(gateway, connection, run_id, Purpose.DEMAND, meters)
            return sync.sync(account, fresh_for_seconds=DEMAND_FRESH_SECONDS)

    def preview(self, accounts: Sequence[str] | None = None) -> Iterator[tuple[str, tuple[Write, ...] | str]]:
        """Yield, for each linked account, the exact calls that a sync would make, or why it would make none. Writes nothing.

        Invoices are taken as they were last compiled.

        Raises:
            StripeUnavailableError, StripeDeniedError, StripeKeyError: Stripe cannot be read.
        """
        gateway = self.gateway()
        linked, _, unlinked = self._accounts(accounts)
        for account_id in sorted(unlinked):
            yield account_id, "it has no customer at Stripe"
        with closing(self.database.connect()) as connection:
            connection.autocommit = True
            meters = usable_meters(gateway, self.policy)
            sync = self._account_sync(gateway, connection, "dry run", Purpose.DEMAND, meters)
            for account in linked.values():
                try:
                    yield account.account_id, sync.preview(account)
                except (StripeUnavailableError, StripeDeniedError):
                    raise
                except BillingError as error:
                    yield account.account_id, error.what

    def _account_sync(
        self,
        gateway: "StripeGateway",
        connection: psycopg.Connection,
        run_id: str,
        purpose: Purpose,
        meters: Mapping[str, Json | MeterUnusableError],
        *,
        again: bool = False,
    ) -> AccountSync:
        return AccountSync(
            store=self.store,
            gateway=gateway,
            connection=connection,
            policy=self.policy,
            run_id=run_id,
            purpose=purpose,
            clock=self.clock,
            meters=MeterWriter(gateway=gateway, connection=connection, policy=self.policy, meters=meters),
            again=again,
            sleep=self.sleep,
            reached=self.reached,
        )

    def _accounts(
        self, accounts: Sequence[str] | None
    ) -> tuple[Mapping[str, StripeAccount], Mapping[str, tuple[CompiledInvoice, ...]], frozenset[str]]:
        """Return the linked accounts, the open invoices of all, and who is not linked and has something to charge."""
        with self.database.reading() as connection:
            catalog = current_catalog(connection)
            links = stripe_links(connection, accounts=accounts)
        linked = stripe_accounts(links, catalog)
        invoices: dict[str, list[CompiledInvoice]] = {}
        for _, compiled in self.store.open_invoices(accounts):
            invoices.setdefault(compiled.account_id, []).append(compiled)
        unlinked = frozenset(
            account_id
            for account_id, found in invoices.items()
            if account_id not in linked and any(compiled.items for compiled in found)
        )
        return linked, {account_id: tuple(found) for account_id, found in invoices.items()}, unlinked

    def _linked(self, account_id: str) -> StripeAccount:
        with self.database.reading() as connection:
            catalog: Catalog = current_catalog(connection)
            catalog.account(account_id)
            links = stripe_links(connection, accounts=[account_id])
        found = stripe_accounts(links, catalog).get(account_id)
        if found is None:
            raise AccountNotLinkedError(
                f"account {account_id!r} has no customer at Stripe",
                bill="its invoices are compiled and shown here, and sent nowhere.",
                fix="set stripe_customer in catalog/accounts.toml, or bp_account in the customer's metadata at Stripe.",
            )
        return found

    def _due(
        self,
        linked: Mapping[str, StripeAccount],
        invoices: Mapping[str, tuple[CompiledInvoice, ...]],
        now: datetime,
        *,
        changed: frozenset[str],
        verify: bool,
    ) -> tuple[StripeAccount, ...]:
        with self.database.reading() as connection:
            states = sync_store.account_states(connection)
            unfinished = intent_store.customers_with_open_intents(connection)
            unfinished |= sync_store.customers_with_unconfirmed_totals(connection)
        due = []
        for account_id, account in sorted(linked.items()):
            state = states.get(account_id)
            is_in_step = (
                state is not None
                and state.state is SyncState.IN_STEP
                and state.verified_at is not None
                and now - state.verified_at < self.policy.verify_every
                and account.customer_id not in unfinished
                and state.wanted_digest == _digest(account, invoices.get(account_id, ()))
            )
            if verify or account_id in changed or not is_in_step:
                due.append(account)
        return tuple(due)

    def _changed_at_stripe(self) -> Mapping[str, int]:
        """Return the accounts of which something at Stripe is not as the sync left it, by the mirror's word."""
        with self.database.reading() as connection:
            return changed_accounts.changed(connection)

    def _looked_at(self, changed: Mapping[str, int], outcomes: Sequence[AccountOutcome]) -> None:
        seen = {one.account_id for one in outcomes if one.state is not SyncState.BEHIND}
        with self.database.transaction() as connection:
            changed_accounts.looked_at(
                connection, {account_id: number for account_id, number in changed.items() if account_id in seen}
            )

    def _tell_unlinked(self, unlinked: frozenset[str], linked: Mapping[str, StripeAccount], run_id: str) -> None:
        now = self.clock()
        problem = "it has no customer at Stripe: its invoices are compiled and shown here, and sent nowhere"
        with self.database.transaction() as connection:
            for account_id in sorted(unlinked):
                sync_store.put_not_in_step(
                    connection, account_id, None, SyncState.UNLINKED, problem=problem, run_id=run_id, now=now
                )
                sync_store.open_finding(
                    connection, FindingKind.ACCOUNT_UNLINKED, account_id, problem, account_id=account_id, now=now
                )
            sync_store.close_findings(connection, FindingKind.ACCOUNT_UNLINKED, list(linked), now=now)
            sync_store.close_findings(connection, FindingKind.ACCOUNT_FAILED, list(unlinked), now=now)


def _digest(account: StripeAccount, invoices: tuple[CompiledInvoice, ...]) -> str | None:
    """Return what is wanted of the account, None where it cannot be said: the account's own sync tells why."""
    try:
        return wanted_digest_of(account, invoices)
    except BillingError:
        return None


def _since(
    due: Sequence[StripeAccount], invoices: Mapping[str, tuple[CompiledInvoice, ...]], now: datetime
) -> datetime:
    periods = [compiled.period.start for one in due for compiled in invoices.get(one.account_id, ())]
    return min(periods, default=now)


def _counts(report: SyncReport) -> RunCounts:
    return RunCounts(
        accounts=len(report.outcomes),
        in_step=sum(one.state is SyncState.IN_STEP for one in report.outcomes),
        failed=len(report.failed),
        left_over=len(report.left_over),
        reads=report.reads,
        writes=report.writes,
        problem=report.problem,
    )
