"""What may become of an invoice: draft -> final -> void, and what refuses it. Pure.

A draft follows the books; a final invoice never changes: what is found later goes onto the next one, or is credited. A void
one counts no more; its period can be issued again, under the next issue number. Not here: keeping states (invoice_store).
"""

from enum import StrEnum

from billing_pipeline.errors import BillingError


class InvoiceStateError(BillingError):
    """A step that the invoice's state does not allow."""


class InvoiceState(StrEnum):
    """Where an invoice stands."""

    DRAFT = "draft"
    FINAL = "final"
    VOID = "void"


_MAY_BECOME: dict[InvoiceState, frozenset[InvoiceState]] = {
    InvoiceState.DRAFT: frozenset({InvoiceState.FINAL}),
    InvoiceState.FINAL: frozenset({InvoiceState.VOID}),
    InvoiceState.VOID: frozenset(),
}


def may_become(state: InvoiceState, wanted: InvoiceState) -> bool:
    """Return whether an invoice may go from `state` to `wanted`; staying where it is is always allowed and does nothing."""
    return state is wanted or wanted in _MAY_BECOME[state]


def refuse_unless(state: InvoiceState, wanted: InvoiceState, *, invoice: str) -> bool:
    """Return whether there is anything to do, False where the invoice is there already.

    Raises:
        InvoiceStateError: the invoice cannot go there.
    """
    if state is wanted:
        return False
    if not may_become(state, wanted):
        raise InvoiceStateError(
            f"invoice {invoice} is {state.value} and cannot become {wanted.value}",
            bill="nothing was changed",
            fix=_WAY_OUT[state],
        )
    return True


def refuse_unless_void(state: InvoiceState, *, invoice: str) -> None:
    """Let pass an invoice whose period can be issued again.

    Raises:
        InvoiceStateError: it is not void.
    """
    if state is not InvoiceState.VOID:
        raise InvoiceStateError(
            f"invoice {invoice} is {state.value}: only the period of a void invoice can be issued again",
            bill="nothing was changed",
            fix=_WAY_OUT[state],
        )


_WAY_OUT: dict[InvoiceState, str] = {
    InvoiceState.DRAFT: "only a final invoice can be made void; change a draft with `billing adjust`",
    InvoiceState.FINAL: "give money back with `billing credit-note`; what is charged later comes onto the next invoice by itself",
    InvoiceState.VOID: "issue its period again with `billing reissue`",
}
