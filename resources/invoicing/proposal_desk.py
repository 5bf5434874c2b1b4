"""Carry out what a person decides about a big change of a final period: note it, book its day, compile the account. One way for
terminal and UI. Again after a crash: what was approved is due, and is booked by whoever books next.

Not here: which changes wait (billing_pipeline.invoicing.proposals), keeping them (proposal_store).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from resources.charge_store import ChargeStore
from resources.invoicing.invoice_store import InvoiceStore
from resources.invoicing.proposal_store import Proposal, ProposalStore, ProposalUnknownError


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalDecided:
    """What was decided about. `is_booked`: the change is in the books now; not so where what is rated has changed since, which is
    another proposal, and of what was rejected."""

    proposal: Proposal
    is_booked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalDesk:
    """Decisions of one installation."""

    proposals: ProposalStore
    charges: ChargeStore
    invoices: InvoiceStore

    def waiting(self) -> tuple[Proposal, ...]:
        """Return what waits for a person, or to be booked; the biggest change first."""
        return self.proposals.waiting()

    def named(self, account_id: str, of_period: Callable[[Proposal], bool]) -> str:
        """Return the id of the one change of the account that waits for a period.

        Raises:
            ProposalUnknownError: none waits, or several do.
        """
        found = [one for one in self.waiting() if one.account_id == account_id and of_period(one)]
        if len(found) != 1:
            ids = ", ".join(f"{str(one.proposal_id)[:8]} of {one.subscription_id}" for one in found) or "none"
            raise ProposalUnknownError(
                f"of account {account_id!r} in that period {len(found)} proposals wait: {ids}",
                bill="nothing was decided; what is booked stays as it is",
                fix="name the proposal by the first digits of its id, from `billing proposals` or the page of invoicing/items",
            )
        return str(found[0].proposal_id)

    def approve(
        self, name: str, *, actor: str, reason: str, now: datetime, run_id: str, code_version: str
    ) -> ProposalDecided:
        """Let a change be booked, and book its day; raises as `ProposalStore.approve`."""
        found = self.proposals.approve(name, actor=actor, reason=reason, now=now)
        self.charges.book_days([found.day], run_id=run_id, code_version=code_version)
        still = any(
            one.period == found.period and one.subscription_id == found.subscription_id for one in self.waiting()
        )
        self.invoices.compile_invoices(as_of=now, accounts=[found.account_id])
        return ProposalDecided(proposal=found, is_booked=not still)

    def reject(self, name: str, *, actor: str, reason: str, now: datetime) -> ProposalDecided:
        """Keep what is booked for as long as it is rated as it was; raises as `ProposalStore.reject`."""
        found = self.proposals.reject(name, actor=actor, reason=reason, now=now)
        return ProposalDecided(proposal=found, is_booked=False)
