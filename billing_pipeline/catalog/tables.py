"""The shapes of catalog entries: a TOML table, or the canonical JSON of it, becomes an entry. Pure.

Strangers write these tables: every field is known, amounts are text or whole numbers, never TOML floats. Not here: the files
and their findings (files), what entries may not say together (validation).
"""

from datetime import time
from typing import Annotated

from pydantic import Field

from billing_pipeline.catalog.entries import (
    Account,
    AccountClient,
    BillableRule,
    Plan,
    Subscription,
)
from billing_pipeline.catalog.fields import Amount, Id, Instant, Status, Table, Text, TimeOfDay, Version
from billing_pipeline.meters import DEFAULT_ENVS, Aggregation, Meter, MeterSource, Missing
from billing_pipeline.periods import BillingAnchor


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
        )


class PlanTable(Table):
    """A plan as a file spells it."""

    id: Id
    version: Version = 1
    prices: tuple[Id, ...]

    def entry(self) -> Plan:
        """Return the entry."""
        return Plan(plan_id=self.id, version=self.version, prices=self.prices)


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

    def entry(self) -> Account:
        """Return the entry."""
        return Account(
            account_id=self.id,
            name=self.name,
            time_zone=self.time_zone,
            currency=self.currency,
            clients=tuple(client.entry() for client in self.clients),
            stripe_customer=self.stripe_customer,
        )


class SubscriptionTable(Table):
    """A subscription as a file spells it; its anchor's zone is the account's."""

    id: Id
    account: Id
    plan: Id
    starts_at: Instant
    ends_at: Instant | None = None
    anchor_day: Annotated[int, Field(strict=True, ge=1, le=31)] = 1
    anchor_time: TimeOfDay = time(0)
    initial_balance: Amount | None = None
    invoice_with: Id | None = None
    stripe_subscription: Annotated[str, Field(pattern=r"^sub_[A-Za-z0-9_]+$")] | None = None

    def entry(self, zone: str) -> Subscription:
        """Return the entry, anchored in `zone`."""
        return Subscription(
            subscription_id=self.id,
            account_id=self.account,
            plan_id=self.plan,
            starts_at=self.starts_at,
            ends_at=self.ends_at,
            anchor=BillingAnchor(day=self.anchor_day, time_of_day=self.anchor_time, zone=zone),
            initial_balance=self.initial_balance,
            invoice_with=self.invoice_with,
            stripe_subscription=self.stripe_subscription,
        )
