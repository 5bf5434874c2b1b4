"""Bills that are known in advance (catalog/canary.toml; absent: none): an account that everything is done for as for others.

    [[canary]]
    account = "canary"
    subscription = "canary"
    total = "42.00"
    since = 2026-01-01
    until = 2027-01-01      # may be left out

`total` is what the invoice of each whole billing period that began at `since` or later, and before `until`, comes to, in the
account's currency. A subscription whose price changes has a block for each price. Not here: comparing (canary_results).
"""

import tomllib
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from billing_pipeline.errors import BillingError

FILE = "canary.toml"


class CanaryFileError(BillingError):
    """canary.toml cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A subscription and what each of its invoices comes to, in major units, of periods that begin in `[since, until)`."""

    account_id: str
    subscription_id: str
    total: Decimal
    since: datetime
    until: datetime | None = None


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    account: str = Field(min_length=1)
    subscription: str = Field(min_length=1)
    total: str
    since: date = date(2000, 1, 1)
    until: date | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    canary: list[_Entry] = Field(default_factory=list)


def load_canaries(catalog_dir: Path) -> tuple[Canary, ...]:
    """Return the canaries of canary.toml.

    Raises:
        CanaryFileError: it is there and cannot be understood.
    """
    path = catalog_dir / FILE
    if not path.is_file():
        return ()
    try:
        read = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        return tuple(
            Canary(
                account_id=one.account,
                subscription_id=one.subscription,
                total=_amount(one.total),
                since=_midnight(one.since),
                until=None if one.until is None else _midnight(one.until),
            )
            for one in read.canary
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise _wrong(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (OSError, ValueError, ArithmeticError) as error:
        raise _wrong(path, str(error) or type(error).__name__) from error


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _amount(text: str) -> Decimal:
    amount = Decimal(text)
    if not amount.is_finite():
        raise ValueError(f"total {text!r} is no amount")
    return amount


def _wrong(path: Path, problem: str) -> CanaryFileError:
    return CanaryFileError(
        f"{path} cannot be read: {problem}",
        bill="none; no bill is compared with one that is known in advance",
        fix='correct the file: account, subscription, total = "42.00", since = 2026-01-01; or remove it',
    )
