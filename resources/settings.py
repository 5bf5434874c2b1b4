"""Where this installation keeps things, read once from the environment at the top of a command.

Environment and defaults are listed in docs/architecture.md. Secrets stay out of `repr`. Not here: opening anything.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Locations and connection strings. A database URL of None means: the embedded server; a Stripe URL of None: Stripe."""

    home: Path
    landing_url: str
    lake_url: str
    catalog_dir: Path
    billing_database_url: str | None = field(default=None, repr=False)
    dagster_database_url: str | None = field(default=None, repr=False)
    stripe_api_key: str | None = field(default=None, repr=False)
    stripe_webhook_secret: str | None = field(default=None, repr=False)
    stripe_url: str | None = None
    stripe_mode: str = "test"
    stripe_calls_per_second: str | None = None

    @property
    def postgres_dir(self) -> Path:
        return self.home / "postgres"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    @property
    def scratch_dir(self) -> Path:
        return self.home / "scratch"

    @property
    def pseudonym_key_file(self) -> Path:
        return self.home / "pseudonym.key"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Return the settings that `environment` (default: the process's) names."""
        env = os.environ if environment is None else environment
        home = Path(env.get("BILLING_HOME") or PROJECT_ROOT / ".billing").resolve()
        return cls(
            home=home,
            landing_url=env.get("BILLING_LANDING_URL") or str(home / "landing"),
            lake_url=env.get("BILLING_LAKE_URL") or str(home / "lake"),
            catalog_dir=Path(env.get("BILLING_CATALOG_DIR") or PROJECT_ROOT / "catalog"),
            billing_database_url=env.get("BILLING_DATABASE_URL") or None,
            dagster_database_url=env.get("DAGSTER_DATABASE_URL") or None,
            stripe_api_key=env.get("STRIPE_API_KEY") or None,
            stripe_webhook_secret=env.get("STRIPE_WEBHOOK_SECRET") or None,
            stripe_url=env.get("BILLING_STRIPE_URL") or None,
            stripe_mode=env.get("BILLING_STRIPE_MODE") or "test",
            stripe_calls_per_second=env.get("BILLING_STRIPE_CALLS_PER_SECOND") or None,
        )
