"""The shapes of catalog entries: a TOML table, or the canonical JSON of it, becomes an entry. Pure.

Strangers write these tables: every field is known, amounts are text or whole numbers, never TOML floats. Not here:
subscriptions (subscription_tables), the files and their findings (files), what entries may not say together (validation).
"""

from typing import Annotated

from pydantic import Field

from billing_pipeline.catalog.coupons import RedemptionTable
from billing_pipeline.catalog.entries import (
    Account,
    AccountClient,
    BillableRule,
    Plan,
    TrialCovers,
)
from billing_pipeline.catalog.fields import Amount, Id, Instant, Status, Table, Text, Version
from billing_pipeline.catalog.phases import Existing
from billing_pipeline.meters import DEFAULT_ENVS, Aggregation, LevelFold, Meter, MeterSource, Missing, TransactionDetail
from billing_pipeline.sources.personal_names import Pseudonymise, has_address, without_addresses


class _Endpoint(Table):
    method: Annotated[str, Field(pattern=r"^(\*|[A-Z]+)$")] = "*"
    endpoint: Text


class BillableRuleTable(Table):
    """Which requests are billable, as a file spells it."""

    version: Version
    success_statuses: tuple[tuple[Status, Status], ...]
    endpoints: tuple[_Endpoint, ...]

    def entry(self) -> BillableRule:
        """Return the entry."""
        return BillableRule(
            version=self.version,
            success_statuses=self.success_statuses,
            endpoints=frozenset((endpoint.method, endpoint.endpoint) for endpoint in self.endpoints),
        )


class MeterTable(Table):
    """A meter as a file spells it."""

    id: Id
    version: Version = 1
    aggregation: Aggregation
    unit: Text
    field: str | None = None
    percentile: Amount | None = None
    endpoints: tuple[Text, ...] | None = None
    methods: tuple[Text, ...] | None = None
    bucket_seconds: int | None = None
    missing: Missing = Missing.ZERO
    source: MeterSource = MeterSource.API_REQUESTS
    envs: tuple[Text, ...] | None = None
    transactions: TransactionDetail | None = None
    level: LevelFold | None = None
    lowered_by: tuple[Text, ...] = ()
    is_set: bool = False

    def entry(self) -> Meter:
        """Return the entry."""
        return Meter(
            meter_id=self.id,
            version=self.version,
            aggregation=self.aggregation,
            unit=self.unit,
            field=self.field,
            percentile=self.percentile,
            endpoints=None if self.endpoints is None else frozenset(self.endpoints),
            methods=None if self.methods is None else frozenset(self.methods),
            bucket_seconds=self.bucket_seconds,
            missing=self.missing,
            source=self.source,
            envs=DEFAULT_ENVS if self.envs is None else frozenset(self.envs),
            transactions=self.transactions,
            level=self.level,
            lowered_by=frozenset(self.lowered_by),
            is_set=self.is_set,
        )


class PlanTable(Table):
    """A version of a plan as a file spells it."""

    id: Id
    version: Version = 1
    prices: tuple[Id, ...]
    effective_from: Instant | None = None
    existing: Existing = Existing.STAY
    trial_covers: TrialCovers = TrialCovers.ALL

    def entry(self) -> Plan:
        """Return the entry."""
        return Plan(
            plan_id=self.id,
            version=self.version,
            prices=self.prices,
            effective_from=self.effective_from,
            existing=self.existing,
            trial_covers=self.trial_covers,
        )


class _Client(Table):
    id: Text
    valid_from: Instant | None = None
    valid_to: Instant | None = None

    def entry(self) -> AccountClient:
        return AccountClient(client_id=self.id, valid_from=self.valid_from, valid_to=self.valid_to)


class AccountTable(Table):
    """An account as a file spells it."""

    id: Id
    name: Text
    time_zone: str = "UTC"
    currency: str
    clients: tuple[_Client, ...] = ()
    stripe_customer: Annotated[str, Field(pattern=r"^cus_[A-Za-z0-9_]+$")] | None = None
    coupons: tuple[RedemptionTable, ...] = ()

    def entry(self) -> Account:
        """Return the entry."""
        return Account(
            account_id=self.id,
            name=self.name,
            time_zone=self.time_zone,
            currency=self.currency,
            clients=tuple(client.entry() for client in self.clients),
            stripe_customer=self.stripe_customer,
            coupons=tuple(coupon.entry() for coupon in self.coupons),
        )

    def without_addresses(self, pseudonymise: Pseudonymise) -> "AccountTable":
        """Return it with clients as deliveries spell them: a keyed pseudonym in the place of each e-mail address."""
        clients = tuple(
            client.model_copy(update={"id": without_addresses(client.id, pseudonymise)})
            if has_address(client.id)
            else client
            for client in self.clients
        )
        return self if clients == self.clients else self.model_copy(update={"clients": clients})
