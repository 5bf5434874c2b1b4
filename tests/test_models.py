"""Charge models against figures that a billing analyst can read (`tests/golden/*.toml`), each with its arithmetic."""

import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from billing_pipeline.amounts import Exact, exact_product, exact_sum, exact_text, negated, simplest, to_money
from billing_pipeline.catalog import Price, parse_catalog
from billing_pipeline.errors import BillingError
from billing_pipeline.rating import (
    Cells,
    Detail,
    Levels,
    LevelStep,
    LineKind,
    Rated,
    RatedLine,
    Transactions,
    VersionUsage,
    Windows,
    rate,
)
from resources.settings import PROJECT_ROOT
from tests.test_rating import toml

GOLDEN = PROJECT_ROOT / "tests" / "golden"
NAMES = ("percentage", "amounts", "tiers", "windows", "adjustments")
METERS = """
[[meter]]
id = "count"
aggregation = "count"
unit = "unit"
[[meter]]
id = "sum"
aggregation = "sum"
field = "response_bytes"
unit = "unit"
transactions = "ordered"
[[meter]]
id = "level"
aggregation = "level"
level = "mean"
unit = "unit"
"""


def price_of(version: dict[str, Any]) -> Price:
    """Return a price as the catalog reads it, with a meter that its model can rate."""
    meter = "sum" if version["model"] == "percentage" else "level" if version.get("prorated") else "count"
    fields = "\n".join(f"{key} = {toml(value)}" for key, value in version.items())
    files = {
        "prices.toml": f'[[price]]\nid = "golden"\nmeter = "{meter}"\ncurrency = "USD"\n'
        f"[[price.versions]]\nversion = 1\neffective_from = 2026-01-01T00:00:00Z\n{fields}\n",
        "meters.toml": METERS,
        "billable.toml": 'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{ endpoint = "/a" }]\n',
        "plans.toml": "",
        "accounts.toml": "",
        "subscriptions.toml": "",
    }
    return parse_catalog({name: text.encode() for name, text in files.items()}).price("golden")


def number(text: str) -> Exact:
    return simplest(Fraction(text)) if "/" in text else Decimal(text)


def usage_of(example: dict[str, Any], price: Price) -> VersionUsage:
    detail: Detail | None = None
    quantity = number(example.get("usage", "0"))
    if "transactions" in example:
        counts = tuple((number(amount), 1) for amount in example["transactions"])
        detail, quantity = Transactions(counts=counts), exact_sum([amount for amount, _ in counts])
    elif "windows" in example:
        found = tuple(
            (datetime.fromisoformat(at).replace(tzinfo=UTC), number(units)) for at, units in example["windows"].items()
        )
        detail, quantity = Windows(quantities=found), exact_sum([units for _, units in found])
    elif "cells" in example:
        cells = tuple((tuple(values), number(units)) for *values, units in example["cells"])
        detail, quantity = Cells(quantities=cells), exact_sum([units for _, units in cells])
    elif "steps" in example:
        steps = tuple(
            LevelStep(before=number(before), after=number(after), share=number(share))
            for before, after, share in example["steps"]
        )
        detail, quantity = Levels(steps=steps), steps[-1].after if steps else Decimal(0)
    return VersionUsage(
        version=price.versions[0],
        quantity=quantity,
        share=number(example.get("share", "1")),
        events=example.get("events"),
        detail=detail,
    )


def spelled(line: RatedLine) -> str:
    places = [f"tier {line.tier}" if line.tier else "", line.label or ""]
    places.append(f"{line.windows} windows" if line.windows else "")
    place = ", ".join(part for part in places if part)
    kind = "" if line.kind is LineKind.USAGE else f"{line.kind}: "
    fee = f" + {exact_text(line.flat_fee)}" if line.flat_fee else ""
    less = f" - {exact_text(line.less)}" if line.less is not None else ""
    formula = f"{exact_text(line.quantity)} {line.unit} x {exact_text(line.unit_price)}{fee}{less}"
    return f"{kind}{f'{place}: ' if place else ''}{formula} = {exact_text(line.amount)}"


def golden(name: str) -> dict[str, Any]:
    return tomllib.loads((GOLDEN / f"{name}.toml").read_text())


EXAMPLES = [
    pytest.param(document["prices"][example["price"]], example, id=f"{name}: {example['name']}")
    for name in NAMES
    for document in (golden(name),)
    for example in document["example"]
]


def rated(price: Price, example: dict[str, Any]) -> Rated:
    return rate(price=price, unit="unit", usage=(usage_of(example, price),))


class TestModels:
    @pytest.mark.parametrize(("version", "example"), EXAMPLES)
    def test_give_the_golden_figure_and_arithmetic(self, version: dict[str, Any], example: dict[str, Any]) -> None:
        price = price_of(version)
        if "raises" in example:
            with pytest.raises(BillingError, match=example["raises"]):
                rated(price, example)
            return
        result = rated(price, example)
        assert result.exact == number(example["amount"])
        assert [spelled(line) for line in result.lines] == example["arithmetic"]
        if "money" in example:
            assert str(to_money(result.exact, "USD")) == example["money"]

    @pytest.mark.parametrize(("version", "example"), EXAMPLES)
    def test_every_line_is_its_own_arithmetic(self, version: dict[str, Any], example: dict[str, Any]) -> None:
        if "raises" in example:
            return
        result = rated(price_of(version), example)
        assert exact_sum([line.amount for line in result.lines]) == result.exact
        for line in result.lines:
            product = exact_product(line.quantity, times=line.unit_price, over=Decimal(1))
            assert exact_sum([product, line.flat_fee, negated(line.less or Decimal(0))]) == line.amount
