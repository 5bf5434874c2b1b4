"""Read instants as a person types them: 2026-03-02T12:00Z; without an offset UTC is meant."""

from datetime import UTC, datetime

import typer


def read_instant(text: str) -> datetime:
    """Return the instant in UTC that `text` names.

    Raises:
        typer.BadParameter: it names none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no instant; write it as 2026-03-02T12:00Z.") from None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def instant_or_now(text: str | None) -> datetime:
    """Return the instant that `text` names, or now."""
    return datetime.now(UTC) if text is None else read_instant(text)
