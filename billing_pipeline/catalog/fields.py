"""The kinds of fields in catalog tables: amounts, instants, ids, and the table whose fields are all known. Pure.

Strangers write them: amounts are text or whole numbers, never TOML floats. Not here: which table has which field (tables,
price_tables).
"""

from datetime import datetime, time
from decimal import Context, Decimal
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from billing_pipeline.amounts import exact_text
from billing_pipeline.cadences import COUNTED, NAMES, Cadence
from billing_pipeline.periods import NaiveInstantError, as_utc

_MAX_INTEGER_DIGITS, _MAX_PLACES = 20, 12


def _exact(value: object) -> Decimal:
    if isinstance(value, float):
        raise ValueError(f'{value!r} is a TOML float, which is not exact; write it as text: "{value!r}"')
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f'{value!r} is not an amount; write it as text such as "0.05"')
    text = str(value)
    whole, _, places = text.partition(".")
    if not (whole.isascii() and whole.isdigit()) or ("." in text and not (places.isascii() and places.isdigit())):
        raise ValueError(f"{text!r} is not an amount of 0 or more in plain digits")
    if len(whole.lstrip("0")) > _MAX_INTEGER_DIGITS or len(places.rstrip("0")) > _MAX_PLACES:
        raise ValueError(f"{text!r} has more than {_MAX_INTEGER_DIGITS} digits before or {_MAX_PLACES} after the point")
    return Decimal(text)


def _instant(value: object) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ValueError(f"{value!r} is not an instant; write it as 2026-03-01T00:00:00Z")
    try:
        instant = as_utc(value)
    except NaiveInstantError as error:
        raise ValueError(error.what + "; write it with Z or an offset") from None
    if instant.microsecond:
        raise ValueError(f"{value.isoformat()} has a fraction of a second; periods begin on whole seconds")
    return instant


def _time_of_day(value: object) -> time:
    found = time.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(found, time) or found.tzinfo is not None or found.microsecond:
        raise ValueError(f"{value!r} is not a local time of day in whole seconds, such as 14:37:12")
    return found


def _cadence(value: object) -> Cadence:
    if isinstance(value, Cadence):
        return value
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is not a cadence: write it as text such as "month"')
    return Cadence.parse(value)


def share_of(percent: Decimal) -> Decimal:
    """Return 0.015 for 1.5 (percent), exact."""
    return percent.scaleb(-2, Context(prec=60))


# What editors are told (JSON Schema): an amount is text in plain digits, or a whole number; TOML's dates are strings to them.
_AMOUNT_SCHEMA = {"anyOf": [{"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}, {"type": "integer", "minimum": 0}]}

Amount = Annotated[Decimal, BeforeValidator(_exact), PlainSerializer(exact_text), WithJsonSchema(_AMOUNT_SCHEMA)]
Positive = Annotated[Amount, Field(gt=0)]
Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    PlainSerializer(lambda at: at.isoformat()),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
TimeOfDay = Annotated[
    time,
    BeforeValidator(_time_of_day),
    PlainSerializer(lambda at: at.isoformat()),
    WithJsonSchema({"type": "string", "format": "time"}),
]
Every = Annotated[
    Cadence,
    BeforeValidator(_cadence),
    PlainSerializer(str),
    WithJsonSchema({"anyOf": [{"enum": list(NAMES)}, {"type": "string", "pattern": COUNTED}]}),
]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Version = Annotated[int, Field(strict=True, ge=1)]
Status = Annotated[int, Field(strict=True, ge=100, le=599)]
Hour = Annotated[int, Field(strict=True, ge=0, le=24)]


class Table(BaseModel):
    """A TOML table whose fields are all known. The text under a field is what editors show of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
