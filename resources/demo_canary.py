"""The demo's canary: an account whose requests are so few and regular that anybody knows its bill beforehand.

A hundred billable requests on each of the three days, of which ten of the second day come late; a request costs 0.10 USD
(catalog/prices.toml). So its first invoice, of March 1 to 3, says 29.00 USD, and the late ones are 1.00 USD of the next. Files as
in demo_landing, beside those of the others. Not here: the other clients (demo_landing), what is at Stripe (demo_stripe).
"""

import json
from datetime import date, datetime, time, timedelta
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from resources.demo_files import write_missing
from resources.demo_landing import API_FOLDER, EVENT_DAYS, LATE_DELIVERY_DAY

CLIENT = "canary_probe"
REQUESTS_PER_DAY = 100
LATE_REQUESTS = 10
LATE_DAY = EVENT_DAYS[1]
# What that comes to, in cents: on the first invoice, and late.
ON_TIME_MINOR = 10 * (REQUESTS_PER_DAY * len(EVENT_DAYS) - LATE_REQUESTS)
LATE_MINOR = 10 * LATE_REQUESTS

_FIRST_AT = time(8)
_EVERY = timedelta(minutes=5)


def write_first_delivery(folder: Path) -> tuple[Path, ...]:
    """Write the three days' files, without what comes late, and return the paths that did not exist before."""
    files = {f"{API_FOLDER}/{day + timedelta(days=1)}/canary-{day:%Y%m%d}.jsonl": _lines(day) for day in EVENT_DAYS}
    return write_missing(folder, files)


def write_second_delivery(folder: Path) -> tuple[Path, ...]:
    """Write what came late, and return the path if it did not exist before."""
    key = f"{API_FOLDER}/{LATE_DELIVERY_DAY}/canary-{LATE_DAY:%Y%m%d}-late.jsonl"
    return write_missing(folder, {key: _lines(LATE_DAY, late=True)})


def _lines(day: date, *, late: bool = False) -> bytes:
    """Return the day's lines that were on time, or those that come late."""
    on_time = REQUESTS_PER_DAY - (LATE_REQUESTS if day == LATE_DAY else 0)
    numbers = range(on_time, REQUESTS_PER_DAY) if late else range(on_time)
    return b"".join(_line(day, number) for number in numbers)


def _line(day: date, number: int) -> bytes:
    at = datetime.combine(day, _FIRST_AT) + number * _EVERY
    request = {
        "request_id": str(uuid5(NAMESPACE_URL, f"canary/{day}/{number}")),
        "client_id": CLIENT,
        "timestamp": f"{at.isoformat()}.000Z",
        "endpoint": f"/v2.0/vehicles/{uuid5(NAMESPACE_URL, 'canary/vehicle')}/odometer",
        "method": "GET",
        "status_code": 200,
        "response_time_ms": 20.0,
        "is_real_vehicle": True,
        "bytes": 100,
    }
    return json.dumps(request, separators=(",", ":")).encode() + b"\n"
