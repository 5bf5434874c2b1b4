"""The catalog of the storage benchmark: accounts with one owner each, one meter of private bytes."""

from pathlib import Path

METER = "private_storage"


def write_storage_catalog(folder: Path, *, accounts: int) -> Path:
    """Write the catalog into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "billable.toml": "version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = []\n",
        "meters.toml": f'[[meter]]\nid = "{METER}"\nsource = "storage"\naggregation = "time_weighted"\nfield = "private_bytes"\n'
        'unit = "byte"\n',
        "prices.toml": '[[price]]\nid = "fee"\ncurrency = "USD"\n[[price.versions]]\nversion = 1\n'
        'effective_from = 2020-01-01T00:00:00Z\nmodel = "flat_fee"\namount = "50.00"\n',
        "plans.toml": '[[plan]]\nid = "pro"\nprices = ["fee"]\n',
        "accounts.toml": "".join(
            f'[[account]]\nid = "account_{number:04}"\nname = "Account {number}"\ncurrency = "USD"\n'
            f'clients = [{{ id = "owner_{number:04}" }}]\n'
            for number in range(accounts)
        ),
        "subscriptions.toml": "",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder
