"""Worked cases of other billing systems (`cases/charge_cases.json`): each is run here.

Cases that their collectors marked `ambiguous` are decided by the project's rules; the decision stands beside the id. More cases
of the same kinds are run by the same checks: what a case does not say has the meaning of the system that it comes from.
"""

import json
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest

from tests.worked_cases import DECIDED, Case
from tests.worked_models import (
    check_blocks,
    check_buckets,
    check_commitment,
    check_dynamic,
    check_graduated_percentage,
    check_groups,
    check_included_units,
    check_late_packages,
    check_latest_or_max,
    check_max_with_carry,
    check_package_count,
    check_percentage,
    check_priced,
    check_prorated_sum,
    check_prorated_tiers,
    check_recurring,
    check_true_up,
    check_unique_groups,
    check_weighted_sum,
)
from tests.worked_money import (
    check_allocation,
    check_change_of_day,
    check_coupon_then_tax,
    check_credit_note,
    check_currency_rounding,
    check_discount,
    check_first_period,
    check_late_attribution,
    check_local_days,
    check_minor_digits,
    check_minor_unit,
    check_proration_time,
    check_psp_rounding,
    check_ratio,
    check_ratio_to_nine_places,
    check_rounding_drift,
    check_rounding_order,
    check_tax_rounding,
    check_time_zone,
    check_unit_conversion,
    check_unit_rounding,
)


@cache
def load(folder: Path) -> tuple[Case, ...]:
    return tuple(json.loads((folder / "cases" / "charge_cases.json").read_text(), parse_float=Decimal))


@pytest.fixture(scope="module")
def cases(real_data: Path) -> tuple[Case, ...]:
    """Return every case, or skip where the folder has none."""
    if not (real_data / "cases" / "charge_cases.json").is_file():
        pytest.skip(f"no cases/charge_cases.json in {real_data}; set BILLING_REAL_DATA to its folder")
    return load(real_data)


RUN: dict[str, Callable[[Case], None]] = {
    **dict.fromkeys(
        ("standard", "graduated", "volume", "package", "graduated_flat_cap", "volume_flat_cap"), check_priced
    ),
    **dict.fromkeys(("volume_blocks", "graduated_blocks", "volume_packages", "graduated_packages"), check_blocks),
    **dict.fromkeys(("graduated_incremental", "package_incremental", "volume_incremental"), check_priced),
    **dict.fromkeys(("correction_delta", "correction_delta_rounding", "dynamic_multiplier"), check_priced),
    **dict.fromkeys(("percentage", "percentage_per_transaction"), check_percentage),
    "graduated_percentage": check_graduated_percentage,
    "dynamic": check_dynamic,
    "weighted_sum": check_weighted_sum,
    "prorated_recurring_sum": check_prorated_sum,
    **dict.fromkeys(("volume_prorated", "graduated_prorated"), check_prorated_tiers),
    **dict.fromkeys(("recurring_sum late event", "recurring_sum+graduated_prorated"), check_recurring),
    "max_with_carry": check_max_with_carry,
    **{f"bucketed_max+{kind}": check_buckets for kind in ("standard", "graduated", "volume", "package")},
    **dict.fromkeys(
        ("commitment_per_window", "commitment_quantity", "commitment_per_window_time_of_day"), check_commitment
    ),
    "minimum_spend_true_up": check_true_up,
    **dict.fromkeys(("percentage_discount", "fixed_discount"), check_discount),
    "coupon_then_tax": check_coupon_then_tax,
    "tax_rounding": check_tax_rounding,
    "credit_note_rounding": check_credit_note,
    "package_count": check_package_count,
    "minor_unit": check_minor_unit,
    "minor_digits": check_minor_digits,
    "currency_rounding": check_currency_rounding,
    "unit_rounding": check_unit_rounding,
    "unit_conversion": check_unit_conversion,
    "largest_remainder_allocation": check_allocation,
    "late_usage_delta": check_late_packages,
    "late_usage_attribution": check_late_attribution,
    **dict.fromkeys(("latest+standard", "max+standard"), check_latest_or_max),
    "unique_count+standard grouped": check_unique_groups,
    "graduated_per_group": check_groups,
    "included_units": check_included_units,
    "proration_time": check_proration_time,
    "proration_day": check_first_period,
    "proration_day_change": check_change_of_day,
    "proration_ratio": check_ratio,
    "proration_ratio_9dp": check_ratio_to_nine_places,
    "local_calendar_days": check_local_days,
    "time_zone": check_time_zone,
    "psp_rounding": check_psp_rounding,
    "rounding_order": check_rounding_order,
    "rounding_drift": check_rounding_drift,
}


# What a price adds to its model, such as `package+maximum`.
ADDED = {"maximum", "minimum", "percentage_discount", "fixed_discount"}


def check_of(model: str) -> Callable[[Case], None] | None:
    """Return how cases of a model are run; None: in no way."""
    base, *added = model.split("+")
    if added and set(added) <= ADDED and (base == "unit" or base in RUN):
        return check_priced
    return RUN.get(model)


class TestChargeCases:
    def test_every_case_holds(self, cases: tuple[Case, ...], subtests: pytest.Subtests) -> None:
        for case in cases:
            with subtests.test(case["id"]):
                check = check_of(case["model"])
                assert check is not None, f"nothing runs the model {case['model']}"
                check(case)

    def test_every_case_is_run(self, cases: tuple[Case, ...]) -> None:
        assert len(cases) >= 183
        assert {case["id"] for case in cases} >= DECIDED.keys()
        assert [case["id"] for case in cases if check_of(case["model"]) is None] == []

    def test_every_ambiguous_case_is_decided_by_a_rule(self, cases: tuple[Case, ...]) -> None:
        ambiguous = {case["id"] for case in cases if case["ambiguous"]}
        assert ambiguous >= DECIDED.keys()
        assert len(cases) > 183 or ambiguous == DECIDED.keys()
