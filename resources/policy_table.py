"""Read a TOML file of decisions by a table of pydantic's: the table, its defaults where there is no file, or every problem at once.

Not here: which decisions there are (invoicing/policy_file, stripe_sync/policy_file), what a problem means for the bill.
"""

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from billing_pipeline.errors import BillingError

_Read = TypeVar("_Read", bound="PolicyTable")


class PolicyTable(BaseModel):
    """A table that knows all its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_policy(path: Path, table: type[_Read], wrong: Callable[[Path, Sequence[str]], BillingError]) -> _Read:
    """Return what the file says; `wrong` makes the error of its problems, each with its place."""
    if not path.exists():
        return table()
    try:
        return table.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise wrong(path, [f"cannot be read: {error}"]) from error
    except ValidationError as error:
        raise wrong(path, [_problem(one["loc"], one["msg"]) for one in error.errors(include_url=False)]) from None


def found_in(path: Path, problems: Sequence[str]) -> str:
    """Return the problems of a file as a text, one a line."""
    shown = "".join(f"\n    - {problem}" for problem in problems)
    return f"{path} has {len(problems)} finding{'s' if len(problems) != 1 else ''}:{shown}"


def _problem(place: tuple[int | str, ...], message: str) -> str:
    where = ".".join(str(part + 1 if isinstance(part, int) else part) for part in place)
    return f"{where}: {message.removeprefix('Value error, ')}"
