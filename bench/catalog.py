"""The catalog and the sources that the benchmarks run under, as files of a catalog folder.

2,000 accounts with one client each, two meters (requests; response time added up), one graduated price. The same text serves
our job and, through PostgreSQL's `catalog.account_client`, the others.
"""

from pathlib import Path

from bench.request_data import ACCOUNTS, BILLABLE, account_id, client_id

TEMPLATES = tuple(f"/v2.0/vehicles/{{vehicle_id}}/{name}" for name in BILLABLE)
COUNT_METER, TIME_METER = "vehicle_requests", "response_time"
_PROFILES = {"json": "billable_request_json", "avro": "billable_request_avro"}
_MODELS = """
[[price]]
id = "requests"
meter = "vehicle_requests"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2020-01-01T00:00:00Z
model = "graduated"
included_units = "500"
tiers = [
    { up_to = "1000", unit_price = "0.0125" },
    { up_to = "10000", unit_price = "0.0095" },
    { unit_price = "0.0060" },
]

[[price]]
id = "fee"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2020-01-01T00:00:00Z
model = "flat_fee"
amount = "29.00"
"""


def write_catalog(folder: Path, *, framing: str = "json", accounts: int = ACCOUNTS, subscribed: int = 0) -> Path:
    """Write the catalog into `folder` and return it; the first `subscribed` accounts have a subscription."""
    folder.mkdir(parents=True, exist_ok=True)
    endpoints = ", ".join(f'{{ method = "GET", endpoint = "{template}" }}' for template in TEMPLATES)
    files = {
        "billable.toml": f"version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{endpoints}]\n",
        "meters.toml": f'[[meter]]\nid = "{COUNT_METER}"\naggregation = "count"\nunit = "request"\n'
        f'[[meter]]\nid = "{TIME_METER}"\naggregation = "sum"\nfield = "response_time_us"\nunit = "us"\n',
        "prices.toml": _MODELS,
        "plans.toml": '[[plan]]\nid = "pro"\nprices = ["requests", "fee"]\n',
        "accounts.toml": "".join(
            f'[[account]]\nid = "{account_id(number)}"\nname = "Account {number}"\ncurrency = "USD"\n'
            f'clients = [{{ id = "{client_id(number)}" }}]\n'
            for number in range(accounts)
        ),
        "subscriptions.toml": "".join(
            f'[[subscription]]\nid = "sub_{number:04}"\naccount = "{account_id(number)}"\nplan = "pro"\n'
            "starts_at = 2020-01-01T00:00:00Z\n"
            for number in range(subscribed)
        ),
        "sources.toml": f'[[source]]\nname = "api"\nlanding = "requests"\nprofile = "{_PROFILES[framing]}"\n'
        'delivery_day = "key"\n',
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder
