"""Forget an embedded installation: its two databases, its lake, its runs. For demos; nothing that was given by URL is touched.

Not here: the landing files of others, the server itself, which stays for the next start.
"""

import shutil

from psycopg import sql

from billing_pipeline.errors import BillingError
from resources.database import open_session
from resources.embedded_postgres import EmbeddedPostgres
from resources.runtime import BILLING_DATABASE, DAGSTER_DATABASE
from resources.settings import Settings


class NotEmbeddedError(BillingError):
    """The installation keeps its state where this program does not delete."""


def forget_embedded(settings: Settings) -> None:
    """Drop both databases of the embedded server in `settings.home`, and remove lake, runs and scratch below it.

    Raises:
        NotEmbeddedError: a database was given by URL.
    """
    if settings.billing_database_url is not None or settings.dagster_database_url is not None:
        raise NotEmbeddedError(
            "The databases were given by URL, and are not deleted by this program.",
            bill="Nothing was deleted.",
            fix="Unset BILLING_DATABASE_URL and DAGSTER_DATABASE_URL, or empty those databases yourself.",
        )
    with (
        EmbeddedPostgres(settings.postgres_dir) as server,
        open_session(server.url(), role=None, autocommit=True) as connection,
    ):
        for name in (BILLING_DATABASE, DAGSTER_DATABASE):
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
    for folder in (settings.home / "lake", settings.dagster_home, settings.scratch_dir):
        shutil.rmtree(folder, ignore_errors=True)
