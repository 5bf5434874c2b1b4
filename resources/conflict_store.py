"""Write a person's decision about an identity that came with different contents. Append-only: decided once.

Not here: finding conflicts and applying decisions (usage), listing them (status_reader).
"""

from datetime import date

from billing_pipeline.errors import BillingError
from resources.database import Database

NONE_COUNTS = "none"


class ConflictUndecidableError(BillingError):
    """The conflict does not exist, has no such version, or is decided."""


def decide(
    database: Database, *, source: str, event_id: str, content_sha256: str, actor: str, reason: str
) -> tuple[date, ...]:
    """Name the version that counts, by the first digits of its content digest or `none`, and return its event days.

    Those days are stale from now on; the next build applies the decision.

    Raises:
        ConflictUndecidableError: there is no such conflict or version, two versions begin so, somebody decided before,
            or actor or reason is empty.
    """
    if not actor.strip() or not reason.strip():
        raise _undecidable(source, event_id, "a decision names who took it and why", fix="Give --actor and --reason.")
    with database.transaction(f"core/request_conflict|{source}|{event_id}") as connection:
        versions = connection.execute(
            """
            select content_sha256, event_day
            from core.request_conflict
            where source = %s and event_id = %s
            order by content_sha256
            """,
            (source, event_id),
        ).fetchall()
        if not versions:
            raise _undecidable(source, event_id, "no such conflict is known", fix="List them with `billing conflicts`.")
        decided = connection.execute(
            "select actor, reason from core.request_conflict_decision where source = %s and event_id = %s",
            (source, event_id),
        ).fetchone()
        if decided is not None:
            raise _undecidable(
                source,
                event_id,
                f"{decided[0]} decided it ({decided[1]})",
                fix="A decision is final; correct the amount with an adjustment.",
            )
        chosen = _chosen({digest for digest, _ in versions}, source, event_id, content_sha256)
        connection.execute(
            """
            insert into core.request_conflict_decision (source, event_id, content_sha256, actor, reason)
            values (%s, %s, %s, %s, %s)
            """,
            (source, event_id, chosen, actor, reason),
        )
    return tuple(sorted({day for _, day in versions}))


def _chosen(digests: set[str], source: str, event_id: str, wanted: str) -> str | None:
    if wanted == NONE_COUNTS:
        return None
    matches = sorted(digest for digest in digests if digest.startswith(wanted.lower()))
    if len(matches) != 1 or not wanted:
        shown = ", ".join(sorted(digest[:12] for digest in digests))
        problem = "no version begins so" if not matches else "more than one version begins so"
        raise _undecidable(
            source, event_id, f"{problem}: {wanted!r}", fix=f"Give one of {shown}, or none if no version counts."
        )
    return matches[0]


def _undecidable(source: str, event_id: str, problem: str, *, fix: str) -> ConflictUndecidableError:
    return ConflictUndecidableError(
        f"The conflict of {source} {event_id} was not decided: {problem}.",
        bill="Nothing changed; an undecided request is not billed, one already billed stays billed.",
        fix=fix,
    )
