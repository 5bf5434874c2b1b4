"""Until when a draft is kept one, and letting it go: `automatically_finalizes_at` of Stripe, always a bound, never an end.

A hold is set once and as far as it may be needed; it fails towards finalization. What is set is answered with, so no read
follows. Not here: why a draft is kept (draft_target).
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from billing_pipeline.stripe_sync.policy import SyncPolicy
from resources.stripe_api.calls import Json, Operation, StripeCall
from resources.stripe_sync.draft_target import Target
from resources.stripe_sync.intent_store import Write
from resources.stripe_sync.writer import Writer

# A person's hold is renewed by every run, and never goes on for longer than this after the draft was made.
PERSON_HOLDS_AT_MOST = timedelta(days=30)
# What Stripe gives a renewal's draft by itself.
NATURAL_LIFE = timedelta(hours=1)


def needed(target: Target, invoice: Json, now: datetime, enough_time: timedelta, policy: SyncPolicy) -> datetime:
    """Return until when the draft must stay one: for a person, until its period is whole, or for this run to be through."""
    if target.is_held_by_a_person:
        return min(now + policy.hold_at_most, _made_at(invoice) + PERSON_HOLDS_AT_MOST)
    if target.missing:
        return _made_at(invoice) + policy.hold_at_most
    return for_time(invoice, now, enough_time, policy)


def for_time(invoice: Json, now: datetime, enough_time: timedelta, policy: SyncPolicy) -> datetime:
    """Return until when the draft must stay one for a run of `enough_time` to be through with it."""
    least = max(enough_time, policy.safe_time)
    current = finalizes_at(invoice)
    if current is not None and current >= now + least:
        return current
    return min(now + 2 * least, _made_at(invoice) + policy.hold_at_most)


def longest(invoice: Json, policy: SyncPolicy) -> datetime:
    """Return until when a draft may be held at most, a person's hold aside."""
    return _made_at(invoice) + policy.hold_at_most


def hold(writer: Writer, invoice: Json, until: datetime) -> datetime | None:
    """Keep the draft one until then at most, if it is not kept so long already; return when Stripe finalizes it, None: never."""
    current = finalizes_at(invoice)
    is_stopped = not invoice["auto_advance"]
    if is_stopped or until <= writer.clock() or (current is not None and current >= until):
        return current
    _set(writer, invoice["id"], {"automatically_finalizes_at": int(until.timestamp())})
    return until


def let_go(
    writer: Writer,
    invoice: Json,
    held_until: datetime | None,
    now: datetime,
    policy: SyncPolicy,
    *,
    is_ours: bool,
) -> None:
    """Let Stripe finalize the draft soon: one of our own begins to be finalized, one that was held is held no longer."""
    at = now + policy.release_after
    if is_ours:
        _set(writer, invoice["id"], {"auto_advance": True, "automatically_finalizes_at": int(at.timestamp())})
        return
    at = max(at, _made_at(invoice) + NATURAL_LIFE)
    if held_until is not None and held_until > at:
        _set(writer, invoice["id"], {"automatically_finalizes_at": int(at.timestamp())})


def is_exhausted(target: Target, invoice: Json, now: datetime, policy: SyncPolicy) -> bool:
    """Tell whether the draft has been held for as long as it may be."""
    longest = PERSON_HOLDS_AT_MOST if target.is_held_by_a_person else policy.hold_at_most
    return now >= _made_at(invoice) + longest


def finalizes_at(invoice: Json) -> datetime | None:
    """Return when Stripe finalizes the draft by itself, None: it does not."""
    at = invoice.get("automatically_finalizes_at")
    return None if at is None else datetime.fromtimestamp(at, UTC)


def _made_at(invoice: Json) -> datetime:
    return datetime.fromtimestamp(invoice["created"], UTC)


def _set(writer: Writer, invoice_id: str, params: dict[str, Any]) -> None:
    call = StripeCall(operation=Operation.INVOICES_UPDATE, ids=(invoice_id,), params=params)
    writer.send_setting(Write(subject=f"{invoice_id}:finalizing", call=call))
