"""The demo: three made-up days of API requests, traffic and storage, the whole job on them, and what came out of it.

Everything arrives in two deliveries, so that late, repeated and contradictory data is seen to correct the bill: files in the
landing folder, and counters of exporters that are served over HTTPS while the demo runs. Around the second delivery a month goes
by at a Stripe of the demo's own. A second demo on the same state books and charges nothing. Not here: what is made up
(resources/demo_*), the month at Stripe (demo_stripe), somebody's own files (own_files).
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from billing_pipeline.catalog import Catalog
from billing_pipeline.errors import BillingError
from console.bill_page import print_bill
from console.days import read_period
from console.demo_stripe import month_at_stripe
from console.runs import DayHeldError, Pipeline, pipeline, print_booked
from console.screen import count, page, show_error, table
from console.status_page import (
    print_books,
    print_builds,
    print_deliveries,
    print_refusals,
    print_refused_lines,
)
from console.usage_page import print_coverage, print_repositories, print_verdicts_in_short
from console.usage_plot import draw_usage_by_hour
from resources import demo_canary, demo_landing, demo_storage, demo_traffic
from resources.balance_reader import BalanceReader
from resources.catalog_store import read_catalog
from resources.object_store import is_s3_url
from resources.repository_reader import read_repositories
from resources.reset import forget_embedded
from resources.settings import Settings
from resources.status_reader import read_refused_lines, read_status
from resources.usage_reader import read_billed_months, read_hourly_requests

DEMO_FOLDER = "demo"

# The catalog's other clients are users of traffic and owners of repositories.
_API_CLIENT = "client_"
_SECOND = "request logs: one late, one again under another name, one overwritten; a CloudTrail log; an exporter is back"
_LINES_SHOWN = 20
_REPOSITORIES_SHOWN = 20
_GUARDS = "guards_of_"
# What the pages are shown with.
_REPOSITORY, _PREPAID = "atlas", "lumen"


class NotTheDemosError(BillingError):
    """The installation holds data that is not the demo's."""


def run_demo(settings: Settings, *, fresh: bool) -> None:
    """Write the demo's files and serve its exporters, run everything on them, and print the outcome, a bill at its end.

    Raises:
        NotTheDemosError: the landing folder or database is not the demo's own.
    """
    landing = _own_landing(settings)
    own = settings.home / DEMO_FOLDER
    if fresh:
        forget_embedded(settings)
        for folder in (landing, own):
            shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    clients = api_clients(read_catalog(settings.catalog_dir))
    own.mkdir(parents=True, exist_ok=True)
    with (
        pipeline(settings) as ready,
        demo_traffic.serving_exporters(own / "exporters") as exporters,
        month_at_stripe(ready, own) as at_stripe,
    ):
        with _environment(exporters.variables):
            first = (
                *demo_landing.write_first_delivery(landing, clients),
                *demo_canary.write_first_delivery(landing),
                *demo_storage.write_first_delivery(landing),
            )
            _deliver(ready, f"[bold]First delivery:[/] {count(len(first)) if first else 'no'} new files in {landing}")
            at_stripe.until_late_data()
            exporters.clock.now = demo_traffic.SECOND_LOOK
            second = (
                *demo_landing.write_second_delivery(landing, clients),
                *demo_canary.write_second_delivery(landing),
                *demo_storage.write_second_delivery(landing),
            )
            _deliver(ready, f"\n[bold]Second delivery:[/] {_SECOND if second else 'no new files'}")
            at_stripe.with_late_data()
        page().print()
        print_outcome(ready, plot=own / "usage_by_hour.png", began=began, before_bill=at_stripe.show)
        _print_balance(ready)
    page().print(f"A repository over time: billing timeline {_REPOSITORY}. A balance: billing balance {_PREPAID}")
    page().print("\nNext: [bold]make dev[/] opens the Dagster UI on this data; make demo again books nothing twice.")


def _deliver(ready: Pipeline, what: str) -> None:
    """Say what was delivered, build what is due, and say what was booked and what waits."""
    page().print(what)
    before = read_status(ready.runtime.database)
    up_to_date(ready)
    after = read_status(ready.runtime.database)
    print_booked(before.books, after.books)
    for one in after.verdicts:
        if one.status == "held":
            page().print(f"[bold red]held[/] {one.asset} {one.partition_key} {one.guard}", highlight=False)


def _print_balance(ready: Pipeline) -> None:
    """Print how the prepaid account stands."""
    found = BalanceReader(ready.runtime.database).balance(_PREPAID, now=demo_traffic.SECOND_LOOK)
    page().print(
        f"Balance of {_PREPAID}: {found.booked_balance} after {count(found.total_bytes)} bytes, "
        f"of which {count(found.profile.included_quota_bytes - found.remaining_included_quota)} were included"
    )


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while the block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def api_clients(catalog: Catalog) -> tuple[str, ...]:
    """Return the API clients among the catalog's, in the order of its accounts, the first of which is to be the busiest."""
    clients = (client.client_id for account in catalog.accounts.values() for client in account.clients)
    return tuple(dict.fromkeys(one for one in clients if one.startswith(_API_CLIENT)))


def up_to_date(ready: Pipeline) -> None:
    """Build what is due; a day that a guard holds is named, and does not end the demo."""
    try:
        ready.bring_up_to_date()
    except DayHeldError as error:
        show_error(error)


def print_outcome(ready: Pipeline, *, plot: Path, began: float, before_bill: Callable[[], None] = lambda: None) -> None:
    """Print deliveries, refusals with file and line, days, guards, books, times, the plot's path, and a bill.

    `before_bill` prints what comes before the bill.
    """
    console = page()
    database = ready.runtime.database
    status = read_status(database)
    print_deliveries(console, status.tallies)
    print_refusals(console, status)
    print_refused_lines(console, read_refused_lines(database, limit=_LINES_SHOWN))
    refused = sum(status.refused_lines_by_reason.values())
    if refused > _LINES_SHOWN:
        console.print(f"… and {count(refused - _LINES_SHOWN)} more: billing quarantine")
    print_builds(console, status.builds, ())
    print_coverage(console, ready.stores.traffic.coverage(sorted({build.day for build in status.builds})))
    print_repositories(console, read_repositories(database, limit=_REPOSITORIES_SHOWN))
    print_verdicts_in_short(console, status.verdicts)
    print_times(ready.seconds, time.monotonic() - began)
    usage = read_hourly_requests(database, sorted({build.day for build in status.builds}))
    if usage:
        console.print(f"Plot of usage by hour: {draw_usage_by_hour(usage, plot)}")
    print_books(console, status.books)
    before_bill()
    months = read_billed_months(database)
    if months:
        console.print()
        print_bill(console, database, months[0].account_id, read_period(months[0].month))


def print_times(seconds: Mapping[str, float], total: float) -> None:
    """Print the wall seconds of each step and of the whole command."""
    shown = table("Where the time went", "step", "seconds", numbers=("seconds",))
    guards = sum(took for step, took in seconds.items() if step.startswith(_GUARDS))
    for step, took in seconds.items():
        if not step.startswith(_GUARDS):
            shown.add_row(step, f"{took:.2f}")
    shown.add_row("guards", f"{guards:.2f}")
    shown.add_row("start and everything else", f"{max(total - sum(seconds.values()), 0):.2f}")
    shown.add_row("together", f"{total:.2f}")
    page().print(shown)


def _own_landing(settings: Settings) -> Path:
    """Return the demo's landing folder, which must be empty or from an earlier demo."""
    landing = Path(settings.landing_url)
    is_elsewhere = is_s3_url(settings.landing_url) or settings.billing_database_url is not None
    has_others = not (settings.home / DEMO_FOLDER).is_dir() and landing.is_dir() and any(landing.iterdir())
    if is_elsewhere or has_others:
        where = "BILLING_DATABASE_URL or BILLING_LANDING_URL names" if is_elsewhere else f"{landing} holds"
        raise NotTheDemosError(
            f"{where} something that is not the demo's, and made-up requests would be billed among real ones.",
            bill="Nothing was written.",
            fix="Give the demo a home of its own: BILLING_HOME=/some/empty/folder billing demo",
        )
    return landing
