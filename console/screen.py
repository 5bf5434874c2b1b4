"""Write to a person's terminal: tables, notes, progress, one clear error. Plain lines where there is no terminal.

Standard output carries what was asked for, standard error everything about how it went. Not here: what is shown.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from billing_pipeline.errors import BillingError

# Rich assumes 80 columns where there is no terminal, and would cut the tables of a log file.
_PLAIN_WIDTH = 160

Advance = Callable[[str, int, int], None]


def page() -> Console:
    """Return the console of what was asked for: standard output."""
    return _console(stderr=False)


def notes() -> Console:
    """Return the console of remarks, progress and errors: standard error."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PLAIN_WIDTH
    return Console(stderr=stderr, highlight=False, width=width, soft_wrap=not stream.isatty())


def table(title: str, *columns: str, numbers: Sequence[str] = ()) -> Table:
    """Return an empty table; the columns named in `numbers` are right-aligned."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def count(number: int) -> str:
    """Return a count with thousands separated, as `1,234`."""
    return f"{number:,}"


def show_error(error: BillingError) -> None:
    """Write what happened, what it means for the bill, and what to do."""
    console = notes()
    console.print(f"[bold red]Error:[/] {escape(error.what)}")
    console.print(f"  For the bill: {escape(error.bill)}")
    console.print(f"  To fix: {escape(error.fix)}")


@contextmanager
def progress() -> Iterator[Advance]:
    """Yield `advance(what, done, total)`: a bar for each `what` on a terminal, else a line when one begins and ends."""
    if not sys.stderr.isatty():
        yield _plain_progress()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=notes(), transient=True) as bars:
        tasks = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(escape(what), total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield advance


def _plain_progress() -> Advance:
    begun: set[str] = set()
    console = notes()

    def advance(what: str, done: int, total: int) -> None:
        if what not in begun:
            begun.add(what)
            console.print(f"{escape(what)} …")
        if done == total:
            # What comes again under this name is another piece of work.
            begun.discard(what)
            console.print(f"{escape(what)}: {count(done)} done")

    return advance
