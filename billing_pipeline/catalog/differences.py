"""Two catalogs -> what changes, for whom, from when. Pure.

Entries are compared by their canonical content, so that every field that can decide a bill is seen. Not here: what the change
costs (backtest), whether it may be loaded (catalog_store).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from billing_pipeline.catalog.entries import Catalog, EntryContent, Kind, Subscription
from billing_pipeline.catalog.features import Entitlement, GivenTo


class Change(StrEnum):
    """What happened to an entry, or to one version of it."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One field of an entry before and after, as the files spell it; None where it is not written."""

    field: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        return f"{self.field}: {self.before or '-'} -> {self.after or '-'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One version of one entry that differs.

    `since` is the instant in UTC from which bills can be others: the first at which both the entry and one of the subscriptions
    are in force; None where no subscription is concerned and the entry has no date. `subscriptions` and `accounts` are those
    that are concerned, of either catalog, ascending. `after_json` is the entry's canonical content afterwards, None where it
    is gone.
    """

    kind: Kind
    entry_id: str
    version: int
    change: Change
    fields: tuple[FieldChange, ...]
    since: datetime | None
    subscriptions: tuple[str, ...]
    accounts: tuple[str, ...]
    after_json: str | None


def differences(before: Catalog, after: Catalog) -> tuple[Difference, ...]:
    """Return what differs between the catalogs, ordered by kind, entry and version; empty for the same content."""
    old, new = _by_key(before.contents), _by_key(after.contents)
    found = []
    for key in sorted(old.keys() | new.keys(), key=lambda key: (_ORDER[key[0]], key[1], key[2])):
        one, other = old.get(key), new.get(key)
        if one is not None and other is not None and one.sha256 == other.sha256:
            continue
        kind, entry_id, version = key
        concerned = _concerned(before, kind, entry_id) | _concerned(after, kind, entry_id)
        since = _since(before, after, kind, entry_id, version, concerned)
        found.append(
            Difference(
                kind=kind,
                entry_id=entry_id,
                version=version,
                change=Change.ADDED if one is None else Change.REMOVED if other is None else Change.CHANGED,
                fields=tuple(_field_changes(one, other)),
                since=since,
                subscriptions=tuple(sorted(concerned)),
                accounts=tuple(sorted(_accounts(before, after, kind, entry_id, concerned))),
                after_json=None if other is None else other.json,
            )
        )
    return tuple(found)


_ORDER: Mapping[Kind, int] = {kind: place for place, kind in enumerate(Kind)}


def _by_key(contents: Iterable[EntryContent]) -> dict[tuple[Kind, str, int], EntryContent]:
    return {(content.kind, content.entry_id, content.version): content for content in contents}


def _field_changes(before: EntryContent | None, after: EntryContent | None) -> Iterator[FieldChange]:
    old = {} if before is None else dict(_flat("", json.loads(before.json)))
    new = {} if after is None else dict(_flat("", json.loads(after.json)))
    for field in sorted(old.keys() | new.keys()):
        if field not in ("id", "version", "versions.1.version") and old.get(field) != new.get(field):
            # The content of a price is one version of it, as a list of one.
            yield FieldChange(field=field.removeprefix("versions.1."), before=old.get(field), after=new.get(field))


def _flat(place: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield the leaves of canonical JSON by their path, counted from 1: `versions.1.tiers.2.unit_price`.

    Lists of plain values are one leaf: a list of prices or endpoints is read as a whole.
    """
    match value:
        case dict():
            for name, part in value.items():
                yield from _flat(f"{place}.{name}" if place else name, part)
        case list() if any(isinstance(part, dict) for part in value):
            for number, part in enumerate(value, 1):
                yield from _flat(f"{place}.{number}", part)
        case str():
            yield place, value
        case _:
            yield place, json.dumps(value, ensure_ascii=False)


def _concerned(catalog: Catalog, kind: Kind, entry_id: str) -> set[str]:
    """Return the subscriptions whose bills the entry decides."""
    return {
        subscription.subscription_id
        for subscription in catalog.subscriptions.values()
        if _decides(catalog, kind, entry_id, subscription)
    }


def _decides(catalog: Catalog, kind: Kind, entry_id: str, subscription: Subscription) -> bool:
    prices = catalog.prices_of(subscription)
    match kind:
        case Kind.SUBSCRIPTION:
            return subscription.subscription_id == entry_id
        case Kind.ACCOUNT:
            return subscription.account_id == entry_id
        case Kind.PLAN:
            return any(phase.plan_id == entry_id for phase in subscription.phases)
        case Kind.PRICE:
            return any(price.price_id == entry_id for price in prices)
        case Kind.METER:
            return any(price.meter_id == entry_id for price in prices)
        case Kind.BILLABLE_RULE:
            return any(price.meter_id is not None for price in prices)
        case Kind.FEATURE:
            return any(
                _is_given(one, subscription) for one in catalog.entitlements.values() if one.feature_id == entry_id
            )
        case Kind.ENTITLEMENT:
            return entry_id in catalog.entitlements and _is_given(catalog.entitlements[entry_id], subscription)
        case Kind.COUPON:
            redeemed = (*subscription.coupons, *catalog.accounts[subscription.account_id].coupons)
            return any(one.coupon_id == entry_id for one in redeemed)
        case Kind.RECURRING_CREDIT:
            credit = catalog.recurring_credits.get(entry_id)
            return credit is not None and credit.account_id == subscription.account_id


def _is_given(entitlement: Entitlement, subscription: Subscription) -> bool:
    match entitlement.given_to:
        case GivenTo.PLAN:
            return any(phase.plan_id == entitlement.given_to_id for phase in subscription.phases)
        case GivenTo.SUBSCRIPTION:
            return entitlement.given_to_id == subscription.subscription_id
        case GivenTo.ACCOUNT:
            return entitlement.given_to_id == subscription.account_id


def _accounts(before: Catalog, after: Catalog, kind: Kind, entry_id: str, concerned: Iterable[str]) -> set[str]:
    if kind is Kind.ACCOUNT:
        return {entry_id}
    return {
        catalog.subscriptions[subscription_id].account_id
        for subscription_id in concerned
        for catalog in (before, after)
        if subscription_id in catalog.subscriptions
    }


def _since(
    before: Catalog, after: Catalog, kind: Kind, entry_id: str, version: int, concerned: Iterable[str]
) -> datetime | None:
    starts = [
        catalog.subscriptions[subscription_id].starts_at
        for subscription_id in concerned
        for catalog in (before, after)
        if subscription_id in catalog.subscriptions
    ]
    first = min(starts, default=None)
    if kind is not Kind.PRICE:
        return first
    effective = [
        one.effective_from
        for catalog in (before, after)
        if entry_id in catalog.prices
        for one in catalog.prices[entry_id].versions
        if one.version == version
    ]
    begin = min(effective, default=None)
    return begin if first is None or begin is None else max(begin, first)
