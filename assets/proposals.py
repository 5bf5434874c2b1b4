"""A person's word in the UI about a big change of a final invoice: a job with run configuration, the same as `billing approve`.

What waits is shown on the page of `invoicing/items`. Not here: which changes wait, what booking does (resources/invoicing).
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from assets.code_version import code_version
from assets.metadata import markdown_table
from billing_pipeline.errors import BillingError
from resources.invoicing.proposal_desk import ProposalDesk
from resources.invoicing.proposal_store import Proposal

APPROVE, REJECT = "approve", "reject"
_LISTED = 20


class DecisionUnreadableError(BillingError):
    """A run configuration that does not say what is decided about what."""


class ProposalConfig(dg.Config):
    """`proposal`: the first digits of its id; or `account` with `period`, any day inside of it as 2026-03-15 (UTC). `decision`:
    approve or reject. `actor` and `reason` are kept for ever."""

    decision: str
    actor: str
    reason: str
    proposal: str = Field(default="")
    account: str = Field(default="")
    period: str = Field(default="")


@dg.op
def decide(
    context: dg.OpExecutionContext, config: ProposalConfig, proposal_desk: dg.ResourceParam[ProposalDesk]
) -> None:
    """Approve or reject one proposal, and say what came of it."""
    if config.decision not in (APPROVE, REJECT):
        raise _unreadable(f"decision is {config.decision!r}", f"write {APPROVE} or {REJECT}")
    name = config.proposal or _named(config, proposal_desk)
    now = datetime.now(UTC)
    if config.decision == APPROVE:
        done = proposal_desk.approve(
            name,
            actor=config.actor,
            reason=config.reason,
            now=now,
            run_id=context.run_id,
            code_version=code_version(),
        )
        what = "approved and booked" if done.is_booked else "approved, and not booked: what is rated has changed since"
    else:
        done = proposal_desk.reject(name, actor=config.actor, reason=config.reason, now=now)
        what = "rejected: it stays as it is booked"
    found = done.proposal
    context.log.info(f"{found.account_id}, {found.booked} to {found.proposed}: {what}")
    context.add_output_metadata({"decided": what, "proposal": proposal_table([found])})


def _named(config: ProposalConfig, desk: ProposalDesk) -> str:
    try:
        day = datetime.fromisoformat(config.period).replace(tzinfo=UTC)
    except ValueError:
        raise _unreadable(
            f"neither a proposal is named nor a day of its period ({config.period!r})",
            "set proposal, or account and period, as 2026-03-15",
        ) from None
    return desk.named(config.account, lambda one: one.period.start <= day < one.period.end)


@dg.job(
    description="Approve or reject a change of a final invoice that is too big to book itself: run configuration names the "
    "proposal (or account and a day of its period), the decision, who decides and why. What waits: the page of invoicing/items."
)
def decide_proposal() -> None:
    """Run the one step."""
    decide()


def proposal_table(proposals: Sequence[Proposal]) -> dg.MetadataValue:
    """Return proposals as a table, for pages."""
    return markdown_table(
        ("proposal", "account", "subscription", "period", "booked", "proposed", "decision"),
        [
            (
                str(one.proposal_id)[:8],
                one.account_id,
                one.subscription_id,
                f"{one.period.start:%Y-%m-%d} to {one.period.end:%Y-%m-%d}",
                str(one.booked),
                str(one.proposed),
                one.decision or "waits: job decide_proposal",
            )
            for one in proposals[:_LISTED]
        ],
    )


def _unreadable(what: str, fix: str) -> DecisionUnreadableError:
    return DecisionUnreadableError(what, bill="nothing was decided; what is booked stays as it is", fix=fix)
