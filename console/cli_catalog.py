"""Commands `billing catalog …`: arguments in, one job done. Translates only.

Imports stay light here; each command imports what it needs.
"""

from pathlib import Path
from typing import Annotated

import typer

from resources.settings import PROJECT_ROOT, Settings

app = typer.Typer(
    no_args_is_help=True, help="Check, compare and describe catalogs: prices, plans, accounts, subscriptions."
)
_NAMED = "A folder, `loaded`, a digest of `billing catalog history`, or an instant at which it was current."


@app.command()
def check(
    folder: Annotated[Path | None, typer.Argument(help="The catalog's folder; BILLING_CATALOG_DIR if absent.")] = None,
) -> None:
    """Read a catalog folder and list everything that is wrong with it. No database is started."""
    from console.catalog_pages import check_catalog

    check_catalog(folder or Settings.from_environment().catalog_dir)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="OLD", help=_NAMED)],
    after: Annotated[str, typer.Argument(metavar="NEW", help="The same.")],
) -> None:
    """Show what changes from one catalog to another: for whom, and from when."""
    from console.catalog_pages import show_differences

    show_differences(Settings.from_environment(), before, after)


@app.command()
def history() -> None:
    """List the catalogs that were current, and since when: what was known at which time."""
    from console.catalog_pages import show_history

    show_history(Settings.from_environment())


@app.command()
def schema(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write them.")] = PROJECT_ROOT
    / "catalog"
    / "schema",
) -> None:
    """Write the JSON Schema of the catalog's files, by which editors complete and check them."""
    from console.catalog_pages import write_schemas

    write_schemas(out)
