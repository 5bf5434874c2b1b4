"""How fast quantities become lines, and subscriptions become booked charges."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg

from bench.catalog import COUNT_METER, TEMPLATES
from bench.task import Stopwatch, Task
from billing_pipeline.catalog import (
    FlatFee,
    Graduated,
    Package,
    Price,
    PriceModel,
    PriceVersion,
    Prorate,
    Standard,
    Tier,
    UnitConversion,
    Volume,
)
from billing_pipeline.periods import BillingPeriod, Window
from billing_pipeline.rating import Rated, VersionUsage, rate, rate_flat_fee
from resources.charge_store import ChargeStore
from resources.database import Database

_FROM = datetime(2026, 1, 1, tzinfo=UTC)
_MONTH = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
_QUANTITIES = 2_000
_TIERS = (
    Tier(up_to=Decimal(1_000), unit_price=Decimal("0.0125"), flat_fee=Decimal("2.50")),
    Tier(up_to=Decimal(10_000), unit_price=Decimal("0.0095")),
    Tier(up_to=None, unit_price=Decimal("0.0060")),
)
_MODELS: Mapping[str, PriceModel] = {
    "standard": Standard(unit_price=Decimal("0.0019")),
    "graduated": Graduated(tiers=_TIERS),
    "volume": Volume(tiers=_TIERS),
    "package": Package(size=Decimal(100), price=Decimal("1.20"), free_units=Decimal(200)),
    "flat fee": FlatFee(amount=Decimal("29.00")),
}
# Charges of each kind among ten thousand, as a catalog of plans with a fee, tiered requests and traffic has them.
_MIX = {
    "standard": 20,
    "graduated": 25,
    "volume": 10,
    "package": 10,
    "flat fee": 25,
    "bytes as GB": 5,
    "two versions": 5,
}

_Charge = Callable[[], Rated]


def rate_lines(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Rate on one core for `seconds` each; return charges and lines per second of every model, and of the mix."""
    random.seed(1)
    kinds = {name: _charges(name) for name in _MIX}
    mix = [charge for name, share in _MIX.items() for charge in random.sample(kinds[name], _QUANTITIES * share // 100)]
    random.shuffle(mix)
    found = {}
    with stopwatch.part("rate"):
        for name, charges in (*kinds.items(), ("mix", mix)):
            found[name] = _speed(charges, float(task.options["seconds"]))
    return {"speeds": found}


def _speed(charges: Sequence[_Charge], seconds: float) -> dict[str, int]:
    """Return charges and lines per second of CPU time of this thread."""
    rated = lines = 0
    began = time.thread_time()
    while (took := time.thread_time() - began) < seconds:
        for charge in charges:
            lines += len(charge().lines)
        rated += len(charges)
    return {"charges": round(rated / took), "lines": round(lines / took)}


def _charges(kind: str) -> list[_Charge]:
    quantities = [250 + Decimal(int(random.paretovariate(0.4))) % 1_000_000 for _ in range(_QUANTITIES)]
    match kind:
        case "flat fee":
            price = _price(_MODELS[kind], meter=None)
            whole = BillingPeriod(window=_MONTH, whole=_MONTH)
            return [lambda: rate_flat_fee(price=price, period=whole, zone="UTC")] * _QUANTITIES
        case "bytes as GB":
            conversion = UnitConversion(unit="GB", divide=Decimal(10**9))
            price = _price(_MODELS["standard"], conversion=conversion)
            return [_metered(price, [quantity * 7_919_000]) for quantity in quantities]
        case "two versions":
            price = _price(_MODELS["graduated"], _MODELS["graduated"])
            return [_metered(price, [quantity, quantity + 1]) for quantity in quantities]
        case _:
            price = _price(_MODELS[kind])
            return [_metered(price, [quantity]) for quantity in quantities]


def _price(*models: PriceModel, meter: str | None = COUNT_METER, conversion: UnitConversion | None = None) -> Price:
    versions = tuple(
        PriceVersion(
            version=number + 1,
            model=model,
            effective_from=_FROM + timedelta(days=75 * number),
            effective_to=_FROM + timedelta(days=75) if number + 1 < len(models) else None,
            conversion=conversion,
        )
        for number, model in enumerate(models)
    )
    return Price(price_id="bench", meter_id=meter, currency="USD", versions=versions, prorate=Prorate.SECOND)


def _metered(price: Price, quantities: Sequence[Decimal]) -> _Charge:
    usage = tuple(
        VersionUsage(version=version, quantity=quantity)
        for version, quantity in zip(price.versions, quantities, strict=True)
    )
    return lambda: rate(price=price, unit="request", usage=usage)


def book_charges(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Book the charges of all subscriptions for a day, then once more: the second time nothing is booked."""
    day = date(2026, 3, 1)
    with psycopg.connect(task.database_url, options="-c TimeZone=UTC") as connection:
        usage_rows = connection.execute(_USAGE, {"day": day, "endpoint": TEMPLATES[0]}).rowcount
        connection.commit()
        connection.autocommit = True
        connection.execute("analyze")
    store = ChargeStore(Database(task.database_url))
    with stopwatch.part("book"):
        first = store.book_days([day], run_id="bench", code_version="bench")[0]
    with stopwatch.part("book again"):
        again = store.book_days([day], run_id="bench", code_version="bench")[0]
    if first.held or again.revisions_booked or not first.revisions_booked:
        raise AssertionError(f"booked {first.revisions_booked}, again {again.revisions_booked}, held {first.held}")
    return {"usage_rows": usage_rows, "charges": first.charges_rated, "revisions": first.revisions_booked}


# A row an hour and account, of 1 to 5,000 requests a day.
_USAGE = """
    insert into usage.api_requests (event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id,
        quantity, unit, request_count)
    select %(day)s, account_id, 'vehicle_requests', hour, hour + interval '1 hour', %(endpoint)s, 'GET', client_id,
        requests, 'request', requests
    from catalog.account_client
    cross join generate_series(%(day)s::timestamp at time zone 'UTC', %(day)s::timestamp at time zone 'UTC'
        + interval '23 hours', interval '1 hour') as hour
    cross join lateral (select 1 + abs(hashtext(account_id)) %% 208 as requests) as counted
"""
