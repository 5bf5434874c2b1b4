"""The shapes of a subscription and of its changes: a TOML table, or the canonical JSON of it. Pure.

Not here: what the changes come to (phases), what subscriptions may not say (subscription_validation).
"""

from datetime import time
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from billing_pipeline.catalog.coupons import RedemptionTable
from billing_pipeline.catalog.fields import Amount, Every, Id, Instant, Table, Text, TimeOfDay, Version
from billing_pipeline.catalog.phases import Beginning, Change, PhaseStatus
from billing_pipeline.periods import BillingAnchor


class ChangeTable(Table):
    """A dated change of a subscription as a file spells it. A `note` is for readers."""

    at: Instant
    at_end_of: Every | None = None
    plan: Id | None = None
    plan_version: Version | None = None
    quantities: dict[Id, Amount] | None = None
    status: Literal[PhaseStatus.ACTIVE, PhaseStatus.PAUSED] | None = None
    trial_until: Instant | None = None
    cancel: bool | None = None
    note: Text | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        effects = ("plan", "plan_version", "quantities", "status", "trial_until", "cancel")
        said = {name for name in effects if getattr(self, name) is not None}
        if not said:
            raise ValueError("says nothing: give plan, quantities, status, trial_until or cancel")
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
        )


class SubscriptionTable(Table):
    """A subscription as a file spells it; its anchor's zone is the account's, unless it says another."""

    id: Id
    account: Id
    plan: Id
    plan_version: Version | None = None
    starts_at: Instant
    ends_at: Instant | None = None
    trial_until: Instant | None = None
    quantities: dict[Id, Amount] | None = None
    anchor_day: Annotated[int, Field(strict=True, ge=1, le=31)] = 1
    anchor_time: TimeOfDay = time(0)
    anchor_month: Annotated[int, Field(strict=True, ge=1, le=12)] | None = None
    anchor_zone: str | None = None
    initial_balance: Amount | None = None
    invoice_with: Id | None = None
    stripe_subscription: Annotated[str, Field(pattern=r"^sub_[A-Za-z0-9_]+$")] | None = None
    changes: tuple[ChangeTable, ...] = ()
    coupons: tuple[RedemptionTable, ...] = ()

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
