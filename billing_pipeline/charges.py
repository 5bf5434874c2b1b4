"""Charges with identity, and the difference to what is booked: (rated total, booked total) -> a revision, or none. Pure.

A charge is (subscription, price, billing period, group). Its total to date is rounded once; a revision books
round(new total) - round(booked total), never a rounded difference. Not here: the arithmetic (rating), postings (ledger).
See docs/adr/0004-charges-converge.md.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property, lru_cache
from json.encoder import encode_basestring
from typing import NamedTuple
from uuid import UUID, SafeUUID

from billing_pipeline.amounts import Money, exact_text, to_money
from billing_pipeline.catalog import Dimension
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import Window
from billing_pipeline.rating import Rated, RatedLine

# Namespaces of this project's ids, made once with uuid4. Never change them: ids of booked rows are made from them.
_CHARGE_NAMESPACE = UUID("3f0c6d5e-0a6b-4c35-9d0e-6a3f5c1b7e21")


# A JSON string of a text, in C.
_json_text = encode_basestring


@lru_cache(maxsize=1 << 14)
def _key_text(price_id: str, start: datetime, end: datetime, group_key: str) -> str:
    """Return the end of the name that an id is made of: of many subscriptions few have one of their own."""
    instants = f"{_json_text(start.isoformat())}, {_json_text(end.isoformat())}"
    return f"{_json_text(price_id)}, {instants}, {_json_text(group_key)}]"


class ChargeCurrencyChangedError(BillingError):
    """A charge that is booked in one currency was rated in another."""


class ChargeKey(NamedTuple):
    """What makes a charge itself. `group_key` is the canonical JSON of its dimensions, empty without groups."""

    subscription_id: str
    price_id: str
    period: Window
    group_key: str = ""

    @property
    def charge_id(self) -> UUID:
        """Return the id: a function of the key alone, so that a replay writes the same."""
        period = self.period
        rest = _key_text(self.price_id, period.start, period.end, self.group_key)
        name = f"[{_json_text(self.subscription_id)}, {rest}"
        return name_uuid(_CHARGE_NAMESPACE, name)


class Figures:
    """What a charge comes to, and how that is kept: the same value serves all charges that were rated to the same.

    `amount` is the total to date, rounded once; `lines_json` the arithmetic as canonical JSON; `rating_digest` the SHA-256 of what
    was rated: quantity, exact total, currency and lines.
    """

    __slots__ = ("amount", "currency", "lines_json", "rated", "rating_digest")

    def __init__(self, rated: Rated, currency: str) -> None:
        self.rated = rated
        self.currency = currency
        self.amount = to_money(rated.exact, currency)
        self.lines_json = f"[{','.join([_line_json(line) for line in rated.lines])}]"
        digested = f"{exact_text(rated.quantity)}|{rated.unit}|{exact_text(rated.exact)}|{currency}|{self.lines_json}"
        self.rating_digest = hashlib.sha256(digested.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Charge:
    """A charge rated to date."""

    key: ChargeKey
    account_id: str
    plan_id: str
    meter_id: str | None
    currency: str
    rated: Rated

    @cached_property
    def figures(self) -> Figures:
        """Return what it comes to."""
        return Figures(self.rated, self.currency)

    @property
    def amount(self) -> Money:
        """Return the total to date, rounded once."""
        return self.figures.amount

    @property
    def lines_json(self) -> str:
        """Return the arithmetic as canonical JSON."""
        return self.figures.lines_json

    @property
    def rating_digest(self) -> str:
        """Return the SHA-256 of what was rated: quantity, exact total, currency and lines."""
        return self.figures.rating_digest


def charge_of(figures: Figures, *, key: ChargeKey, account_id: str, plan_id: str, meter_id: str | None) -> Charge:
    """Return the charge that comes to `figures`, whose texts are not made again for it."""
    # Not by its constructor, which sets field by field: there is one for every charge.
    charge = object.__new__(Charge)
    charge.__dict__.update(
        key=key,
        account_id=account_id,
        plan_id=plan_id,
        meter_id=meter_id,
        currency=figures.currency,
        rated=figures.rated,
        figures=figures,
    )
    return charge


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedCharge:
    """The newest revision of a charge: its number, its rounded total to date, and the digest of what was rated."""

    revision: int
    amount: Money
    rating_digest: str


class ChargeRevision(NamedTuple):
    """A further revision: the charge as it is now, and what it adds to what was booked. `delta` may be 0."""

    charge_id: UUID
    revision: int
    charge: Charge
    delta: Money


def name_uuid(namespace: UUID, name: str) -> UUID:
    """Return `uuid.uuid5(namespace, name)`, in a quarter of its time."""
    # Not by its constructor, which asks what it is given: there is one for every charge.
    found = object.__new__(UUID)
    object.__setattr__(found, "int", _name_int(namespace, name))
    object.__setattr__(found, "is_safe", SafeUUID.unknown)
    return found


def name_bytes(namespace: UUID, name: str) -> bytes:
    """Return the bytes of `uuid.uuid5(namespace, name)`."""
    return _name_int(namespace, name).to_bytes(16, "big")


# Where a UUID says its version and variant, and what it says there.
_OTHER_BITS, _VERSION_5 = ~((0xF000 << 64) | (0xC000 << 48)), (0x5000 << 64) | (0x8000 << 48)
# What has hashed a namespace already: there are a few.
_HASHES: dict[int, "hashlib._Hash"] = {}


def _name_int(namespace: UUID, name: str) -> int:
    hashed = _HASHES.get(namespace.int)
    if hashed is None:
        hashed = _HASHES[namespace.int] = hashlib.sha1(namespace.bytes, usedforsecurity=False)
    hashed = hashed.copy()
    hashed.update(name.encode())
    return int.from_bytes(hashed.digest()[:16], "big") & _OTHER_BITS | _VERSION_5


def _line_json(line: RatedLine) -> str:
    """Return `line.as_text()` as compact JSON. Most lines have nothing but the seven fields of a unit price."""
    if line.is_plain:
        return (
            f'{{"version":{line.version},"tier":{"null" if line.tier is None else line.tier},'
            f'"quantity":"{exact_text(line.quantity)}","unit":{_json_text(line.unit)},'
            f'"unit_price":"{_price_text(line.unit_price)}","flat_fee":"{_price_text(line.flat_fee)}",'
            f'"amount":"{exact_text(line.amount)}"}}'
        )
    return json.dumps(line.as_text(), separators=(",", ":"), ensure_ascii=False)


# The figures of prices come again and again.
_price_text = lru_cache(maxsize=1 << 12)(exact_text)


def difference(charge: Charge, booked: BookedCharge | None, *, charge_id: UUID | None = None) -> ChargeRevision | None:
    """Return the revision that makes the books equal to `charge`, None where they are.

    333 then 666 units of 0.001: 0.33 is booked, 0.67 is due, the revision adds 0.34. A new arithmetic with the same
    amount is a revision that adds 0, so that the newest one always explains the bill. Nothing used and nothing booked: None.
    `charge_id` spares making it from the key again.

    Raises:
        ChargeCurrencyChangedError: what is booked is in another currency.
    """
    amount = charge.amount
    if booked is None:
        if not charge.rated.lines and charge.rated.quantity == 0:
            return None
        delta, revision = amount, 1
    else:
        if booked.amount.currency != charge.currency:
            raise _currency_changed(charge, booked)
        if booked.rating_digest == charge.rating_digest and booked.amount == amount:
            return None
        delta, revision = amount - booked.amount, booked.revision + 1
    return ChargeRevision(charge_id=charge_id or charge.key.charge_id, revision=revision, charge=charge, delta=delta)


def nothing_rated(unit: str) -> Rated:
    """Return the rating of a charge that has no usage, or no period, any more."""
    return Rated(lines=(), quantity=Decimal(0), unit=unit, exact=Decimal(0))


def group_key(group: Mapping[Dimension, str]) -> str:
    """Return the canonical text of a group's dimensions, empty for none: `{"endpoint":"/v2.0/user"}`."""
    return json.dumps(dict(group), separators=(",", ":"), ensure_ascii=False) if group else ""


def _currency_changed(charge: Charge, booked: BookedCharge) -> ChargeCurrencyChangedError:
    key = charge.key
    return ChargeCurrencyChangedError(
        f"price {key.price_id!r} of subscription {key.subscription_id!r} was booked in {booked.amount.currency} and is "
        f"now in {charge.currency}",
        bill="nothing is booked; what was booked stays in its currency",
        fix="give the price in the new currency its own id, and move the subscription to a plan with it",
    )
