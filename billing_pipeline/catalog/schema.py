"""The catalog's files as JSON Schema (draft 2020-12), for editors: completion, hints, red lines while typing. Pure.

Made from the tables that read the files, so that both say the same. What entries may not say together (overlaps, unknown ids,
double billing) no schema can tell: `billing catalog check` does. Not here: where schemas are kept (catalog/schema/).
"""

from collections.abc import Mapping
from typing import Any

from billing_pipeline.catalog.coupons import CouponTable
from billing_pipeline.catalog.entries import Kind
from billing_pipeline.catalog.feature_tables import EntitlementTable, FeatureTable, RecurringCreditTable
from billing_pipeline.catalog.fields import Table
from billing_pipeline.catalog.files import FILES, LIST_OF
from billing_pipeline.catalog.price_tables import MODEL_CHOICES, MODEL_FIELDS, PriceTable
from billing_pipeline.catalog.subscription_tables import SubscriptionTable
from billing_pipeline.catalog.tables import (
    AccountTable,
    BillableRuleTable,
    MeterTable,
    PlanTable,
)

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TABLES: Mapping[Kind, type[Table]] = {
    Kind.BILLABLE_RULE: BillableRuleTable,
    Kind.METER: MeterTable,
    Kind.PRICE: PriceTable,
    Kind.PLAN: PlanTable,
    Kind.ACCOUNT: AccountTable,
    Kind.SUBSCRIPTION: SubscriptionTable,
    Kind.FEATURE: FeatureTable,
    Kind.ENTITLEMENT: EntitlementTable,
    Kind.RECURRING_CREDIT: RecurringCreditTable,
    Kind.COUPON: CouponTable,
}


def file_schemas() -> Mapping[str, Mapping[str, Any]]:
    """Return the schema of each catalog file, by the name of the schema's file: `prices.schema.json`."""
    return {f"{FILES[kind].removesuffix('.toml')}.schema.json": _file_schema(kind) for kind in FILES}


def _file_schema(kind: Kind) -> Mapping[str, Any]:
    table = _cleaned(_TABLES[kind].model_json_schema())
    definitions = table.pop("$defs", {})
    if kind is Kind.PRICE:
        _with_models(definitions)
    if kind is Kind.BILLABLE_RULE:
        body = table
    else:
        body = {
            "type": "object",
            "additionalProperties": False,
            "properties": {LIST_OF[kind]: {"type": "array", "items": table}},
        }
    schema = {"$schema": _DIALECT, "title": FILES[kind], **body}
    return {**schema, "$defs": definitions} if definitions else schema


def _with_models(definitions: dict[str, Any]) -> None:
    """Say which fields each charge model needs, and which belong to other models."""
    every = frozenset().union(*(needed | allowed for needed, allowed in MODEL_FIELDS.values()))
    version = definitions["PriceVersion"]
    version["allOf"] = [
        {
            "if": {"properties": {"model": {"const": model}}, "required": ["model"]},
            "then": {
                "required": sorted(needed),
                "properties": dict.fromkeys(sorted(every - needed - allowed), False),
                **(
                    {"oneOf": [{"required": [field]} for field in MODEL_CHOICES[model]]}
                    if model in MODEL_CHOICES
                    else {}
                ),
            },
        }
        for model, (needed, allowed) in MODEL_FIELDS.items()
    ]


def _cleaned(part: Any) -> Any:
    """Return the schema without what TOML does not have (null), and without pydantic's titles and private names."""
    match part:
        case dict():
            cleaned = {
                (name.lstrip("_") if isinstance(value, dict) else name): _cleaned(value)
                for name, value in part.items()
                if name != "title" or not isinstance(value, str)
            }
            if "$ref" in cleaned:
                cleaned["$ref"] = cleaned["$ref"].replace("/_", "/")
            if "default" in cleaned and cleaned["default"] in (None, [], {}):
                del cleaned["default"]
            options = [option for option in cleaned.get("anyOf", ()) if option != {"type": "null"}]
            if len(options) == 1:
                del cleaned["anyOf"]
                return {**options[0], **cleaned}
            if options:
                cleaned["anyOf"] = options
            return cleaned
        case list():
            return [_cleaned(one) for one in part]
        case _:
            return part
