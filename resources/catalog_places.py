"""Say of errors of rating in which file and line of the catalog folder the cause stands. Reads files, changes nothing.

The folder is read as it is now: that is what a person corrects. Not here: what is wrong (rating, catalog.validation).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from billing_pipeline.catalog import FILES, CatalogError
from billing_pipeline.catalog.lines import line_of, placed
from billing_pipeline.rating import UnratableError


@contextmanager
def errors_placed(folder: Path | None) -> Iterator[None]:
    """Let errors of rating, and of a kept catalog that is wrong, name file and line in `folder`; None: the file alone."""
    try:
        yield
    except UnratableError as error:
        content = None if folder is None else _content(folder, FILES[error.place.kind])
        raise error.at_line(None if content is None else line_of(error.place, content)) from None
    except CatalogError as error:
        names = {finding.file for finding in error.findings}
        files = {} if folder is None else {name: _content(folder, name) for name in names}
        found = {name: content for name, content in files.items() if content is not None}
        raise CatalogError(placed(error.findings, found)) from None


def _content(folder: Path, name: str) -> bytes | None:
    try:
        return (folder / name).read_bytes()
    except OSError:
        return None
