"""The shapes of a subscription and of its changes: a TOML table, or the canonical JSON of it. Pure.

Not here: what the changes come to (phases), what subscriptions may not say (subscription_validation).
"""

from datetime import time
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from billing_pipeline.catalog.coupons import RedemptionTable
from billing_pipeline.catalog.fields import Amount, Every, Id, Instant, Table, Text, TimeOfDay, Version
from billing_pipeline.catalog.phases import AnchorMove, Beginning, Change, PhaseStatus
from billing_pipeline.periods import BillingAnchor

_ANCHOR = ("anchor_day", "anchor_time", "anchor_month")


class ChangeTable(Table):
    """A dated change of a subscription as a file spells it. A `note` is for readers."""

    at: Instant
    """The instant of the change; it may lie in the past, and everything since is booked again as a difference."""
    at_end_of: Every | None = None
    """Take effect where the period that contains `at` ends: month, quarter, year and so on. Left out: at once."""
    plan: Id | None = None
    """The plan from then on."""
    plan_version: Version | None = None
    """Stay on that version of the plan, whatever comes after it."""
    quantities: dict[Id, Amount] | None = None
    """Quantities from then on, such as { seat = 7 }; those that are not named stay."""
    status: Literal[PhaseStatus.ACTIVE, PhaseStatus.PAUSED] | None = None
    """paused: nothing is charged from then on; active: it is again."""
    trial_until: Instant | None = None
    """Make the trial longer or shorter."""
    cancel: bool | None = None
    """true ends the subscription; false takes a cancellation back that has not taken effect."""
    anchor_day: Annotated[int, Field(strict=True, ge=1, le=31)] | None = None
    """The day of the month on which periods begin from then on; the period is cut there, fees are prorated."""
    anchor_time: TimeOfDay | None = None
    """The local time of day at which periods begin from then on."""
    anchor_month: Annotated[int, Field(strict=True, ge=1, le=12)] | None = None
    """A month (1 to 12) in which quarters, years and the like begin from then on."""
    note: Text | None = None
    """For readers: why."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        effects = ("plan", "plan_version", "quantities", "status", "trial_until", "cancel", *_ANCHOR)
        said = {name for name in effects if getattr(self, name) is not None}
        if not said:
            raise ValueError("says nothing: give plan, quantities, status, trial_until, cancel or anchor_day")
        if self.cancel is not None and said != {"cancel"}:
            raise ValueError("cancel stands alone: put the rest into a change of its own")
        if self.cancel is False and self.at_end_of is not None:
            raise ValueError("a cancellation is taken back at once: leave at_end_of out")
        if self.plan_version is not None and self.plan is None:
            raise ValueError("plan_version goes with plan")
        return self

    def entry(self) -> Change:
        return Change(
            at=self.at,
            at_end_of=self.at_end_of,
            plan=self.plan,
            plan_version=self.plan_version,
            quantities=self.quantities or {},
            status=self.status,
            trial_until=self.trial_until,
            cancel=self.cancel,
            anchor=self._anchor_move(),
        )

    def _anchor_move(self) -> AnchorMove | None:
        if all(getattr(self, name) is None for name in _ANCHOR):
            return None
        return AnchorMove(day=self.anchor_day, time_of_day=self.anchor_time, month=self.anchor_month)


class SubscriptionTable(Table):
    """A subscription as a file spells it; its anchor's zone is the account's, unless it says another."""

    id: Id
    """The name of the subscription; an id is used once."""
    account: Id
    """Who pays."""
    plan: Id
    """The plan with which it begins."""
    plan_version: Version | None = None
    """Stay on that version of the plan; left out: the one in force, and what later versions say of existing ones."""
    starts_at: Instant
    """The first instant that is charged: 2026-01-01T08:00:00Z."""
    ends_at: Instant | None = None
    """The first instant that is not charged any more; left out: open."""
    trial_until: Instant | None = None
    """The end of its trial, in which the plan's trial_covers is not charged."""
    quantities: dict[Id, Amount] | None = None
    """How many of what it has, for fees with per: { seat = 5 }."""
    anchor_day: Annotated[int, Field(strict=True, ge=1, le=31)] = 1
    """The day of the month on which its periods begin; 31 is the last day of shorter months."""
    anchor_time: TimeOfDay = time(0)
    """The local time of day at which its periods begin."""
    anchor_month: Annotated[int, Field(strict=True, ge=1, le=12)] | None = None
    """A month (1 to 12) in which quarters, years and the like begin; left out: counted from the start."""
    anchor_zone: str | None = None
    """The IANA time zone of the anchor, where it is not the account's."""
    initial_balance: Amount | None = None
    """What a prepaid account begins with, in place of its price's, in major units."""
    invoice_with: Id | None = None
    """Another subscription of the account, on whose invoices its lines stand."""
    stripe_subscription: Annotated[str, Field(pattern=r"^sub_[A-Za-z0-9_]+$")] | None = None
    """Its subscription at Stripe (sub_...), where the catalog decides that."""
    changes: tuple[ChangeTable, ...] = ()
    """What changed since, each with its instant. Changes are added, never edited once charges rest on them."""
    coupons: tuple[RedemptionTable, ...] = ()
    """Coupons that this subscription has, each since when."""

    def beginning(self, zone: str) -> Beginning:
        """Return how it begins, anchored in `zone`, or its own."""
        return Beginning(
            starts_at=self.starts_at,
            ends_at=self.ends_at,
            anchor=BillingAnchor(
                day=self.anchor_day,
                time_of_day=self.anchor_time,
                zone=self.anchor_zone or zone,
                month=self.anchor_month,
            ),
            plan=self.plan,
            plan_version=self.plan_version,
            quantities=self.quantities or {},
            trial_until=self.trial_until,
        )
