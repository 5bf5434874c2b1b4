"""What the catalog says, as values: prices with versions, plans, accounts, subscriptions, the billable rule. Pure.

Instants are aware UTC, amounts exact Decimal in major units. Not here: meters (meters), reading files (files), what may
not stand together (validation), what a price makes of a quantity (rating).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from enum import StrEnum
from functools import cached_property
from typing import TypeVar

from billing_pipeline.amounts import Exact, UnitRounding, exact_product
from billing_pipeline.cadences import MONTHLY, Cadence
from billing_pipeline.catalog.coupons import Coupon, Redemption
from billing_pipeline.catalog.features import Entitlement, Feature, RecurringCredit
from billing_pipeline.catalog.models import (
    Adjustments,
    Commitment,
    Dimension,
    Dynamic,
    FlatFee,
    Graduated,
    GraduatedPercentage,
    Matrix,
    MeteredBalance,
    MinimumSpend,
    Package,
    Percentage,
    PriceModel,
    Standard,
    UsageShape,
    Volume,
    WindowRating,
)
from billing_pipeline.catalog.phases import Existing, Phase, PhaseStatus
from billing_pipeline.errors import BillingError
from billing_pipeline.meters import Meter
from billing_pipeline.periods import Anchored, BillingAnchor, Window

_Entry = TypeVar("_Entry")


class UnknownEntryError(BillingError):
    """An account, plan, price, meter or subscription that the catalog does not hold."""


class Prorate(StrEnum):
    """How amounts for a whole period are shared where it is shortened: by elapsed seconds, by local calendar days, by days of
    months that all have 30, or not at all."""

    SECOND = "second"
    DAY = "day"
    THIRTY_DAY_MONTH = "thirty_day_month"
    NONE = "none"


class Timing(StrEnum):
    """When a price falls due: where its period begins, or where it ends."""

    ADVANCE = "advance"
    ARREARS = "arrears"


class TrialCovers(StrEnum):
    """What a trial leaves out of the bill: everything, or fees alone."""

    ALL = "all"
    FEES = "fees"


class BillingMode(StrEnum):
    """The one way by which a price reaches the customer."""

    INVOICE_ITEMS = "invoice_items"
    STRIPE_METER = "stripe_meter"
    PREPAID_BALANCE = "prepaid_balance"


@dataclass(frozen=True, slots=True, kw_only=True)
class BillableRule:
    """Which requests are billable. Status ranges are inclusive; the method of an endpoint may be "*" for any."""

    version: int
    success_statuses: tuple[tuple[int, int], ...]
    endpoints: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitConversion:
    """Meter units into priced units: times `multiply`, over `divide`, exact; then rounded where `rounding` says so."""

    unit: str
    multiply: Decimal = Decimal(1)
    divide: Decimal = Decimal(1)
    rounding: UnitRounding | None = None

    @property
    def share(self) -> Exact:
        """Return the priced units in one unit of the meter, before any rounding."""
        return exact_product(self.multiply, times=Decimal(1), over=self.divide)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceVersion:
    """What a price asks from `effective_from` (whole UTC hours) until the next version, or `effective_to` (exclusive).

    Tiers, packages and included units go on counting over a change of version, unless this one says `restart_tiers`. With
    `is_included_once` included units are not given anew with each period: they are used up from the subscription's start on. With
    `window` each window is rated by itself, and `commitment` is for each of them; else it is for the whole period.
    """

    version: int
    model: PriceModel
    effective_from: datetime
    effective_to: datetime | None = None
    conversion: UnitConversion | None = None
    included_units: Decimal = Decimal(0)
    is_included_once: bool = False
    restart_tiers: bool = False
    commitment: Commitment | None = None
    window: WindowRating | None = None
    adjustments: Adjustments | None = None

    @property
    def shape(self) -> UsageShape:
        """Return what of usage the version rates."""
        match self.model:
            case Percentage():
                return UsageShape.TRANSACTIONS
            case Matrix():
                return UsageShape.CELLS
        if self.window is not None:
            return UsageShape.WINDOWS
        return UsageShape.LEVELS if self.is_prorated else UsageShape.QUANTITY

    @property
    def is_due_unused(self) -> bool:
        """Tell whether something is charged without any usage: a minimum, a commitment that is trued up, a first fee."""
        hours = self.window.hours if self.window else ()
        commitments = (self.commitment, *(one.commitment for one in hours))
        least = self.adjustments.minimum if self.adjustments else None
        return least is not None or self.has_fee_at_zero or any(one is not None and one.true_up for one in commitments)

    @property
    def is_prorated(self) -> bool:
        """Tell whether tiers are picked by full units of a level, and charged for the share of the period."""
        return isinstance(self.model, Graduated | Volume) and self.model.prorated

    @property
    def has_fee_at_zero(self) -> bool:
        """Tell whether the first tier's flat fee is due without usage."""
        return isinstance(self.model, Graduated | Volume) and self.model.fee_at_zero

    @property
    def allows_negative(self) -> bool:
        """Tell whether a quantity may be below 0: an amount that events carry, a level."""
        return isinstance(self.model, Dynamic) or self.is_prorated

    @property
    def model_name(self) -> str:
        """Return the model as catalog files spell it."""
        match self.model:
            case Standard():
                return "standard"
            case Graduated():
                return "graduated"
            case Volume():
                return "volume"
            case Package():
                return "package"
            case Percentage():
                return "percentage"
            case GraduatedPercentage():
                return "graduated_percentage"
            case Dynamic():
                return "dynamic"
            case Matrix():
                return "matrix"
            case FlatFee():
                return "flat_fee"
            case MinimumSpend():
                return "minimum_spend"
            case MeteredBalance():
                return "metered_balance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A price of one meter (None: a flat fee), charged for each period of its `cadence`. `versions` ascend and do not
    overlap; each one's `effective_to` is set where another follows."""

    price_id: str
    meter_id: str | None
    currency: str
    versions: tuple[PriceVersion, ...]
    group_by: tuple[Dimension, ...] = ()
    prorate: Prorate = Prorate.SECOND
    billing_mode: BillingMode = BillingMode.INVOICE_ITEMS
    cadence: Cadence = MONTHLY
    timing: Timing = Timing.ARREARS

    @property
    def is_prepaid(self) -> bool:
        """Tell whether it takes from the account's balance, minute by minute."""
        return self.billing_mode is BillingMode.PREPAID_BALANCE

    def place(self, field: str = "", *, version: int | None = None) -> "Place":
        """Return where the catalog says it."""
        return Place(kind=Kind.PRICE, entry_id=self.price_id, field=field, version=version)

    @property
    def is_minimum(self) -> bool:
        """Tell whether it is what the subscription's other charges come to at least."""
        return isinstance(self.versions[0].model, MinimumSpend)

    def version_at(self, instant: datetime) -> PriceVersion | None:
        """Return the version in force at `instant`, None before the first and after the last."""
        for version in reversed(self.versions):
            if version.effective_from <= instant:
                return version if version.effective_to is None or instant < version.effective_to else None
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One version of the prices that a subscription is charged by, for who comes to it from `effective_from` on (None:
    always); `existing` says what becomes of those who are on an older one."""

    plan_id: str
    version: int
    prices: tuple[str, ...]
    effective_from: datetime | None = None
    existing: Existing = Existing.STAY
    trial_covers: TrialCovers = TrialCovers.ALL

    def charges(self, price: Price, status: PhaseStatus) -> bool:
        """Tell whether a price of the plan is charged in a phase of that status."""
        match status:
            case PhaseStatus.ACTIVE:
                return True
            case PhaseStatus.PAUSED:
                return False
            case PhaseStatus.TRIAL:
                return self.trial_covers is TrialCovers.FEES and price.meter_id is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountClient:
    """A client id that belongs to the account from `valid_from` until `valid_to`; None is open on that side."""

    client_id: str
    valid_from: datetime | None = None
    valid_to: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who pays: one currency, one IANA zone, and the client ids that call on its behalf.

    `stripe_customer` is its customer there (cus_...), where the catalog says so.
    """

    account_id: str
    name: str
    time_zone: str
    currency: str
    clients: tuple[AccountClient, ...] = ()
    stripe_customer: str | None = None
    coupons: tuple[Redemption, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """An account on plans from `starts_at` until `ends_at` (exclusive; None is open), billed on `anchor` until a phase moves it.

    `phases` follow each other without gap from `starts_at` to `ends_at`; `plan_id` is the first one's. `initial_balance` (major
    units) stands in for that of the plan's prepaid price; None leaves it as it is. `invoice_with` is
    the subscription on whose invoices this one's lines stand; None: on its own. `stripe_subscription` is its subscription at
    Stripe (sub_...), where the catalog says so.
    """

    subscription_id: str
    account_id: str
    plan_id: str
    starts_at: datetime
    ends_at: datetime | None
    anchor: BillingAnchor
    initial_balance: Decimal | None = None
    invoice_with: str | None = None
    stripe_subscription: str | None = None
    phases: tuple[Phase, ...] = ()
    coupons: tuple[Redemption, ...] = ()
    anchored: tuple[Anchored, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.phases:
            only = Phase(starts_at=self.starts_at, ends_at=self.ends_at, plan_id=self.plan_id)
            object.__setattr__(self, "phases", (only,))
        if any(phase.anchor is not None for phase in self.phases):
            anchored = tuple(_anchored(self.phases, self.anchor, self.ends_at))
        else:
            anchored = (Anchored(self.starts_at, self.ends_at, self.anchor),)
        object.__setattr__(self, "anchored", anchored)

    def anchored_at(self, instant: datetime) -> Anchored:
        """Return the anchor in force at `instant`; before the start the first one, after the end the last."""
        for one in reversed(self.anchored):
            if one.starts_at <= instant:
                return one
        return self.anchored[0]

    def period_containing(self, instant: datetime) -> Window:
        """Return the whole period of the anchor that contains `instant`, cut only where the anchor moves."""
        if len(self.anchored) == 1:
            return self.anchor.period_containing(instant)
        one = self.anchored_at(instant)
        whole = one.anchor.period_containing(instant)
        start = whole.start if one is self.anchored[0] else max(whole.start, one.starts_at)
        end = whole.end if one is self.anchored[-1] or one.ends_at is None else min(whole.end, one.ends_at)
        return Window(start, end)

    def phase_at(self, instant: datetime) -> Phase | None:
        """Return the phase that contains `instant`, None before the first and after the last."""
        for phase in self.phases:
            if phase.starts_at <= instant and (phase.ends_at is None or instant < phase.ends_at):
                return phase
        return None


def _anchored(phases: Sequence[Phase], first: BillingAnchor, ends_at: datetime | None) -> Iterator[Anchored]:
    """Yield the anchors of phases, those that follow each other with the same one together."""
    starts_at, anchor = phases[0].starts_at, phases[0].anchor or first
    for phase in phases[1:]:
        if (phase.anchor or first) != anchor:
            yield Anchored(starts_at, phase.starts_at, anchor)
            starts_at, anchor = phase.starts_at, phase.anchor or first
    yield Anchored(starts_at, ends_at, anchor)


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Everything that decides a bill, by id; of a plan its newest version, all of them in `plan_versions`. `sha256` is over
    the canonical content, not over the bytes of files."""

    billable_rule: BillableRule
    meters: Mapping[str, Meter]
    prices: Mapping[str, Price]
    plans: Mapping[str, Plan]
    accounts: Mapping[str, Account]
    subscriptions: Mapping[str, Subscription]
    features: Mapping[str, Feature] = field(default_factory=dict)
    entitlements: Mapping[str, Entitlement] = field(default_factory=dict)
    recurring_credits: Mapping[str, RecurringCredit] = field(default_factory=dict)
    coupons: Mapping[str, Coupon] = field(default_factory=dict)
    contents: tuple["EntryContent", ...] = field(repr=False)
    plan_versions: Mapping[tuple[str, int], Plan] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        """Return the digest by which a charge names the catalog that it was rated with."""
        lines = sorted(f"{entry.kind}|{entry.entry_id}|{entry.version}|{entry.sha256}" for entry in self.contents)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @cached_property
    def subscriptions_by_account(self) -> Mapping[str, tuple[Subscription, ...]]:
        """Return the subscriptions of each account that has any."""
        found: dict[str, list[Subscription]] = {}
        for subscription in self.subscriptions.values():
            found.setdefault(subscription.account_id, []).append(subscription)
        return {account_id: tuple(subscriptions) for account_id, subscriptions in found.items()}

    def account(self, account_id: str) -> Account:
        """Return the account with that id.

        Raises:
            UnknownEntryError: the catalog has none.
        """
        return _found(self.accounts, account_id, "account")

    def price(self, price_id: str) -> Price:
        """Return the price with that id.

        Raises:
            UnknownEntryError: the catalog has none.
        """
        return _found(self.prices, price_id, "price")

    def plan_of(self, phase: Phase) -> Plan:
        """Return the version of the plan that the phase is on."""
        return self.plan_versions[phase.plan_id, phase.plan_version]

    def prices_of(self, subscription: Subscription) -> tuple[Price, ...]:
        """Return the prices of the subscription's plans, each once, in the order of its phases and of their plans."""
        ids = dict.fromkeys(price_id for phase in subscription.phases for price_id in self.plan_of(phase).prices)
        return tuple(self.prices[price_id] for price_id in ids)


def _found(entries: Mapping[str, _Entry], entry_id: str, kind: str) -> _Entry:
    try:
        return entries[entry_id]
    except KeyError:
        near = get_close_matches(entry_id, entries, n=3)
        raise UnknownEntryError(
            f"the catalog has no {kind} {entry_id!r}" + (f" (close: {', '.join(near)})" if near else ""),
            bill="there is nothing to show or rate for it",
            fix=f"use an id of the {kind}s in the catalog folder, or add it there and load the catalog",
        ) from None


class Kind(StrEnum):
    """The kinds of catalog entries, as table `catalog.entry` spells them."""

    BILLABLE_RULE = "billable_rule"
    METER = "meter"
    PRICE = "price"
    PLAN = "plan"
    ACCOUNT = "account"
    SUBSCRIPTION = "subscription"
    FEATURE = "feature"
    ENTITLEMENT = "entitlement"
    RECURRING_CREDIT = "recurring_credit"
    COUPON = "coupon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An entry of the catalog, and a field of it (`tiers`, `versions.2.tiers`); `version` is that of a price's version."""

    kind: Kind
    entry_id: str
    field: str = ""
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryContent:
    """One version of one entry in canonical JSON (sorted keys, amounts as text, instants in UTC) with its digest."""

    kind: Kind
    entry_id: str
    version: int
    json: str
    sha256: str


# One encoder for all: making it costs as much as an entry.
_canonical_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def content_of(*, kind: Kind, entry_id: str, version: int, content: Mapping[str, object]) -> EntryContent:
    """Return the canonical content of an entry given as a plain mapping."""
    text = _canonical_json(content)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return EntryContent(kind=kind, entry_id=entry_id, version=version, json=text, sha256=digest)
