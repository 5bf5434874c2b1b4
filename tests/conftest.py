"""What every test may ask for: a real PostgreSQL, a fresh migrated database, the folder with real data.

`BILLING_TEST_DATABASE_URL` (a superuser's URL) replaces the embedded server. Durability is off here and only here.
`BILLING_EXAMPLES` is how many examples a property gets that names no number of its own. See docs/tests.md.
"""

import os
import signal
import uuid
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
from hypothesis import settings as hypothesis_settings
from psycopg import sql

from resources.database import Database
from resources.embedded_postgres import EmbeddedPostgres
from resources.migrate import migrate
from resources.settings import PROJECT_ROOT
from tests.databases import administer as administer
from tests.databases import cloning, lent_database
from tests.databases import database_url as database_url
from tests.folders import place, temporary_folder
from tests.sql_references import held_to_its_word

if TYPE_CHECKING:
    from resources.stripe_sim.server import RunningSim

# A time limit per example measures how busy the machine is; pytest's own limit catches what hangs.
hypothesis_settings.register_profile(
    "billing", deadline=None, max_examples=int(os.environ.get("BILLING_EXAMPLES") or 40)
)
hypothesis_settings.load_profile("billing")

# Its log of changes is short: the files may lie in memory.
NOT_DURABLE = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "128MB",
    "min_wal_size": "32MB",
}

# Each has a server of its own and up to a gigabyte.
MOST_PROCESSES = 5

# Modules that take longest: begun last, one of them would keep a worker busy alone.
LONGEST_FIRST = (
    "test_crash",
    "test_bill_page",
    "test_metered_crash",
    "test_storage_touched",
    "test_metered_laws",
    "test_bad_input",
    "test_storage_usage_store",
    "test_storage_from_files",
    "test_traffic_usage_store",
    "test_whole_chain",
    "test_bench_smoke",
    "test_stripe_contract_daily",
    "test_stripe_chaos",
    "test_explain_kinds",
    "test_catalog_store",
    "test_stripe_mutants",
    "test_stripe_contract_meters",
    "test_stripe_contract_true_up",
    "test_traffic_figures",
    "test_storage_holds",
    "test_storage_buckets",
    "test_embedded_postgres",
    "test_concurrent_runs",
    "test_stripe_sync_crash",
    "test_prepaid_histories",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest modules begin first; the order inside a module stays."""
    places = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Say how many processes a run has: one more than processors, as each waits a quarter of its time."""
    return min((os.cpu_count() or 1) + 1, MOST_PROCESSES)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name gzip bytes without their content: it holds the time, and the workers of a run must find the same tests."""
    return "gzip" if isinstance(val, bytes) and val.startswith(b"\x1f\x8b") else None


def login_url(url: str, user: str, password: str) -> str:
    """Return `url` with another login."""
    parts = urlsplit(url)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.hostname}:{parts.port}"))


@pytest.fixture(autouse=True)
def sigterm_left_as_it_was() -> Iterator[None]:
    """Undo what Dagster does: SIGTERM becomes what SIGINT is, and in the background of a shell that is ignored, by children too."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if signal.getsignal(signal.SIGTERM) is not before:
        signal.signal(signal.SIGTERM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Let a test fail that passes, says that it holds SQL to a reference, and has not run it."""
    with held_to_its_word(item):
        yield


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """Return a temporary folder that every user may enter: the server does not run as root."""
    with temporary_folder(place()) as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres_url(open_folder: Path) -> Iterator[str]:
    """Return the superuser's URL of a running server."""
    given = os.environ.get("BILLING_TEST_DATABASE_URL")
    if given:
        yield given
        return
    with EmbeddedPostgres(open_folder / "postgres", server_settings=NOT_DURABLE) as server:
        _make_logins_cheap(server.url())
        yield server.url()


def _make_logins_cheap(url: str) -> None:
    """Keep the password's hash by one turn instead of 4096: tests open a hundred thousand sessions."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set scram_iterations = 1")
        password = sql.Literal(urlsplit(url).password)
        connection.execute(sql.SQL("alter role current_user password {}").format(password))


@pytest.fixture(scope="session")
def template_database(postgres_url: str) -> Iterator[str]:
    """Return the name of a migrated, empty database to clone; `databases.lent_database` lends clones of it."""
    name = f"billing_template_{uuid.uuid4().hex[:12]}"
    administer(postgres_url, f'create database "{name}"')
    migrate(Database(database_url(postgres_url, name)))
    with cloning(postgres_url, name):
        yield name
    administer(postgres_url, f'drop database "{name}" with (force)')


@pytest.fixture
def database(postgres_url: str, template_database: str) -> Iterator[Database]:
    """Return a migrated, empty database."""
    with lent_database(postgres_url, template_database) as database:
        yield database


@pytest.fixture
def second_database(postgres_url: str, template_database: str) -> Iterator[Database]:
    """Return a further one, to compare with."""
    with lent_database(postgres_url, template_database) as database:
        yield database


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder with real logs, or skip."""
    folder = Path(os.environ.get("BILLING_REAL_DATA") or PROJECT_ROOT.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data in {folder}; set BILLING_REAL_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def served_stripe() -> Iterator["RunningSim"]:
    """Return the stand-in for Stripe that the tests of a run share, one after the other (stripe_fixtures empties it)."""
    from resources.stripe_sim.server import serving_stripe

    with serving_stripe(now=datetime(2026, 3, 1, tzinfo=UTC)) as running:
        yield running
