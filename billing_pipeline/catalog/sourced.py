"""Subscriptions beside the catalog's files: dated statements of a source -> one catalog with what can be taken in. Pure.

A statement begins a subscription or changes it. One that is wrong is left out with a finding, and the rest of its subscription
counts; what an earlier load has taken in is not left out again: then the files are wrong. A subscription has one source: the
files come first, then sources in their order. Not here: reading statements (resources/subscriptions).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from billing_pipeline.catalog.entries import Catalog, Kind
from billing_pipeline.catalog.files import FILES, CatalogError, Finding, Reader
from billing_pipeline.catalog.lines import placed
from billing_pipeline.catalog.validation import catalog_of
from billing_pipeline.sources.personal_names import Pseudonymise

_CHANGE = re.compile(r"changes\.(\d+)\b")


class StatementKind(StrEnum):
    """What a statement says about its subscription."""

    START = "start"
    CHANGE = "change"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """`table` are fields of a subscription (start), or of a change, as a file spells them. `is_accepted`: a loaded catalog has
    taken it in. `external_id` is the writer's own."""

    statement_id: int
    external_id: str | None = None
    kind: StatementKind
    table: Mapping[str, object]
    is_accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcedSubscription:
    """All that a source says of a subscription: what was accepted first, in that order, then the rest as it was written.
    `problems` (field, message) are what the source itself cannot say in a statement. `at_stripe` is Stripe's id of it, of what
    its mirror says."""

    source: str
    at_stripe: str | None = None
    subscription_id: str
    statements: tuple[Statement, ...]
    problems: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementFinding:
    """Why a statement is left out (`statement_id` None: all of its subscription's). `place` is the row, or the object at Stripe,
    that says it; `fix` what to do about it, where the message does not say so."""

    source: str
    subscription_id: str
    statement_id: int | None
    field: str
    message: str
    place: str = ""
    fix: str = ""

    def __str__(self) -> str:
        fix = f"; {self.fix}" if self.fix else ""
        return f"{self.place or self.source}: {self.subscription_id}: {self.field}: {self.message}{fix}"


def place_of(statement_id: int | None, *, external_id: str | None = None, at_stripe: str | None = None) -> str:
    """Return where a person finds a statement: its row, and of what Stripe's mirror says the object at Stripe."""
    row = _TABLE if statement_id is None else f"row {statement_id} of {_TABLE}"
    if at_stripe is not None:
        return (
            f"Stripe subscription {at_stripe}" if statement_id is None else f"Stripe subscription {at_stripe} ({row})"
        )
    return f"{row} (external_id {external_id})" if external_id else row


_TABLE = "catalog.subscription_statement"
_TAKEN_IN = "it was taken in before: let the files allow it again, or say otherwise from then on in a further change"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The catalog, the ids of the statements in it, which source each sourced subscription has, and what was left out."""

    catalog: Catalog
    taken: tuple[int, ...]
    origins: Mapping[str, str]
    findings: tuple[StatementFinding, ...]


def merged_catalog(
    files: Mapping[str, bytes], sourced: Sequence[SourcedSubscription], pseudonymise: Pseudonymise | None = None
) -> Merged:
    """Return the catalog of the files, read as `parse_catalog` does, and of every statement that can be taken in with them.

    Raises:
        CatalogError: the files are wrong, or what was taken in before does not go with them any more.
    """
    reader = Reader(pseudonymise)
    reader.read_files(files)
    findings: list[StatementFinding] = []
    drafts = list(_drafts(reader, sourced, findings))
    while True:
        attempt = reader.copy()
        for draft in drafts:
            attempt.read(Kind.SUBSCRIPTION, draft.table())
        try:
            catalog = catalog_of(attempt)
        except CatalogError as error:
            left_out = [_leave_out(drafts, finding, findings) for finding in _first_of_each(error.findings)]
            if not all(left_out):
                found = [_at_source(drafts, finding) for finding in error.findings]
                raise CatalogError(placed(found, files)) from None
            drafts = [draft for draft in drafts if draft.start is not None]
            continue
        return Merged(
            catalog=catalog,
            taken=tuple(one.statement_id for draft in drafts for one in draft.taken()),
            origins={draft.subscription_id: draft.source for draft in drafts},
            findings=tuple(findings),
        )


class _Draft:
    """A subscription as its statements have it so far."""

    def __init__(self, one: SourcedSubscription, account_id: object) -> None:
        self.source, self.subscription_id, self.account_id = one.source, one.subscription_id, account_id
        self.at_stripe = one.at_stripe
        self.start: Statement | None = None
        self.changes: list[Statement] = []

    def taken(self) -> Iterator[Statement]:
        if self.start is not None:
            yield self.start
        yield from self.changes

    def table(self) -> Mapping[str, object]:
        start = {} if self.start is None else self.start.table
        table = {"id": self.subscription_id, **start}
        return {**table, "changes": [change.table for change in self.changes]} if self.changes else table

    def blamed(self, field: str) -> Statement | None:
        """Return the statement to leave out for a finding on `field`: never one that was accepted."""
        match = _CHANGE.match(field)
        if match is not None and not (change := self.changes[int(match[1]) - 1]).is_accepted:
            return change
        fresh = [one for one in self.taken() if not one.is_accepted]
        return fresh[-1] if fresh else None

    def says(self, field: str) -> Statement | None:
        """Return the statement that says `field`: a change, or the start."""
        match = _CHANGE.match(field)
        return self.start if match is None else self.changes[int(match[1]) - 1]

    def place(self, statement: Statement | None) -> str:
        """Return where a person finds the statement."""
        if statement is None:
            return place_of(None, at_stripe=self.at_stripe)
        return place_of(statement.statement_id, external_id=statement.external_id, at_stripe=self.at_stripe)

    def fix(self, statement: Statement) -> str:
        """Return how a statement that waits is put right."""
        if self.at_stripe is not None:
            return (
                f"correct {self.at_stripe} at Stripe (metadata bp_plan, bp_account, and bp_quantity of its items), or let the "
                "catalog's files allow it: the next fetch and load take it in"
            )
        return (
            f"write a further row that says it right, and withdraw this one (statement = 'withdrawal', "
            f"withdraws = {statement.statement_id}), or let the catalog's files allow it"
        )

    def leave_out(self, statement: Statement) -> None:
        self.changes = [one for one in self.changes if one is not statement]
        if self.start is statement:
            self.start = None


def _drafts(
    reader: Reader, sourced: Sequence[SourcedSubscription], findings: list[StatementFinding]
) -> Iterator[_Draft]:
    """Yield a draft for each subscription that no source before has; those taken in before come first."""
    taken = {subscription.id: FILES[Kind.SUBSCRIPTION] for subscription in reader.subscriptions}
    ordered = sorted(sourced, key=lambda one: not any(statement.is_accepted for statement in one.statements))
    for one in ordered:
        subscription_id = one.subscription_id
        findings.extend(_of(one, None, field, message) for field, message in one.problems)
        if subscription_id in taken:
            message = f"{taken[subscription_id]} has this subscription too, and counts: leave it to one of them"
            findings.append(_of(one, None, "id", message))
            continue
        starts = [statement for statement in one.statements if statement.kind is StatementKind.START]
        message = "starts a second time: say what changes, or give it its own id"
        findings.extend(_of(one, again, "statement", message) for again in starts[1:])
        if not starts:
            findings.append(_of(one, None, "statement", "has no start: nothing of it counts until there is one"))
            continue
        taken[subscription_id] = f"source {one.source!r}"
        draft = _Draft(one, starts[0].table.get("account"))
        draft.start = starts[0]
        draft.changes = [statement for statement in one.statements if statement.kind is StatementKind.CHANGE]
        yield draft


def _leave_out(drafts: Sequence[_Draft], finding: Finding, findings: list[StatementFinding]) -> bool:
    """Leave out what a finding is about, and tell whether there was anything: not of what was accepted, nor of files."""
    if finding.file != FILES[Kind.SUBSCRIPTION]:
        return False
    own = [draft for draft in drafts if draft.subscription_id == finding.entry]
    accounts = {draft.account_id for draft in own}
    # Two of one account may not go together: the one that is blamed may have been there first.
    beside = [draft for draft in drafts if draft.account_id in accounts and draft not in own]
    for draft in (*own, *beside):
        statement = draft.blamed(finding.field if draft in own else "")
        if statement is not None:
            draft.leave_out(statement)
            findings.append(
                StatementFinding(
                    source=draft.source,
                    subscription_id=draft.subscription_id,
                    statement_id=statement.statement_id,
                    field=finding.field or "id",
                    message=finding.message,
                    place=draft.place(statement),
                    fix=draft.fix(statement),
                )
            )
            return True
    return False


def _at_source(drafts: Sequence[_Draft], finding: Finding) -> Finding:
    """Return a finding on what a source has said with its row, or its object at Stripe, in the place of the file."""
    draft = next((one for one in drafts if one.subscription_id == finding.entry), None)
    if draft is None or finding.file != FILES[Kind.SUBSCRIPTION]:
        return finding
    return replace(finding, file=draft.place(draft.says(finding.field)), message=f"{finding.message}; {_TAKEN_IN}")


def _first_of_each(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield one finding for each entry: the others may be gone without what it is about."""
    seen = set()
    for finding in findings:
        if (finding.file, finding.entry) not in seen:
            seen.add((finding.file, finding.entry))
            yield finding


def _of(one: SourcedSubscription, statement: Statement | None, field: str, message: str) -> StatementFinding:
    return StatementFinding(
        source=one.source,
        subscription_id=one.subscription_id,
        statement_id=None if statement is None else statement.statement_id,
        field=field,
        message=message,
        place=place_of(
            None if statement is None else statement.statement_id,
            external_id=None if statement is None else statement.external_id,
            at_stripe=one.at_stripe,
        ),
    )
