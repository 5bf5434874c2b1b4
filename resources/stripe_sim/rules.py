"""The one table of the rules that the stand-in plays by: value, where it is said, and how sure that is.

Marks: `sdk` the installed SDK says so (docstrings, types, code), `doc` Stripe's documentation, `issue` other people's reports,
`assumed` nobody could look: a switch, so that a client can be tried against the other answer too. The project may state
no assumed rule as a fact about Stripe. docs/stripe-sim.md prints the table.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_type_hints

from billing_pipeline.errors import BillingError

Mark = Literal["sdk", "doc", "issue", "assumed"]


class RuleUnknownError(BillingError):
    """A rule that the stand-in does not have, or a value that it cannot take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRow:
    """A line of the table."""

    name: str
    default: Any
    mark: str
    source: str
    meaning: str


def _rule(default: Any, mark: Mark, source: str, meaning: str) -> Any:
    return field(default=default, metadata={"mark": mark, "source": source, "meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Every rule's value. Durations are in seconds of the virtual clock unless the name says otherwise; 0 or less: off."""

    idempotency_seconds: int = _rule(
        24 * 3600, "doc", "docs.stripe.com/api/idempotent_requests", "a key is forgotten this long after its first use"
    )
    longest_idempotency_key: int = _rule(
        255, "doc", "docs.stripe.com/api/idempotent_requests", "characters of an Idempotency-Key"
    )
    replays_server_errors: bool = _rule(
        True, "doc", "docs.stripe.com/api/idempotent_requests", "a stored 500 is answered again, not executed again"
    )
    v2_replays: bool = _rule(
        True, "assumed", "docs.stripe.com/api-v2-overview", "a key of /v2 is answered from memory as one of /v1 is"
    )
    operation_rate: int = _rule(
        0, "doc", "docs.stripe.com/rate-limits", "requests a second of one operation (Stripe: 25)"
    )
    global_rate: int = _rule(
        0, "doc", "docs.stripe.com/rate-limits", "requests a second in all (Stripe: live 100, sandbox 25)"
    )
    rate_clock: str = _rule(
        "real", "assumed", "ours", "`real` or `virtual`: the clock whose seconds the two rates count"
    )
    event_retention_seconds: int = _rule(
        30 * 86400, "sdk", "EventService.list, v2 EventService.list", "how long events are listed"
    )
    draft_seconds: int = _rule(
        3600, "sdk", "Invoice: finalized about an hour after its webhooks", "how long a renewal's draft stays one"
    )
    longest_webhook_wait_seconds: int = _rule(
        72 * 3600, "doc", "invoicing/integration/workflow-transitions", "a draft waits no longer for failing endpoints"
    )
    webhook_retry_seconds: int = _rule(
        3 * 86400, "doc", "docs.stripe.com/webhooks", "a delivery is tried again for so long"
    )
    signature_clock: str = _rule(
        "real", "assumed", "ours", "`real` or `virtual`: whose time a webhook's signature carries"
    )
    most_invoice_items: int = _rule(250, "sdk", "InvoiceItemService.create", "items of one invoice")
    embedded_lines: int = _rule(10, "issue", "dj-stripe#1052", "lines that come with an invoice; the rest is paged")
    most_lines_a_call: int = _rule(
        0, "assumed", "not documented", "lines in one add_lines, update_lines or remove_lines; 0: as many as fit"
    )
    lines_call_is_atomic: bool = _rule(
        True, "assumed", "not documented", "one bad line refuses the whole add_lines, update_lines or remove_lines"
    )
    list_lag_seconds: int = _rule(
        0, "assumed", "only Search is documented as late", "a new object is missing from lists for so long"
    )
    event_lag_seconds: int = _rule(0, "assumed", "not documented", "a new event is missing from the feed for so long")
    meter_lag_seconds: int = _rule(
        60,
        "assumed",
        "aggregation is asynchronous, no figure is given",
        "a meter event is missing from summaries for so long",
    )
    meter_last_order: str = _rule(
        "timestamp",
        "assumed",
        "not documented",
        "`timestamp` or `receipt`: which event is the last one of formula `last`",
    )
    meter_oldest_seconds: int = _rule(
        35 * 86400, "sdk", "MeterEventCreateParams.timestamp", "how old a meter event may be"
    )
    meter_newest_seconds: int = _rule(
        300, "sdk", "MeterEventCreateParams.timestamp", "how far in the future a meter event may be"
    )
    meter_most_digits: int = _rule(
        15, "doc", "changelog/dahlia/2026-04-22", "significant digits of a meter event's value"
    )
    meter_identifier_seconds: int = _rule(
        24 * 3600, "sdk", "MeterEventCreateParams.identifier: at least 24 hours", "an identifier is unique for so long"
    )
    meter_repeated_identifier: str = _rule(
        "refused",
        "assumed",
        "the answer is not documented",
        "`refused` with 400, or `ignored` with 200 and not counted",
    )
    meter_decimals: bool = _rule(
        False, "assumed", "docs: whole numbers; older docs differ", "a value may have a fraction"
    )
    meter_cancel_seconds: int = _rule(24 * 3600, "sdk", "MeterEventAdjustment", "an event can be cancelled for so long")
    meter_error_window_seconds: int = _rule(
        3600,
        "assumed",
        "the window's length is not documented",
        "asynchronous meter errors are reported once in so long",
    )
    minimum_charges: bool = _rule(
        True,
        "sdk",
        "Invoice.amount_due",
        "an amount below the currency's minimum goes to the balance, the invoice is paid",
    )
    amount_steps: bool = _rule(
        True,
        "doc",
        "docs.stripe.com/currencies",
        "three-decimal amounts end in 0, ISK and UGX are multiples of 100; that items are refused, not only charges, is assumed",
    )
    renewal_draft_hold: bool = _rule(
        True, "assumed", "the SDK has the parameter", "automatically_finalizes_at moves a renewal's draft"
    )
    deleted_draft_frees_items: bool = _rule(
        True, "assumed", "not documented", "items of a deleted draft are pending again; otherwise they go with it"
    )
    payment_retry_seconds: int = _rule(
        3 * 86400, "assumed", "depends on the account's settings", "a failed payment is tried again after so long"
    )
    most_payment_attempts: int = _rule(
        4, "assumed", "depends on the account's settings", "attempts before Stripe gives up"
    )

    def with_changes(self, changes: Mapping[str, Any]) -> "Rules":
        """Return the rules with some values changed.

        Raises:
            RuleUnknownError: a name is no rule, or a value is of another type.
        """
        types = get_type_hints(Rules)
        for name, value in changes.items():
            if name not in types or type(value) is not types[name]:
                raise RuleUnknownError(
                    f"{name}={value!r} is no rule of the stand-in, or of another type",
                    bill="nothing was changed",
                    fix=f"rules: {', '.join(row.name for row in rule_table())}",
                )
        return replace(self, **changes)


def rule_table() -> Iterator[RuleRow]:
    """Yield the table, line by line."""
    for one in fields(Rules):
        yield RuleRow(name=one.name, default=one.default, **one.metadata)
