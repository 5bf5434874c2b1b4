"""When something is late enough to tell people, and what they are not told of (catalog/alerts.toml; absent: the defaults).

Not here: ways to people, which are secrets and come from the environment (channel_settings).
"""

import tomllib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from billing_pipeline.errors import BillingError
from resources.alerting.notice import IncidentKind

FILE = "alerts.toml"


class AlertPolicyError(BillingError):
    """alerts.toml cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertPolicy:
    """The decisions. `sync_lag`: how long an account may be behind at Stripe. `feed_lag`: how long Stripe's events may go unread.
    `gap_grace`: how long after a day's end what is missing of it may still come. `muted`: kinds that nobody is told of."""

    sync_lag: timedelta = timedelta(hours=26)
    feed_lag: timedelta = timedelta(minutes=30)
    gap_grace: timedelta = timedelta(hours=3)
    muted: frozenset[IncidentKind] = frozenset()


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sync_lag_hours: int = Field(default=26, ge=1)
    feed_lag_minutes: int = Field(default=30, ge=1)
    gap_grace_hours: int = Field(default=3, ge=0)
    muted: list[IncidentKind] = Field(default_factory=list)


def load_alert_policy(catalog_dir: Path) -> AlertPolicy:
    """Return what alerts.toml decides.

    Raises:
        AlertPolicyError: it is there and cannot be understood.
    """
    path = catalog_dir / FILE
    if not path.is_file():
        return AlertPolicy()
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        read = _File.model_validate(content)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _wrong(path, str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise _wrong(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return AlertPolicy(
        sync_lag=timedelta(hours=read.sync_lag_hours),
        feed_lag=timedelta(minutes=read.feed_lag_minutes),
        gap_grace=timedelta(hours=read.gap_grace_hours),
        muted=frozenset(read.muted),
    )


def _wrong(path: Path, problem: str) -> AlertPolicyError:
    return AlertPolicyError(
        f"{path} cannot be read: {problem}",
        bill="none; nobody is told of anything until it is mended",
        fix=f"correct the file, or remove it: the defaults are in docs/alerts.md. Kinds: {', '.join(IncidentKind)}",
    )
