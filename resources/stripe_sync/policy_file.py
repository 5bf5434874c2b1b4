"""Read what this installation decides about Stripe: `stripe.toml` in the catalog folder -> a `SyncPolicy`. No file: defaults.

Not here: what the decisions mean (billing_pipeline.stripe_sync.policy), keys and addresses (settings).
"""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from billing_pipeline.catalog.fields import Amount
from billing_pipeline.errors import BillingError
from billing_pipeline.stripe_sync.credit_split import Excess
from billing_pipeline.stripe_sync.policy import INTERVALS, Collection, MeterRoute, SyncPolicy
from resources.policy_table import PolicyTable, found_in, read_policy

POLICY_FILE = "stripe.toml"
_Hours = Annotated[int, Field(strict=True, ge=1, le=72)]
_Minutes = Annotated[int, Field(strict=True, ge=1, le=600)]


class StripePolicyError(BillingError):
    """stripe.toml says what cannot be."""


class _Sync(PolicyTable):
    daily_push: Annotated[bool, Field(strict=True)] = True
    every_minutes: Annotated[int, Field(strict=True)] = 60
    concurrency: Annotated[int, Field(strict=True, ge=1, le=32)] = 8
    verify_every_hours: Annotated[int, Field(strict=True, ge=1, le=24 * 7)] = 20

    @field_validator("every_minutes")
    @classmethod
    def _is_an_interval(cls, minutes: int) -> int:
        if minutes not in INTERVALS:
            raise ValueError(f"a schedule runs every {', '.join(map(str, INTERVALS))} minutes")
        return minutes


class _TrueUp(PolicyTable):
    renewal_reasons: tuple[str, ...] = ("subscription_cycle",)
    hold_hours: _Hours = 24
    release_minutes: _Minutes = 10
    safe_minutes: _Minutes = 20
    retry_minutes: _Minutes = 10


class _OwnInvoices(PolicyTable):
    collection: Collection = Collection.CHARGE_AUTOMATICALLY
    days_until_due: Annotated[int, Field(strict=True, ge=0, le=365)] = 30


class _CreditNotes(PolicyTable):
    paid_money_becomes: Excess = Excess.BALANCE
    mail_customer: Annotated[bool, Field(strict=True)] = False


class _Meter(PolicyTable):
    price: Annotated[str, Field(min_length=1)]
    event_name: Annotated[str, Field(min_length=1, max_length=100)]
    multiply: Amount = Decimal(1)
    api: str = "meter_events"

    @field_validator("api")
    @classmethod
    def _is_there(cls, api: str) -> str:
        if api != "meter_events":
            raise ValueError(
                f"{api!r} is no way to tell usage: Stripe has removed usage records (API 2025-03-31); it takes meter_events, on a "
                "meter with formula last"
            )
        return api

    @field_validator("multiply")
    @classmethod
    def _is_above_nothing(cls, multiply: Decimal) -> Decimal:
        if multiply <= 0:
            raise ValueError("a quantity is multiplied by more than 0")
        return multiply


class _Meters(PolicyTable):
    confirm_within_minutes: _Minutes = 60


class _File(PolicyTable):
    sync: _Sync = _Sync()
    true_up: _TrueUp = _TrueUp()
    own_invoices: _OwnInvoices = _OwnInvoices()
    credit_notes: _CreditNotes = _CreditNotes()
    meters: _Meters = _Meters()
    meter: tuple[_Meter, ...] = ()


def load_sync_policy(folder: Path) -> SyncPolicy:
    """Return what `stripe.toml` in `folder` decides; the defaults where there is no such file.

    Raises:
        StripePolicyError: the file cannot be read, or says what cannot be.
    """
    path = folder / POLICY_FILE
    found = read_policy(path, _File, _wrong)
    routes = {
        one.price: MeterRoute(price_id=one.price, event_name=one.event_name, multiply=one.multiply)
        for one in found.meter
    }
    if len(routes) < len(found.meter):
        raise _wrong(path, ["meter: a price has one block"])
    return SyncPolicy(
        daily_push=found.sync.daily_push,
        every_minutes=found.sync.every_minutes,
        concurrency=found.sync.concurrency,
        verify_every=timedelta(hours=found.sync.verify_every_hours),
        renewal_reasons=frozenset(found.true_up.renewal_reasons),
        hold_at_most=timedelta(hours=found.true_up.hold_hours),
        release_after=timedelta(minutes=found.true_up.release_minutes),
        safe_time=timedelta(minutes=found.true_up.safe_minutes),
        retry_after=timedelta(minutes=found.true_up.retry_minutes),
        collection=found.own_invoices.collection,
        days_until_due=found.own_invoices.days_until_due,
        credit_excess=found.credit_notes.paid_money_becomes,
        mail_credit_notes=found.credit_notes.mail_customer,
        meters=routes,
        confirm_meters_within=timedelta(minutes=found.meters.confirm_within_minutes),
    )


def _wrong(path: Path, problems: Sequence[str]) -> StripePolicyError:
    return StripePolicyError(
        found_in(path, problems),
        bill="nothing is sent to Stripe until it is corrected; what is there stays",
        fix="correct every line above; leaving one out takes its default (docs/stripe.md)",
    )
