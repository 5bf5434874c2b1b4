"""Guards: an expectation against a fact -> a verdict that an operator can act on. Pure.

A verdict is about one partition of one asset, made of exactly the inputs that its digest names. `held` keeps the last
good rows of the partition in place; a person may release it for those inputs. Not here: keeping verdicts (guard_store).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from billing_pipeline.records import LineCounts

# Above this share of a day's records, conflicting identities mean a broken source rather than a broken line.
CONFLICTS_PER_RECORD_TO_HOLD = Decimal("0.001")
LISTED_ITEMS = 10


class VerdictStatus(StrEnum):
    """What a guard says. `released`: it would hold, but a person has let these inputs through."""

    PASSED = "passed"
    WARNED = "warned"
    HELD = "held"
    RELEASED = "released"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One guard's outcome. `message` says what happened, what it means for the bill, what to do."""

    asset: str
    partition_key: str
    guard: str
    status: VerdictStatus
    expected: str
    actual: str
    message: str
    inputs_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is guarded: a partition of an asset, made of the inputs that the digest names."""

    asset: str
    partition_key: str
    inputs_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Where the records of a partition went. Law 1: read = billable + not billable + duplicate + conflict."""

    read: int
    billable: int
    not_billable: int
    duplicate: int
    conflict: int

    @property
    def accounted(self) -> int:
        """Return the records that have an outcome."""
        return self.billable + self.not_billable + self.duplicate + self.conflict


def lines_conserved(subject: Subject, counts: LineCounts) -> Verdict:
    """Hold a delivery of which a line has no outcome, or more than one."""
    return equal(
        subject,
        guard="lines_conserved",
        expected=counts.lines_read,
        actual=counts.lines_read - counts.unaccounted,
        passed="Every line that was read is accepted, rejected, duplicate or out of scope.",
        held=f"{counts.unaccounted} of {counts.lines_read} lines have no outcome, or more than one. "
        "For the bill: usage of this delivery would be wrong by as many requests. "
        "To fix: ingest the delivery day again; if it stays, the reader of this source has a fault.",
    )


def rows_published(subject: Subject, *, accepted: int, in_lake: int) -> Verdict:
    """Hold a delivery whose accepted lines and published rows differ in number."""
    return equal(
        subject,
        guard="rows_published",
        expected=accepted,
        actual=in_lake,
        passed="Every accepted line is a row of the published generation.",
        held=f"{accepted} lines were accepted and {in_lake} rows published. For the bill: usage of this delivery would be "
        "wrong by the difference. To fix: ingest the delivery day again; if it stays, the writer has a fault.",
    )


def files_taken(subject: Subject, *, refused: Mapping[str, str]) -> Verdict:
    """Warn of files of a delivery that were refused or are held as a whole. Keys to reasons."""
    return _verdict(
        subject,
        "files_taken",
        VerdictStatus.WARNED if refused else VerdictStatus.PASSED,
        "0 files refused or held",
        f"{len(refused)} files refused or held",
        "Every delivered file was read."
        if not refused
        else f"Nothing was taken of {_listed([f'{key} ({reason})' for key, reason in refused.items()])}. "
        "For the bill: requests in these files are not billed. "
        "To fix: deliver a sound file under a new name, or correct the source's profile; a held file can be accepted.",
    )


def records_conserved(subject: Subject, outcomes: Outcomes, *, in_lake: int, in_files: int) -> Verdict:
    """Hold a day whose outcomes, lake rows and accepted rows of its files differ in number."""
    expected = f"{in_files} records in accepted files = {in_lake} in the lake = {in_lake} with an outcome"
    actual = (
        f"{in_files} in accepted files, {in_lake} in the lake, {outcomes.read} read = {outcomes.billable} billable + "
        f"{outcomes.not_billable} not billable + {outcomes.duplicate} duplicate + {outcomes.conflict} conflict"
    )
    is_conserved = in_files == in_lake == outcomes.read == outcomes.accounted
    return _verdict(
        subject,
        "records_conserved",
        VerdictStatus.PASSED if is_conserved else VerdictStatus.HELD,
        expected,
        actual,
        "Every record of the day's files is billable, not billable, a duplicate or in conflict."
        if is_conserved
        else f"Records of the day were lost or counted twice between files, lake and usage ({actual}). "
        "For the bill: the day keeps its last good usage, or none. "
        "To fix: ingest the delivery days of its files again, then build this day.",
    )


def no_conflict(subject: Subject, *, records: int, open_identities: Collection[str]) -> Verdict:
    """Warn of undecided identities with several contents; hold the day when they pass 0.1 % of its records, and one.

    One bad line must not stop a day's bill, and a broken source must not empty it.
    `open_identities` are written `source/event id`.
    """
    count = len(open_identities)
    status = VerdictStatus.PASSED
    if count:
        is_flood = count > 1 and count > records * CONFLICTS_PER_RECORD_TO_HOLD
        status = VerdictStatus.HELD if is_flood else VerdictStatus.WARNED
    return _verdict(
        subject,
        "no_conflict",
        status,
        "0 identities with different contents",
        f"{count} identities with different contents",
        "No request was delivered with two different contents."
        if not count
        else f"{count} of {records} records' identities came with different contents: {_listed(open_identities)}. "
        "For the bill: none of their versions is counted"
        + ("; the day keeps its last good usage. " if status is VerdictStatus.HELD else ". ")
        + "To fix: decide which content counts (core.request_conflict lists them), or release the day as it is.",
    )


def hours_delivered(
    subject: Subject,
    *,
    expected: Mapping[str, frozenset[int]],
    records_by_hour: Mapping[str, Mapping[int, int]],
) -> Verdict:
    """Hold a day in which a source delivered nothing for an hour (UTC, 0..23) in which it is expected to."""
    gaps = {
        source: missing
        for source, hours in sorted(expected.items())
        if (missing := sorted(hour for hour in hours if not records_by_hour.get(source, {}).get(hour)))
    }
    wanted = ", ".join(f"{source}: {_hours(sorted(hours))}" for source, hours in sorted(expected.items()) if hours)
    named = "; ".join(f"{source}: {_hours(hours)}" for source, hours in gaps.items())
    return _verdict(
        subject,
        "hours_delivered",
        VerdictStatus.HELD if gaps else VerdictStatus.PASSED,
        wanted or "no hours are expected",
        f"no records in {named} (UTC)" if gaps else "every expected hour has records",
        "Every hour that the sources are expected to deliver has records."
        if not gaps
        else f"No records were delivered for {named} (UTC). For the bill: an outage of the exporter looks like no "
        "usage, so the day keeps its last good usage, or none. To fix: deliver the missing files; if nobody really "
        "sent a request in these hours, release the day.",
    )


def usage_equals_records(subject: Subject, *, usage: Mapping[str, Decimal], records: Mapping[str, Decimal]) -> Verdict:
    """Hold a day whose counting meters do not sum to the records counted independently. Keys are meter ids."""
    wrong = sorted(
        meter_id
        for meter_id in usage.keys() | records.keys()
        if usage.get(meter_id, Decimal(0)) != records.get(meter_id, Decimal(0))
    )
    return _verdict(
        subject,
        "usage_equals_records",
        VerdictStatus.HELD if wrong else VerdictStatus.PASSED,
        _amounts(records),
        _amounts(usage),
        "Over all accounts, usage of every counting meter equals the billable records."
        if not wrong
        else f"Usage of {_listed(wrong)} is not the number of billable records (see expected and actual). "
        "For the bill: the day keeps its last good usage, or none. "
        "To fix: build the day again; if it stays, the usage query or the catalog's clients have a fault.",
    )


def charges_equal_usage(
    subject: Subject, *, rated_minor: Mapping[str, int], booked_minor: Mapping[str, int]
) -> Verdict:
    """Hold charges that differ from the usage rated again. Minor units per currency."""
    return equal(
        subject,
        guard="charges_equal_usage",
        expected=_amounts(rated_minor),
        actual=_amounts(booked_minor),
        passed="Booked charges equal the usage, rated again.",
        held="Booked charges differ from the usage rated again (see expected and actual, minor units). "
        "For the bill: amounts of this day are not final. To fix: materialize billing/charges for the day again.",
    )


def ledger_balances(subject: Subject, *, unbalanced: Collection[str]) -> Verdict:
    """Hold a ledger with a transaction whose postings do not sum to zero per currency."""
    return equal(
        subject,
        guard="ledger_balances",
        expected=0,
        actual=len(unbalanced),
        passed="Every ledger transaction sums to zero.",
        held=f"{len(unbalanced)} ledger transactions do not sum to zero: {_listed(unbalanced)}. "
        "For the bill: accounts' balances cannot be trusted. "
        "To fix: somebody wrote to billing.ledger_posting by hand; find out who, and post the reverse.",
    )


def ledger_equals_charges(
    subject: Subject, *, charged_minor: Mapping[str, int], posted_minor: Mapping[str, int]
) -> Verdict:
    """Hold a ledger whose receivables differ from the charges' revisions. Minor units per currency."""
    return equal(
        subject,
        guard="ledger_equals_charges",
        expected=_amounts(charged_minor),
        actual=_amounts(posted_minor),
        passed="The ledger holds exactly what the charges say.",
        held="The ledger differs from the charges (see expected and actual, minor units). "
        "For the bill: balances are not what was charged. To fix: materialize billing/charges for the day again.",
    )


def equal(subject: Subject, *, guard: str, expected: object, actual: object, passed: str, held: str) -> Verdict:
    """Hold the partition unless `actual` equals `expected`; the texts are the two possible messages."""
    is_equal = expected == actual
    status = VerdictStatus.PASSED if is_equal else VerdictStatus.HELD
    return _verdict(subject, guard, status, str(expected), str(actual), passed if is_equal else held)


def with_releases(verdicts: Iterable[Verdict], released_guards: Collection[str]) -> tuple[Verdict, ...]:
    """Return the verdicts, those that hold turned into `released` where a person has let their inputs through."""
    return tuple(
        replace(verdict, status=VerdictStatus.RELEASED)
        if verdict.status is VerdictStatus.HELD and verdict.guard in released_guards
        else verdict
        for verdict in verdicts
    )


def holds(verdicts: Iterable[Verdict]) -> bool:
    """Tell whether any of the verdicts keeps new data out."""
    return any(verdict.status is VerdictStatus.HELD for verdict in verdicts)


def _verdict(subject: Subject, guard: str, status: VerdictStatus, expected: str, actual: str, message: str) -> Verdict:
    return Verdict(
        asset=subject.asset,
        partition_key=subject.partition_key,
        guard=guard,
        status=status,
        expected=expected,
        actual=actual,
        message=message,
        inputs_digest=subject.inputs_digest,
    )


def _hours(hours: Iterable[int]) -> str:
    """Return ascending hours with their runs drawn together, as `03, 06-08`: an outage of a day is one word."""
    runs: list[list[int]] = []
    for hour in hours:
        if runs and runs[-1][-1] == hour - 1:
            runs[-1][1:] = [hour]
        else:
            runs.append([hour])
    return ", ".join("-".join(f"{hour:02d}" for hour in run) for run in runs)


def _listed(items: Collection[str]) -> str:
    shown = sorted(items)[:LISTED_ITEMS]
    more = len(items) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _amounts(amounts: Mapping[str, Decimal] | Mapping[str, int]) -> str:
    return ", ".join(f"{key} {amount}" for key, amount in sorted(amounts.items())) or "nothing"
