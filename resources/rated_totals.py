"""What one booking has rated, added up batch by batch: what guards judge and people are shown, without the charges themselves.

Not here: rating (charge_usage), what guards say of it (charge_guards).
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal

from billing_pipeline.amounts import Money, exact_arithmetic
from billing_pipeline.charges import ChargeRevision
from billing_pipeline.periods import RequestedDays, Window
from resources.charge_usage import UsageToDate

_TOP_ACCOUNTS = 10


@dataclass(slots=True)
class RatedTotals:
    """Sums over charges by the day that each counts for. `put_off` are revisions that are not booked: a person's word is missing,
    or was no. `booked` counts revisions by day; `deltas` are what they add, in minor units."""

    days: RequestedDays
    catalog_sha256: str
    in_usage: dict[tuple[Window, str], Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    in_charges: dict[tuple[Window, str], Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    uncut_rows: dict[Window, int] = field(default_factory=lambda: defaultdict(int))
    waiting: list[ChargeRevision] = field(default_factory=list)
    rejected: list[ChargeRevision] = field(default_factory=list)
    charges: dict[date, int] = field(default_factory=lambda: defaultdict(int))
    booked: dict[date, int] = field(default_factory=lambda: defaultdict(int))
    deltas: dict[date, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    _accounts: dict[date, dict[tuple[str, str], int]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(int))
    )
    _digests: list[bytes] = field(default_factory=list)

    def add(self, usage: UsageToDate) -> None:
        """Add what a batch was rated to."""
        with exact_arithmetic():
            for sums, more in ((self.in_usage, usage.in_usage), (self.in_charges, usage.in_charges)):
                for key, quantity in more.items():
                    sums[key] += quantity
        for window, count in usage.uncut_rows.items():
            self.uncut_rows[window] += count
        newest_in, digest = self.days.newest_in, self._digests.append
        period: Window | None = None
        for charge_id, charge in usage.charges.items():
            figures = charge.figures
            # Charges after one another mostly have one period.
            if charge.key.period is not period:
                period = charge.key.period
                day = newest_in(period)
                accounts = self._accounts[day]
            self.charges[day] += 1
            accounts[charge.account_id, figures.currency] += figures.amount.minor_units
            digest(charge_id.int.to_bytes(16, "big") + figures.rating_digest.encode())

    def add_booked(self, revisions: Iterable[ChargeRevision]) -> None:
        """Add what is booked of a batch."""
        newest_in = self.days.newest_in
        for revision in revisions:
            delta = revision.delta
            day = newest_in(revision.charge.key.period)
            self.booked[day] += 1
            self.deltas[day][delta.currency] += delta.minor_units

    @property
    def put_off(self) -> tuple[ChargeRevision, ...]:
        """Return what is not booked."""
        return (*self.waiting, *self.rejected)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of everything that was rated, in the order of ids, and of the catalog."""
        return hashlib.sha256(b"".join([self.catalog_sha256.encode(), *sorted(self._digests)])).hexdigest()

    def rated_minor(self, day: date) -> dict[str, int]:
        """Return what the charges of a day come to, by currency."""
        found: dict[str, int] = defaultdict(int)
        for (_, currency), amount in self._accounts.get(day, {}).items():
            found[currency] += amount
        return found

    def top_accounts(self, day: date) -> tuple[tuple[str, Money], ...]:
        """Return the accounts whose charges of a day come to most."""
        found = self._accounts.get(day, {})
        money = [(account_id, Money(amount, currency)) for (account_id, currency), amount in found.items()]
        return tuple(sorted(money, key=lambda total: (-total[1].major, total[0]))[:_TOP_ACCOUNTS])
