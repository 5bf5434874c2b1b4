"""The catalog of the traffic benchmark: an account for each user, found by the uuid of its counters, and one meter."""

from pathlib import Path

import duckdb

from bench.traffic_data import ACCOUNT_UUID

METER = "traffic"


def write_traffic_catalog(folder: Path, *, users: int) -> Path:
    """Write the catalog into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(":memory:") as connection:
        uuids = connection.execute(
            f"select {ACCOUNT_UUID} from range($users) as users (user_number) order by user_number", {"users": users}
        ).fetchall()
    files = {
        "billable.toml": 'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{ method = "GET", endpoint = "/" }]\n',
        "meters.toml": f'[[meter]]\nid = "{METER}"\nsource = "traffic"\naggregation = "sum"\n'
        'field = "total_bytes"\nunit = "byte"\n',
        "prices.toml": f'[[price]]\nid = "traffic"\nmeter = "{METER}"\ncurrency = "USD"\n[[price.versions]]\nversion = 1\n'
        'effective_from = 2020-01-01T00:00:00Z\nmodel = "standard"\nunit_price = "0.000000001"\n',
        "plans.toml": '[[plan]]\nid = "traffic"\nprices = ["traffic"]\n',
        "accounts.toml": "".join(
            f'[[account]]\nid = "account_{number:05}"\nname = "Account {number}"\ncurrency = "USD"\n'
            f'clients = [{{ id = "{uuid}" }}]\n'
            for number, (uuid,) in enumerate(uuids)
        ),
        "subscriptions.toml": "",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder
