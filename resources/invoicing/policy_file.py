"""Read how this installation makes its invoices: `invoicing.toml` in the catalog folder -> an `InvoicingPolicy`. No file: defaults.

Not here: what the decisions mean (billing_pipeline.invoicing.policy).
"""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from billing_pipeline.amounts import UnknownCurrencyError, minor_digits
from billing_pipeline.catalog.fields import Amount
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.policy import MAX_ITEMS, InvoicingPolicy, PaymentUnits, Threshold, WithoutNext
from resources.policy_table import PolicyTable, found_in, read_policy

POLICY_FILE = "invoicing.toml"
Prefix = Annotated[str, Field(pattern=r"^[A-Z0-9][A-Z0-9/-]{0,15}$")]


class InvoicingPolicyError(BillingError):
    """invoicing.toml says what cannot be."""


class _Lines(PolicyTable):
    at_most: Annotated[int, Field(strict=True, ge=2, le=MAX_ITEMS)] = MAX_ITEMS
    payment_units: PaymentUnits = PaymentUnits.STRIPE


class _Numbers(PolicyTable):
    invoice: Prefix = "INV-"
    credit_note: Prefix = "CN-"
    digits: Annotated[int, Field(strict=True, ge=1, le=12)] = 6


class _Corrections(PolicyTable):
    over_billed: WithoutNext = WithoutNext.CREDIT_NOTE
    under_billed: Literal[WithoutNext.ONE_OFF, WithoutNext.WAIT] = WithoutNext.ONE_OFF


class _Finalize(PolicyTable):
    after_hours: Annotated[int, Field(strict=True, ge=0)] | None = None


class _Proposal(PolicyTable):
    currency: str
    absolute: Amount
    relative: Amount
    at_least: Amount = Decimal(0)

    @field_validator("currency")
    @classmethod
    def _is_a_currency(cls, currency: str) -> str:
        try:
            minor_digits(currency)
        except UnknownCurrencyError as error:
            raise ValueError(error.what) from None
        return currency


class _File(PolicyTable):
    lines: _Lines = _Lines()
    numbers: _Numbers = _Numbers()
    corrections: _Corrections = _Corrections()
    finalize: _Finalize = _Finalize()
    proposal: tuple[_Proposal, ...] = ()


def load_invoicing_policy(folder: Path) -> InvoicingPolicy:
    """Return what `invoicing.toml` in `folder` decides; the defaults where there is no such file.

    Raises:
        InvoicingPolicyError: the file cannot be read, or says what cannot be.
    """
    path = folder / POLICY_FILE
    found = read_policy(path, _File, _wrong)
    thresholds = {
        one.currency: Threshold(absolute=one.absolute, relative=one.relative, at_least=one.at_least)
        for one in found.proposal
    }
    if len(thresholds) < len(found.proposal):
        raise _wrong(path, ["proposal: a currency has one block"])
    return InvoicingPolicy(
        max_items=found.lines.at_most,
        invoice_prefix=found.numbers.invoice,
        credit_note_prefix=found.numbers.credit_note,
        number_digits=found.numbers.digits,
        payment_units=found.lines.payment_units,
        over_billed=found.corrections.over_billed,
        under_billed=found.corrections.under_billed,
        thresholds=thresholds,
        finalize_after=None if found.finalize.after_hours is None else timedelta(hours=found.finalize.after_hours),
    )


def _wrong(path: Path, problems: Sequence[str]) -> InvoicingPolicyError:
    return InvoicingPolicyError(
        found_in(path, problems),
        bill="no invoice is compiled or made final until it is corrected",
        fix="correct every line above; leaving one out takes its default (docs/invoicing.md)",
    )
