"""How the accounts of an installation stand with Stripe, for people: counts, lag, findings, runs. Reads PostgreSQL only.

Answers with Stripe down, and says since when what is shown was not brought there. Not here: what to do about it (docs/stripe.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from resources.database import Database
from resources.stripe_sync import intent_store, sync_store
from resources.stripe_sync.intent_store import DeadLetter
from resources.stripe_sync.sync_store import AccountState, Finding, SyncState


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOverview:
    """`by_state` counts accounts. `oldest_behind` is since when the account that is behind the longest is not in step.
    `waiting_drafts` are renewals whose true-up is not done. `last_ended` is when a sync last came to its end."""

    by_state: Mapping[SyncState, int]
    oldest_behind: datetime | None
    waiting_drafts: int
    findings: tuple[Finding, ...]
    dead_letters: int
    last_ended: datetime | None
    last_problem: str | None


@dataclass(frozen=True, slots=True)
class SyncReader:
    """Reads of one database."""

    database: Database

    def overview(self) -> SyncOverview:
        """Return how all accounts stand."""
        with self.database.reading() as connection:
            states = sync_store.account_states(connection)
            findings = sync_store.open_findings(connection)
            letters = intent_store.dead_letters(connection)
            waiting = connection.execute(
                "select count(*) from stripe.trueup_queue where state in ('waiting', 'missed')"
            ).fetchone()
            last = connection.execute(
                "select ended_at, problem from stripe.sync_run where ended_at is not null order by ended_at desc limit 1"
            ).fetchone()
        by_state: dict[SyncState, int] = {}
        for one in states.values():
            by_state[one.state] = by_state.get(one.state, 0) + 1
        return SyncOverview(
            by_state=by_state,
            oldest_behind=min(
                (
                    one.behind_since
                    for one in states.values()
                    if one.behind_since is not None and one.state is not SyncState.UNLINKED
                ),
                default=None,
            ),
            waiting_drafts=0 if waiting is None else int(waiting[0]),
            findings=findings,
            dead_letters=len(letters),
            last_ended=None if last is None else last[0],
            last_problem=None if last is None else last[1],
        )

    def account(self, account_id: str) -> AccountState | None:
        """Return how an account stands, None where it was never looked at."""
        with self.database.reading() as connection:
            return sync_store.account_states(connection, [account_id]).get(account_id)

    def findings(self, account_id: str | None = None) -> tuple[Finding, ...]:
        """Return what is open, of all accounts or of one."""
        with self.database.reading() as connection:
            return sync_store.open_findings(connection, account_id=account_id)

    def dead_letters(self, account_id: str | None = None) -> tuple[DeadLetter, ...]:
        """Return the refused writes that wait for a person, of all accounts or of one."""
        with self.database.reading() as connection:
            return intent_store.dead_letters(connection, account_id=account_id)
