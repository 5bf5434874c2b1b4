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
    """The HTTP method in capitals, or "*" for any."""
    endpoint: Text
    """The endpoint template as deliveries spell it: "/v2.0/vehicles/{id}/odometer"."""


class BillableRuleTable(Table):
    """Which requests are billable, as a file spells it."""

    version: Version
    """Raised by whoever changes the rule after charges rest on it."""
    success_statuses: tuple[tuple[Status, Status], ...]
    """Ranges of status codes that are billable, both ends included: [[200, 299]]."""
    endpoints: tuple[_Endpoint, ...]
    """The endpoints that are billable; no other is."""

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
    """The name of the meter, by which prices and features name it."""
    version: Version = 1
    """Raised by whoever changes the meter after charges rest on it."""
    aggregation: Aggregation
    """What is made of records: count, sum, min, max, mean, unique, latest, percentile, time_weighted or level."""
    unit: Text
    """What it counts, as bills show it: "request"."""
    field: str | None = None
    """The field of a record that is added up, compared or told apart; a count has none."""
    percentile: Amount | None = None
    """Of a percentile: which one, above 0 and up to 100: "95"."""
    endpoints: tuple[Text, ...] | None = None
    """Count only these endpoint templates; left out, all billable ones."""
    methods: tuple[Text, ...] | None = None
    """Count only these HTTP methods; left out, all."""
    bucket_seconds: int | None = None
    """The length of the buckets that a percentile, or a price by windows below an hour, tells apart."""
    missing: Missing = Missing.ZERO
    """What a bucket without data counts in a percentile: zero, or not at all (skip)."""
    source: MeterSource = MeterSource.API_REQUESTS
    """What it measures: api_requests, traffic or storage."""
    envs: tuple[Text, ...] | None = None
    """Of traffic: the environments whose counters it reads."""
    transactions: TransactionDetail | None = None
    """Keep the amounts of single records for percentage prices: counted, or ordered by time where some are free."""
    level: LevelFold | None = None
    """Of a level: how a period makes one quantity of it: its mean over time, or its highest."""
    lowered_by: tuple[Text, ...] = ()
    """Of a level: HTTP methods whose records lower it instead of raising it."""
    is_set: bool = False
    """Of a level: whether a record says the new level, not by how much it changes."""

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
    """The name of the plan, by which subscriptions and entitlements name it."""
    version: Version = 1
    """The number of this version of the plan, from 1."""
    prices: tuple[Id, ...]
    """The prices that a subscription on the plan is charged by."""
    effective_from: Instant | None = None
    """The instant from which whoever comes to the plan gets this version; left out: always."""
    existing: Existing = Existing.STAY
    """What becomes of those on an older version: stay, move (at effective_from) or next_period (when their month ends)."""
    trial_covers: TrialCovers = TrialCovers.ALL
    """What a trial leaves out of the bill: all, or fees alone."""

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
    """A client id as deliveries spell it."""
    valid_from: Instant | None = None
    """The instant from which it calls on behalf of the account; left out: always."""
    valid_to: Instant | None = None
    """The instant from which it does so no more; left out: open."""

    def entry(self) -> AccountClient:
        return AccountClient(client_id=self.id, valid_from=self.valid_from, valid_to=self.valid_to)


class AccountTable(Table):
    """An account as a file spells it."""

    id: Id
    """The name of the account, by which subscriptions and the ledger name it."""
    name: Text
    """Who it is, for readers of bills."""
    time_zone: str = "UTC"
    """The IANA time zone in which its billing periods are counted, such as "Europe/Berlin"."""
    currency: str
    """Three capital letters of ISO 4217: what the account pays in."""
    clients: tuple[_Client, ...] = ()
    """The client ids (of traffic: uuids; of storage: owners) whose usage is the account's, each with its time."""
    stripe_customer: Annotated[str, Field(pattern=r"^cus_[A-Za-z0-9_]+$")] | None = None
    """Its customer at Stripe (cus_...), where the catalog decides that."""
    coupons: tuple[RedemptionTable, ...] = ()
    """Coupons that all subscriptions of the account have, each since when."""

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
