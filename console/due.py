"""Ask which event days' usage is older than what it is made of. Not here: why (usage_store), building them (runs)."""

from datetime import date

from resources.usage_store import UsageStore

from resources.lake import Lake
from resources.runtime import Runtime


def due_days(runtime: Runtime) -> tuple[date, ...]:
    """Return the event days whose files or rules changed since they were last built, in order."""
    settings = runtime.settings
    lake = Lake(settings.lake_url, settings.scratch_dir)
    return tuple(sorted(UsageStore(runtime.database, lake, settings.scratch_dir).stale_days()))
