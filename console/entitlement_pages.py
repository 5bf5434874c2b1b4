"""Answer whether an account may use a feature, and list what it may use. Not here: the rules (billing_pipeline.entitlements)."""

import json
from datetime import datetime
from decimal import Decimal, InvalidOperation

from rich.markup import escape

from billing_pipeline.amounts import Exact, exact_text
from billing_pipeline.catalog import Catalog
from billing_pipeline.entitlements import Reason
from billing_pipeline.errors import BillingError
from console.arithmetic import grouped
from console.near import did_you_mean
from console.screen import page, table
from resources.catalog_store import CatalogStore
from resources.entitlements.entitlement_store import Access, EntitlementStore
from resources.runtime import running
from resources.settings import Settings

_SENTENCES = {
    Reason.NOT_ENTITLED: "no plan, subscription or account entitlement gives it this feature now",
    Reason.DISABLED: "the feature is switched off for it",
    Reason.ENABLED: "the feature is switched on for it",
    Reason.UNLIMITED: "its use is not limited",
    Reason.WITHIN_LIMIT: "it is within its limit",
    Reason.LIMIT_REACHED: "its hard limit would be passed",
    Reason.BEYOND_SOFT_LIMIT: "its soft limit is passed; what lies beyond is allowed and billed",
}


class QuantityUnreadableError(BillingError):
    """The quantity that is asked for is no number from 0 on."""


class NameUnknownError(BillingError):
    """An account or a feature that the catalog does not have."""


def show_access(
    settings: Settings, account_id: str, feature_id: str, *, quantity: str, at: datetime, as_json: bool
) -> bool:
    """Print whether the account may use `quantity` more of the feature at `at`, and return it.

    Raises:
        QuantityUnreadableError: no number from 0 on.
        NameUnknownError: the catalog has no such account or feature.
    """
    requested = _quantity(quantity)
    with running(settings) as runtime:
        store = EntitlementStore(runtime.database)
        store.refresh(now=at)
        access = store.access(account_id, feature_id, at=at, requested=requested)
        if access.decision.reason is Reason.NOT_ENTITLED:
            _refuse_unknown(CatalogStore(runtime.database).current(), account_id, feature_id)
    decision = access.decision
    if as_json:
        page().print_json(json.dumps(_as_json(access)))
        return decision.is_allowed
    word = "[bold green]allowed[/]" if decision.is_allowed else "[bold red]denied[/]"
    page().print(f"{escape(account_id)} {escape(feature_id)}: {word}: {_SENTENCES[decision.reason]}")
    if decision.value is not None:
        page().print(f"  value: {escape(decision.value)}")
    if access.counted is not None:
        start, end = (f"{edge:%Y-%m-%d %H:%M}" for edge in (access.counted.start, access.counted.end))
        until = (
            "no usage is built yet"
            if access.counted_until is None
            else f"built until {access.counted_until:%Y-%m-%d %H:%M}"
        )
        page().print(f"  used {_number(decision.used)} of {_number(decision.limit)} in {start} to {end} UTC ({until})")
    if access.sources:
        page().print(f"  from {escape(', '.join(access.sources))}")
    return decision.is_allowed


def show_entitlements(settings: Settings, account_id: str, *, at: datetime) -> None:
    """Print every feature that the account has at `at`, with its use."""
    with running(settings) as runtime:
        store = EntitlementStore(runtime.database)
        store.refresh(now=at)
        found = [
            (feature, store.access(account_id, feature, at=at)) for feature in store.features_of(account_id, at=at)
        ]
    shown = table(
        f"What {escape(account_id)} may use",
        "feature",
        "now",
        "used",
        "limit",
        "value",
        "sources",
        numbers=("used", "limit"),
    )
    for feature, access in found:
        decision = access.decision
        shown.add_row(
            escape(feature),
            "allowed" if decision.is_allowed else "denied",
            _number(decision.used) if access.counted is not None else "",
            _number(decision.limit) if access.counted is not None else "",
            escape(decision.value or ""),
            escape(", ".join(access.sources)),
        )
    page().print(shown)


def _refuse_unknown(catalog: Catalog, account_id: str, feature_id: str) -> None:
    for kind, name, known in (("account", account_id, catalog.accounts), ("feature", feature_id, catalog.features)):
        if name not in known:
            raise NameUnknownError(
                f"there is no {kind} {name!r}. {did_you_mean(name, known)}",
                bill="nothing is decided; a name that does not exist may use nothing",
                fix=f"take one of {kind}s.toml; if it is new there, load the catalog",
            )


def _number(value: Exact | None) -> str:
    return "unlimited" if value is None else grouped(exact_text(value))


def _quantity(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value < 0:
        raise QuantityUnreadableError(
            f"{text!r} is no quantity",
            bill="nothing is decided or billed",
            fix="give a number from 0 on, such as 1 or 250",
        )
    return value


def _as_json(access: Access) -> dict[str, object]:
    decision = access.decision
    numbers = {
        "limit": decision.limit,
        "used": decision.used,
        "remaining": decision.remaining,
        "overage": decision.overage,
    }
    return {
        "allowed": decision.is_allowed,
        "reason": decision.reason.value,
        **{name: None if value is None else exact_text(value) for name, value in numbers.items()},
        "value": decision.value,
        "sources": list(access.sources),
        "counted_from": access.counted and access.counted.start.isoformat(),
        "counted_to": access.counted and access.counted.end.isoformat(),
        "counted_until": access.counted_until and access.counted_until.isoformat(),
    }
