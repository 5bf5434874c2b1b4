"""Worked cases of other billing systems: what one says, and how the ambiguous ones are decided. Not here: running them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from billing_pipeline.amounts import (
    Exact,
    to_money,
)
from billing_pipeline.catalog import (
    PriceVersion,
)
from billing_pipeline.periods import (
    Window,
)
from tests.worked_prices import (
    adjustments_of,
    model_of,
    version_of,
)

Case = Mapping[str, Any]


_LAST_DAY = "windows are half-open: a period of 31 days that is stored by its last day ends at April 1st 00:00"


# id -> (expected, the rule that decides)
DECIDED = {
    "lago-graduated-0": ("0", "a quantity of 0 enters no tier, so its flat fee is not due"),
    "openmeter-graduated-total-0": ("0", "a quantity of 0 enters no tier, so its flat fee is not due"),
    "openmeter-volume-0": ("0", "a quantity of 0 enters no tier, so its flat fee is not due"),
    "flexprice-proration-upgrade": ("5.49", _LAST_DAY),
    "flexprice-proration-seats-5-to-10": ("27.42", _LAST_DAY),
    "flexprice-proration-add-item": ("13.71", _LAST_DAY),
    "flexprice-proration-remove-item": ("-21.94", _LAST_DAY),
    "lago-proration-first-period-tax": ("3871", "a period contains its start: January 8th to 31st are 24 days"),
    "openmeter-period-preserving-late": ("20, 30", "late usage corrects the period that it was used in"),
    "flexprice-round-then-add": ("20.66", "each line is rounded, the total is the sum of rounded lines"),
    "killbill-dst-same-usage-two-accounts": ("next period", "periods end at local midnight in the IANA zone"),
    "lago-percentage-both-free": ("11.15", "what is free ends with the events or the amount, whichever ends first"),
    "lago-percentage-free-amount-only": ("11.15", "free transactions are the first ones in order of time"),
    "lago-percentage-free-amount-exceeds-running": ("7.2", "what is free ends with the events or the amount"),
    "lago-prorated-sum": ("299/31", "a level is exact; it is rounded with the charge, half away from zero"),
    "lago-prorated-graduated-4-events": ("197.33", "each step of a level is priced in the tiers of its full units"),
}


def expected_of(case: Case, name: str = "amount") -> Any:
    """Return what is expected: as the project decides, else as it stands."""
    return DECIDED[case["id"]][0] if case["id"] in DECIDED else case["expected"][name]


def agrees(found: Exact, text: str, currency: str) -> bool:
    """Tell whether an exact amount is the expected one, or is once it is rounded, where the source has rounded it."""
    wanted = Decimal(text)
    return found == wanted or to_money(found, currency).major == wanted


def currency_of(case: Case) -> str:
    return str(case["params"].get("currency", "USD"))


def has_fee_at_zero(case: Case) -> bool:
    """Lago and OpenMeter ask the first tier's flat fee without usage; where that is disputed, the project does not."""
    return case["source"].startswith(("getlago/", "openmeterio/")) and not case["ambiguous"]


def case_version(case: Case) -> PriceVersion:
    kind, params = case["model"].split("+")[0], case["params"]
    if kind.startswith("correction_delta"):
        kind = params.get("mode", "graduated") if "tiers" in params else "standard"
    model = model_of(kind.removesuffix("_incremental"), params, fee_at_zero=has_fee_at_zero(case))
    return version_of(model, adjustments=adjustments_of(params))


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def window_of(text: str) -> Window:
    start, end = (datetime.fromisoformat(part.replace("Z", "+00:00")) for part in text.split(".."))
    return Window(start.replace(tzinfo=UTC), end.replace(tzinfo=UTC))
