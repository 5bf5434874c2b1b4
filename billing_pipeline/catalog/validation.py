"""Entries that were read -> a `Catalog` whose entries agree with each other, or every finding at once. Pure.

Not here: the shape of one entry (tables), subscriptions (subscription_validation).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from difflib import get_close_matches
from itertools import pairwise

from billing_pipeline.cadences import MONTHLY
from billing_pipeline.catalog import coupon_findings, double_billing, feature_findings, invoice_links
from billing_pipeline.catalog.currencies import currency_problem, places_problem
from billing_pipeline.catalog.entries import (
    Account,
    BillingMode,
    Catalog,
    Kind,
    Plan,
    Price,
    PriceVersion,
    Timing,
)
from billing_pipeline.catalog.files import FILES, CatalogError, Finding, Reader
from billing_pipeline.catalog.lines import placed
from billing_pipeline.catalog.models import MeteredBalance, MinimumSpend
from billing_pipeline.catalog.price_tables import PriceTable
from billing_pipeline.catalog.price_validation import is_zone, meter_problems, usage_shape, version_problems
from billing_pipeline.catalog.subscription_validation import (
    Lives,
    plan_terms,
    subscription_findings,
    subscription_of,
)
from billing_pipeline.meters import Meter, MeterSource
from billing_pipeline.sources.personal_names import Pseudonymise

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BEGIN = datetime.min.replace(tzinfo=UTC)
_OPEN = datetime.max.replace(tzinfo=UTC)


def parse_catalog(files: Mapping[str, bytes], pseudonymise: Pseudonymise | None = None) -> Catalog:
    """Return the catalog that the TOML files (name -> bytes) of one folder spell.

    `pseudonymise` puts pseudonyms in the place of e-mail addresses among clients; without it they stay as they are.

    Raises:
        CatalogError: with every finding, each naming file, entry and field.
    """
    reader = Reader(pseudonymise)
    reader.read_files(files)
    try:
        return catalog_of(reader)
    except CatalogError as error:
        raise CatalogError(placed(error.findings, files)) from None


def restore_catalog(contents: Iterable[tuple[Kind, str]]) -> Catalog:
    """Return the catalog whose canonical contents (kind, JSON) were kept by an earlier load.

    Raises:
        CatalogError: the contents do not make a catalog any more.
    """
    reader = Reader()
    reader.read_contents(contents)
    return catalog_of(reader)


def catalog_of(reader: Reader) -> Catalog:
    """Return the catalog of what was read.

    Raises:
        CatalogError: findings of the reader, and of the entries against each other.
    """
    findings = [*reader.findings, *_duplicates(reader)]
    if reader.rule is None or reader.findings:
        # What could not be read would only be reported again as unknown.
        raise CatalogError(findings)
    meters = {meter.meter_id: meter for meter in reader.meters}
    prices: dict[str, Price] = {}
    for table in reader.prices:
        versions = _closed(tuple(sorted((version.entry() for version in table.versions), key=_by_start)))
        findings.extend(_price_findings(table, versions, meters))
        prices[table.id] = _price(table, versions)
    plan_versions = {(plan.plan_id, plan.version): plan for plan in sorted(reader.plans, key=_by_effect)}
    accounts = {account.account_id: account for account in reader.accounts}
    lives = Lives(plan_terms(plan_versions.values()))
    subscriptions = {}
    for one in reader.subscriptions:
        zone = accounts[one.account].time_zone if one.account in accounts else "UTC"
        subscriptions[one.id], problems = subscription_of(one, zone=zone if is_zone(zone) else "UTC", lives=lives)
        findings.extend(problems)
    catalog = Catalog(
        billable_rule=reader.rule,
        meters=meters,
        prices=prices,
        plans={plan.plan_id: plan for plan in plan_versions.values()},
        plan_versions=plan_versions,
        accounts=accounts,
        subscriptions=subscriptions,
        features={feature.feature_id: feature for feature in reader.features},
        entitlements={entitlement.entitlement_id: entitlement for entitlement in reader.entitlements},
        recurring_credits={
            table.id: table.entry(zone=accounts[table.account].time_zone, currency=accounts[table.account].currency)
            for table in reader.recurring_credits
            if table.account in accounts and currency_problem(accounts[table.account].currency) is None
        },
        coupons={coupon.coupon_id: coupon for coupon in reader.coupons},
        contents=tuple(sorted(reader.contents, key=lambda entry: (entry.kind, entry.entry_id, entry.version))),
    )
    findings.extend(_rule_findings(catalog))
    findings.extend(_plan_findings(catalog))
    findings.extend(_account_findings(catalog))
    findings.extend(subscription_findings(catalog))
    findings.extend(invoice_links.link_findings(accounts, subscriptions))
    findings.extend(feature_findings.findings(catalog, reader.recurring_credits))
    findings.extend(coupon_findings.findings(catalog))
    if findings:
        raise CatalogError(findings)
    return catalog


def _by_effect(plan: Plan) -> tuple[datetime, int]:
    return plan.effective_from or _BEGIN, plan.version


def _by_start(version: PriceVersion) -> tuple[datetime, int]:
    return version.effective_from, version.version


def _closed(versions: tuple[PriceVersion, ...]) -> tuple[PriceVersion, ...]:
    """Return the versions with the end that a following version implies."""
    following: list[PriceVersion | None] = [*versions[1:], None]
    return tuple(
        replace(version, effective_to=after.effective_from) if after and version.effective_to is None else version
        for version, after in zip(versions, following, strict=True)
    )


def _price(table: PriceTable, versions: tuple[PriceVersion, ...]) -> Price:
    return Price(
        price_id=table.id,
        meter_id=table.meter,
        currency=table.currency,
        versions=versions,
        group_by=table.group_by,
        prorate=table.prorate,
        billing_mode=table.billing_mode,
        cadence=table.cadence,
        timing=table.timing,
    )


def _finding(kind: Kind, entry: str, field: str, message: str) -> Finding:
    return Finding(file=FILES[kind], entry=entry, field=field, message=message)


def _duplicates(reader: Reader) -> Iterator[Finding]:
    ids: dict[Kind, list[str]] = {
        Kind.METER: [meter.meter_id for meter in reader.meters],
        Kind.PRICE: [price.id for price in reader.prices],
        Kind.ACCOUNT: [account.account_id for account in reader.accounts],
        Kind.SUBSCRIPTION: [subscription.id for subscription in reader.subscriptions],
        Kind.FEATURE: [feature.feature_id for feature in reader.features],
        Kind.ENTITLEMENT: [entitlement.entitlement_id for entitlement in reader.entitlements],
        Kind.RECURRING_CREDIT: [credit.id for credit in reader.recurring_credits],
        Kind.COUPON: [coupon.coupon_id for coupon in reader.coupons],
    }
    for (plan_id, version), count in Counter((plan.plan_id, plan.version) for plan in reader.plans).items():
        if count > 1:
            yield _finding(Kind.PLAN, plan_id, f"version {version}", f"is there {count} times; an id is used once")
    for kind, found in ids.items():
        for entry_id, count in Counter(found).items():
            if count > 1:
                yield _finding(kind, entry_id, "id", f"is there {count} times; an id is used once")


def _rule_findings(catalog: Catalog) -> Iterator[Finding]:
    for first, last in catalog.billable_rule.success_statuses:
        if first > last:
            yield _finding(Kind.BILLABLE_RULE, "billable", "success_statuses", f"[{first}, {last}] holds no status")


def _price_findings(
    table: PriceTable, versions: Sequence[PriceVersion], meters: Mapping[str, Meter]
) -> Iterator[Finding]:
    def finding(field: str, message: str) -> Finding:
        return _finding(Kind.PRICE, table.id, field, message)

    if (problem := currency_problem(table.currency)) is not None:
        yield finding("currency", problem)
    if table.meter is not None and table.meter not in meters:
        near = get_close_matches(table.meter, meters, n=3)
        hint = f" such as {', '.join(near)}" if near else ""
        yield finding(
            "meter", f"{table.meter!r} is not a meter: name one of {FILES[Kind.METER]}{hint}, or define it there"
        )
    if table.meter is None and table.group_by:
        yield finding("group_by", "a price without a meter has no groups")
    if table.timing is Timing.ADVANCE and table.meter is not None:
        yield finding("timing", "usage is not known in advance: leave it out, or take the meter away")
    if table.timing is Timing.ADVANCE and any(isinstance(version.model, MinimumSpend) for version in versions):
        yield finding("timing", "what is missing to a minimum is known at the end of a period: leave it out")
    yield from _prepaid_findings(table, versions, meters)
    places = {version.version: place for place, version in enumerate(table.versions)}
    meter, price = meters.get(table.meter or ""), _price(table, tuple(versions))
    for version in versions:
        yield from _version_findings(table, places[version.version], version, price, meter)
    for before, after in pairwise(versions):
        place = f"versions.{after.version}.effective_from"
        if before.version >= after.version:
            yield finding(place, f"version {after.version} starts after version {before.version}: number them in order")
        if before.effective_to is not None and after.effective_from < before.effective_to:
            yield finding(
                place,
                f"{after.effective_from.isoformat()} overlaps version {before.version}, "
                f"which ends at {before.effective_to.isoformat()}",
            )
    if len({usage_shape(version) for version in versions}) > 1:
        yield finding(
            "versions.model", "all versions of a price rate one shape of usage; use a new price id for another"
        )
    units = {version.conversion.unit if version.conversion else None for version in versions}
    if len(units) > 1:
        yield finding("versions.conversion", "all versions of a price are in one unit; use a new price id for another")


def _version_findings(
    table: PriceTable, number: int, version: PriceVersion, price: Price, meter: Meter | None
) -> Iterator[Finding]:
    problems = [*version_problems(table, number, version)]
    if meter is not None:
        problems += meter_problems(price, version, meter)
    for field, message in problems:
        yield _finding(Kind.PRICE, table.id, f"versions.{version.version}.{field}", message)


def _prepaid_findings(
    table: PriceTable, versions: Sequence[PriceVersion], meters: Mapping[str, Meter]
) -> Iterator[Finding]:
    """Find what keeps a price from being paid from a balance, bucket by bucket."""
    is_prepaid = table.billing_mode is BillingMode.PREPAID_BALANCE
    for version in versions:
        if isinstance(version.model, MeteredBalance) != is_prepaid:
            message = 'metered_balance goes with billing_mode = "prepaid_balance" alone: write both, or neither'
            yield _finding(Kind.PRICE, table.id, f"versions.{version.version}.model", message)
        elif isinstance(version.model, MeteredBalance):
            for field, message in _balance_problems(table, version, version.model):
                yield _finding(Kind.PRICE, table.id, f"versions.{version.version}.{field}", message)
    if not is_prepaid:
        return
    meter = meters.get(table.meter or "")
    if meter is not None and meter.source is not MeterSource.TRAFFIC:
        message = f'a balance pays for traffic, and {table.meter!r} is not: give the meter source = "traffic"'
        yield _finding(Kind.PRICE, table.id, "meter", message)
    if table.cadence != MONTHLY:
        yield _finding(Kind.PRICE, table.id, "cadence", "a balance's quota is of a month: leave it out")
    if table.group_by:
        yield _finding(Kind.PRICE, table.id, "group_by", "a balance has one quota for all groups: leave it out")


def _balance_problems(table: PriceTable, version: PriceVersion, model: MeteredBalance) -> Iterator[tuple[str, str]]:
    if version.included_units or version.restart_tiers:
        yield "included_units", "of a prepaid price are included_quota_bytes, and tiers it has none: leave both out"
    if version.conversion is not None:
        if version.conversion.rounding is not None:
            yield "conversion.rounding", "would round every minute by itself: leave it out"
        if not isinstance(version.conversion.share, Decimal):
            yield "conversion.divide", "the price of one byte has no end in decimals: divide by 1000000000, or by 2^30"
    if model.peak is None:
        if model.peak_multiplier != 1 or model.off_peak_multiplier != 1:
            yield "peak", 'the hours are missing: add peak = { hours = [[18, 23]], zone = "Asia/Shanghai" }'
    else:
        if not is_zone(model.peak.zone):
            yield "peak.zone", f"{model.peak.zone!r} is not an IANA time zone such as Asia/Shanghai"
        for first, end in model.peak.hours:
            if first == end or first == 24:
                yield "peak.hours", f"[{first}, {end}] holds no hour; [18, 23] is from 18:00 to 23:00"
    if (problem := places_problem(model.initial_balance, table.currency)) is not None:
        yield "initial_balance", problem


def _plan_findings(catalog: Catalog) -> Iterator[Finding]:
    by_start = defaultdict(set)
    for plan in catalog.plan_versions.values():
        by_start[plan.plan_id, plan.effective_from].add(plan.version)
    for (plan_id, effective_from), versions in by_start.items():
        if len(versions) > 1:
            begin = "the beginning" if effective_from is None else effective_from.isoformat()
            message = f"versions {', '.join(map(str, sorted(versions)))} hold from {begin}: give the later one a later instant"
            yield _finding(Kind.PLAN, plan_id, "effective_from", message)
    for plan in catalog.plan_versions.values():
        unknown = [price_id for price_id in plan.prices if price_id not in catalog.prices]
        for price_id in unknown:
            yield _finding(Kind.PLAN, plan.plan_id, "prices", f"{price_id!r} is not a price")
        known = [catalog.prices[price_id] for price_id in plan.prices if price_id in catalog.prices]
        for price_id, count in Counter(plan.prices).items():
            if count > 1:
                yield _finding(Kind.PLAN, plan.plan_id, "prices", f"{price_id!r} is listed {count} times")
        for message in double_billing.in_one_plan(known, catalog.meters):
            yield _finding(Kind.PLAN, plan.plan_id, "prices", message)
        prepaid = sorted({price.price_id for price in known if price.is_prepaid})
        if len(prepaid) > 1:
            message = f"{', '.join(prepaid)} would spend one balance by two quotas: keep one prepaid price in a plan"
            yield _finding(Kind.PLAN, plan.plan_id, "prices", message)
        minimums = sorted({price.price_id for price in known if price.is_minimum})
        if len(minimums) > 1:
            message = f"{', '.join(minimums)} are two minimums of one bill: keep one in a plan"
            yield _finding(Kind.PLAN, plan.plan_id, "prices", message)
        currencies = sorted({price.currency for price in known})
        if len(currencies) > 1:
            message = (
                f"mixes the currencies {', '.join(currencies)}: leave prices of one of them, a plan is on one bill"
            )
            yield _finding(Kind.PLAN, plan.plan_id, "prices", message)


def _account_findings(catalog: Catalog) -> Iterator[Finding]:
    claims: dict[str, list[tuple[datetime, datetime, Account]]] = defaultdict(list)
    for account in catalog.accounts.values():
        if (problem := currency_problem(account.currency)) is not None:
            yield _finding(Kind.ACCOUNT, account.account_id, "currency", problem)
        if not is_zone(account.time_zone):
            message = f"{account.time_zone!r} is not an IANA time zone such as Europe/Berlin"
            yield _finding(Kind.ACCOUNT, account.account_id, "time_zone", message)
        own = {client.client_id for client in account.clients}
        for spelt in sorted(one for one in own if _UUID.fullmatch(one.lower()) and one.lower() not in own):
            message = (
                f"traffic spells uuids in lower case and never matches {spelt!r}: write {spelt.lower()!r}, or both if "
            )
            yield _finding(Kind.ACCOUNT, account.account_id, "clients", f"{message}requests spell it in capitals")
        for client in account.clients:
            start, end = client.valid_from or _BEGIN, client.valid_to or _OPEN
            if end <= start:
                message = f"client {client.client_id!r} is valid at no instant"
                yield _finding(Kind.ACCOUNT, account.account_id, "clients", message)
            claims[client.client_id].append((start, end, account))
    for client_id, spans in claims.items():
        if len(spans) == 1:
            continue
        ordered = sorted(spans, key=lambda span: span[:2])
        for (_, end, one), (start, _, other) in pairwise(ordered):
            if start < end:
                message = f"client {client_id!r} belongs to account {one.account_id!r} at the same time"
                yield _finding(Kind.ACCOUNT, other.account_id, "clients", message)
