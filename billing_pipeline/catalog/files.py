"""Catalog files and stored contents -> entries, with every finding at once. Pure: bytes in, values out.

Not here: the shape of one entry (tables), what entries may not say together (validation).
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from billing_pipeline.catalog.coupons import Coupon, CouponTable
from billing_pipeline.catalog.entries import (
    Account,
    BillableRule,
    EntryContent,
    Kind,
    Plan,
    content_of,
)
from billing_pipeline.catalog.feature_tables import EntitlementTable, FeatureTable, RecurringCreditTable
from billing_pipeline.catalog.features import Entitlement, Feature
from billing_pipeline.catalog.fields import Table
from billing_pipeline.catalog.price_tables import PriceTable
from billing_pipeline.catalog.subscription_tables import SubscriptionTable
from billing_pipeline.catalog.tables import (
    AccountTable,
    BillableRuleTable,
    MeterTable,
    PlanTable,
)
from billing_pipeline.errors import BillingError
from billing_pipeline.meters import Meter, MeterInvalidError
from billing_pipeline.sources.personal_names import Pseudonymise

FILES: Mapping[Kind, str] = {
    Kind.BILLABLE_RULE: "billable.toml",
    Kind.METER: "meters.toml",
    Kind.PRICE: "prices.toml",
    Kind.PLAN: "plans.toml",
    Kind.ACCOUNT: "accounts.toml",
    Kind.SUBSCRIPTION: "subscriptions.toml",
    Kind.FEATURE: "features.toml",
    Kind.ENTITLEMENT: "entitlements.toml",
    Kind.RECURRING_CREDIT: "credits.toml",
    Kind.COUPON: "coupons.toml",
}
# What an installation may do without.
OPTIONAL: frozenset[Kind] = frozenset({Kind.FEATURE, Kind.ENTITLEMENT, Kind.RECURRING_CREDIT, Kind.COUPON})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong: the file, the entry's id, the field, and what would be right; the line where it is known."""

    file: str
    entry: str
    field: str
    message: str
    line: int | None = None

    @property
    def with_line(self) -> str:
        """Return it as text, with its line."""
        return str(self) if self.line is None else f"{self} (line {self.line})"

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, self.entry, self.field) if part)
        return f"{place}: {self.message}"


class CatalogError(BillingError):
    """The catalog cannot be used. `findings` lists everything that is wrong with it."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        count = len(self.findings)
        shown = [f"\n    - {finding.with_line}" for finding in self.findings[:50]]
        if count > len(shown):
            shown.append(f"\n    - and {count - len(shown)} more")
        super().__init__(
            f"the catalog has {count} finding{'s' if count != 1 else ''}:{''.join(shown)}",
            bill="nothing of this catalog is loaded; charges go on with the one loaded before",
            fix="correct every line above in the catalog folder and load it again",
        )


# The name of a file's entries: [[price]]; recurring credits are written as [[credit]].
LIST_OF: Mapping[Kind, str] = {
    kind: str(kind).removeprefix("recurring_") for kind in Kind if kind is not Kind.BILLABLE_RULE
}


class Reader:
    """Collect the entries of a catalog and what is wrong with them.

    `pseudonymise` puts pseudonyms in the place of e-mail addresses among clients, as deliveries do.
    """

    def __init__(self, pseudonymise: Pseudonymise | None = None) -> None:
        self._pseudonymise = pseudonymise
        self.findings: list[Finding] = []
        self.rule: BillableRule | None = None
        self.meters: list[Meter] = []
        self.prices: list[PriceTable] = []
        self.plans: list[Plan] = []
        self.accounts: list[Account] = []
        self.subscriptions: list[SubscriptionTable] = []
        self.features: list[Feature] = []
        self.entitlements: list[Entitlement] = []
        self.recurring_credits: list[RecurringCreditTable] = []
        self.coupons: list[Coupon] = []
        self.contents: list[EntryContent] = []

    def copy(self) -> "Reader":
        """Return a reader that has read the same, and reads on by itself."""
        copied = Reader()
        for name, value in vars(self).items():
            setattr(copied, name, list(value) if isinstance(value, list) else value)
        return copied

    def read_files(self, files: Mapping[str, bytes]) -> None:
        """Read the TOML files of a catalog folder by name; `findings` tells what is missing, strange or wrong."""
        for name in sorted(set(files) - set(FILES.values())):
            self._find(name, "", "", f"is not a catalog file; they are {', '.join(sorted(FILES.values()))}")
        for kind, name in FILES.items():
            if name not in files:
                if kind not in OPTIONAL:
                    self._find(name, "", "", "is missing")
                continue
            try:
                tables = tomllib.loads(files[name].decode("utf-8-sig"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                self._find(name, "", "", f"is not TOML: {error}")
                continue
            if kind is Kind.BILLABLE_RULE:
                self.read(kind, tables)
                continue
            for strange in sorted(set(tables) - {LIST_OF[kind]}):
                self._find(name, "", strange, f"is not known here; entries are [[{LIST_OF[kind]}]]")
            entries = tables.get(LIST_OF[kind], [])
            if not isinstance(entries, list):
                self._find(name, "", LIST_OF[kind], f"write entries as [[{LIST_OF[kind]}]]")
                continue
            for entry in entries:
                self.read(kind, entry)

    def read_contents(self, contents: Iterable[tuple[Kind, str]]) -> None:
        """Read entries from their canonical JSON; the versions of one price come one after the other."""
        versions: dict[str, dict[str, Any]] = {}
        for kind, text in contents:
            table = json.loads(text)
            if kind is Kind.PRICE:
                price = versions.setdefault(table["id"], {**table, "versions": []})
                price["versions"].extend(table["versions"])
            else:
                self.read(kind, table)
        for table in versions.values():
            self.read(Kind.PRICE, table)

    def read(self, kind: Kind, table: Mapping[str, object]) -> None:
        """Read one entry; a wrong one becomes findings."""
        entry_id = str(table.get("id", "")) if isinstance(table, dict) else ""
        try:
            self._take(kind, table)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                if problem["type"] == "too_short" and problem["input"]:
                    continue  # its items are wrong, not missing, and are reported by themselves
                field = ".".join(str(part + 1 if isinstance(part, int) else part) for part in problem["loc"])
                self._find(FILES[kind], entry_id or "(no id)", field, problem["msg"].removeprefix("Value error, "))
        except MeterInvalidError as error:
            self._find(FILES[kind], entry_id, "", error.what)

    def _take(self, kind: Kind, table: Mapping[str, object]) -> None:
        match kind:
            case Kind.BILLABLE_RULE:
                rule = BillableRuleTable.model_validate(table)
                self.rule = rule.entry()
                self._keep(kind, "billable", rule.version, rule)
            case Kind.METER:
                meter = MeterTable.model_validate(table)
                self.meters.append(meter.entry())
                self._keep(kind, meter.id, meter.version, meter)
            case Kind.PRICE:
                price = PriceTable.model_validate(table)
                self.prices.append(price)
                for version in price.versions:
                    self._keep(kind, price.id, version.version, price.model_copy(update={"versions": (version,)}))
            case Kind.PLAN:
                plan = PlanTable.model_validate(table)
                self.plans.append(plan.entry())
                self._keep(kind, plan.id, plan.version, plan)
            case Kind.ACCOUNT:
                account = AccountTable.model_validate(table)
                if self._pseudonymise is not None:
                    account = account.without_addresses(self._pseudonymise)
                self.accounts.append(account.entry())
                self._keep(kind, account.id, 1, account)
            case Kind.SUBSCRIPTION:
                subscription = SubscriptionTable.model_validate(table)
                self.subscriptions.append(subscription)
                self._keep(kind, subscription.id, 1, subscription)
            case Kind.FEATURE:
                feature = FeatureTable.model_validate(table)
                self.features.append(feature.entry())
                self._keep(kind, feature.id, 1, feature)
            case Kind.ENTITLEMENT:
                entitlement = EntitlementTable.model_validate(table)
                self.entitlements.append(entitlement.entry())
                self._keep(kind, entitlement.id, 1, entitlement)
            case Kind.RECURRING_CREDIT:
                credit = RecurringCreditTable.model_validate(table)
                self.recurring_credits.append(credit)
                self._keep(kind, credit.id, 1, credit)
            case Kind.COUPON:
                coupon = CouponTable.model_validate(table)
                self.coupons.append(coupon.entry())
                self._keep(kind, coupon.id, coupon.version, coupon)

    def _keep(self, kind: Kind, entry_id: str, version: int, table: Table) -> None:
        # Defaults stay out, so that a field added to the project later changes no digest of an entry that lacks it.
        content = table.model_dump(mode="json", exclude_defaults=True)
        self.contents.append(content_of(kind=kind, entry_id=entry_id, version=version, content=content))

    def _find(self, file: str, entry: str, field: str, message: str) -> None:
        self.findings.append(Finding(file=file, entry=entry, field=field, message=message))
