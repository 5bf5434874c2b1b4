"""How far each account is at Stripe, by the sync's own word: in step with what is wanted now, or behind since when. Read-only.

Not here: comparing amounts (reconciler), sending anything (stripe_sync).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from billing_pipeline.catalog import Catalog
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.items import CompiledInvoice
from billing_pipeline.reconciliation import Standing
from resources.invoicing.invoice_rows import read_compiled, read_invoice_rows
from resources.stripe_mirror import changed_accounts
from resources.stripe_mirror.links import StripeLinks
from resources.stripe_sync import intent_store, sync_store
from resources.stripe_sync.account_sync import wanted_digest_of
from resources.stripe_sync.accounts import StripeAccount, stripe_accounts
from resources.stripe_sync.sync_store import AccountState, SyncState


@dataclass(frozen=True, slots=True)
class _Signs:
    """What tells that an account is not as the sync left it."""

    unfinished: frozenset[str]
    changed: frozenset[str]
    began_at: datetime


def account_standings(
    connection: psycopg.Connection, catalog: Catalog, links: StripeLinks, *, began_at: datetime
) -> dict[str, Standing]:
    """Return how every linked account stands. Who was worked on since `began_at` is behind: nobody knows what was read when."""
    states = sync_store.account_states(connection)
    signs = _Signs(
        unfinished=frozenset(intent_store.customers_with_open_intents(connection)),
        changed=frozenset(changed_accounts.changed(connection)),
        began_at=began_at,
    )
    drafts: dict[str, list[CompiledInvoice]] = {}
    found = read_invoice_rows(connection, "state = 'draft'", {})
    lines = read_compiled(connection, found)
    for row in found:
        drafts.setdefault(row.key.account_id, []).append(lines[row.invoice_id])
    return {
        account_id: _standing(account, states.get(account_id), drafts.get(account_id, []), signs)
        for account_id, account in stripe_accounts(links, catalog).items()
    }


def _standing(
    account: StripeAccount, state: AccountState | None, drafts: Sequence[CompiledInvoice], signs: _Signs
) -> Standing:
    is_behind = (
        state is None
        or state.state is not SyncState.IN_STEP
        or (state.verified_at is not None and state.verified_at > signs.began_at)
        or account.customer_id in signs.unfinished
        or account.account_id in signs.changed
        or state.wanted_digest != _digest(account, drafts)
    )
    return Standing(
        customer_id=account.customer_id,
        is_behind=is_behind,
        behind_since=None if state is None else state.behind_since or (state.synced_at if is_behind else None),
        synced_at=None if state is None else state.synced_at,
        problem=None if state is None else state.problem,
    )


def _digest(account: StripeAccount, drafts: Sequence[CompiledInvoice]) -> str | None:
    try:
        return wanted_digest_of(account, tuple(drafts))
    except BillingError:
        return None


def lag_seconds(standing: Standing, *, now: datetime) -> int | None:
    """Return for how long an account has not been in step; None: it is, or it was never synced."""
    if not standing.is_behind or standing.behind_since is None:
        return None
    return max(0, int((now - standing.behind_since).total_seconds()))
