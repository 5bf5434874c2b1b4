"""Keep changes of final periods that are too big to book themselves, and what people say to them.

Booking asks here (`Sorting`) which revisions it may write; the others become a proposal, in the booking's transaction. An
approved one is due to be booked again, and passes as long as the rating is the one that was approved. Not here: the threshold
(billing_pipeline.invoicing.proposals), booking (charge_store).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

import psycopg

from billing_pipeline.amounts import Money, to_scale
from billing_pipeline.billing_schedule import due_at
from billing_pipeline.catalog import Catalog
from billing_pipeline.charges import ChargeRevision
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.books import Slot, slot_of
from billing_pipeline.invoicing.policy import Threshold
from billing_pipeline.invoicing.proposals import ChargeChange, PeriodChange, waits
from billing_pipeline.periods import RequestedDays, Window
from resources.database import Database

_PLACES = 12


class ProposalUnknownError(BillingError):
    """No proposal waits under that id, or several do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """What a booking knows of itself."""

    catalog: Catalog
    days: RequestedDays
    run_id: str
    code_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """Revisions that may be booked, those that wait for a person, and those that a person has rejected."""

    booked: tuple[ChargeRevision, ...]
    waiting: tuple[ChargeRevision, ...]
    rejected: tuple[ChargeRevision, ...]

    @property
    def put_off(self) -> tuple[ChargeRevision, ...]:
        """Return what is not booked."""
        return (*self.waiting, *self.rejected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A change that waits, or was approved and is not booked yet. `day`: the event day whose booking made it."""

    proposal_id: UUID
    account_id: str
    subscription_id: str
    period: Window
    booked: Money
    proposed: Money
    size: Money
    charges: int
    day: date
    proposed_at: datetime
    decision: str | None


class Sorting:
    """Sorts the revisions of one booking, accounts after accounts, and writes at its end what came of it: proposals are kept also
    where a guard lets nothing be booked. All charges of a subscription are sorted together."""

    def __init__(self, connection: psycopg.Connection, booking: Booking, thresholds: Mapping[str, Threshold]) -> None:
        self._connection = connection
        self._booking = booking
        self._thresholds = thresholds
        self._proposed: list[tuple[PeriodChange, list[ChargeRevision]]] = []
        self._moot: list[UUID] = []
        self._waiting: dict[UUID, frozenset[UUID]] = {
            proposal_id: frozenset(charges) for proposal_id, charges in connection.execute(_WAITING_CHARGES).fetchall()
        }

    @property
    def asks(self) -> bool:
        """Tell whether sorting asks the database: there is a threshold."""
        return bool(self._thresholds)

    def sort(
        self, revisions: Sequence[ChargeRevision], *, booked: Mapping[UUID, Money], rated: Collection[UUID]
    ) -> Sorted:
        """Return which revisions may be booked. `booked`: charge -> newest booked amount, `rated`: charges, of every one that was
        looked at with them."""
        final = _of_final_periods(self._connection, revisions, self._booking.catalog) if self._thresholds else {}
        held_back: dict[UUID, list[ChargeRevision]] = {}
        changes: dict[UUID, PeriodChange] = {}
        for (subscription_id, period), found in final.items():
            change = _change(subscription_id, period, found, booked)
            if waits(change, self._thresholds.get(change.booked.currency)):
                held_back[change.proposal_id] = found
                changes[change.proposal_id] = change
        decisions = _decisions(self._connection, list(changes))
        waiting = {one: found for one, found in held_back.items() if one not in decisions}
        rejected = {one: found for one, found in held_back.items() if decisions.get(one) == "rejected"}
        self._proposed += [(changes[proposal_id], found) for proposal_id, found in waiting.items()]
        if self._waiting:
            looked_at = {*booked, *rated}
            self._moot += [
                one for one, charges in self._waiting.items() if one not in waiting and looked_at.issuperset(charges)
            ]
        if not held_back:
            return Sorted(booked=tuple(revisions), waiting=(), rejected=())
        put_off = {id(revision) for found in (*waiting.values(), *rejected.values()) for revision in found}
        return Sorted(
            booked=tuple(revision for revision in revisions if id(revision) not in put_off),
            waiting=tuple(revision for found in waiting.values() for revision in found),
            rejected=tuple(revision for found in rejected.values() for revision in found),
        )

    def keep(self) -> None:
        """Write the proposals, and delete what waits no more: every charge of it was rated, and none of it is put off."""
        for change, found in self._proposed:
            _write(self._connection, change, found, self._booking)
        if self._moot:
            self._connection.execute("delete from invoicing.proposal_waiting where proposal_id = any(%s)", [self._moot])


_WAITING_CHARGES = """
    select proposal_id, array_agg(charge_id)
    from invoicing.proposal_waiting
    join invoicing.proposal_charge using (proposal_id)
    group by proposal_id
"""


def approved_days(connection: psycopg.Connection) -> tuple[date, ...]:
    """Return the event days of proposals that were approved and are not booked yet, ascending."""
    rows = connection.execute(
        """
        select distinct event_day
        from invoicing.proposal_waiting
        join invoicing.proposal using (proposal_id)
        join invoicing.proposal_decision using (proposal_id)
        where decision = 'approved'
        order by event_day
        """
    )
    return tuple(day for (day,) in rows)


@dataclass(frozen=True, slots=True)
class ProposalStore:
    """The proposals of one database."""

    database: Database

    def waiting(self) -> tuple[Proposal, ...]:
        """Return what waits for a person, or to be booked; the biggest change first."""
        with self.database.reading() as connection:
            return _read(connection)

    def approve(self, name: str, *, actor: str, reason: str, now: datetime) -> Proposal:
        """Let a change be booked: its event day is due, and passes as long as it is rated as it was. Again: nothing.

        Raises:
            ProposalUnknownError: none waits under that id or its first digits, or several, or it was rejected.
        """
        return self._decide(name, "approved", actor=actor, reason=reason, now=now)

    def reject(self, name: str, *, actor: str, reason: str, now: datetime) -> Proposal:
        """Keep what is booked for as long as it is rated as it was. Again: nothing. Raises as `approve`."""
        return self._decide(name, "rejected", actor=actor, reason=reason, now=now)

    def _decide(self, name: str, decision: str, *, actor: str, reason: str, now: datetime) -> Proposal:
        # Bookings write proposals under their own lock: none comes or goes while a person decides.
        with self.database.transaction("billing/charges") as connection:
            found = _find(connection, name)
            if not actor.strip() or not reason.strip():
                raise _unknown("a decision names who decided it and why", "give both")
            if found.decision not in (None, decision):
                raise _unknown(f"proposal {name!r} was {found.decision} already", "decisions are final")
            connection.execute(
                """
                insert into invoicing.proposal_decision (proposal_id, decision, actor, reason, decided_at)
                values (%s, %s, %s, %s, %s)
                on conflict (proposal_id) do nothing
                """,
                [found.proposal_id, decision, actor, reason, now],
            )
            if decision == "rejected":
                connection.execute("delete from invoicing.proposal_waiting where proposal_id = %s", [found.proposal_id])
        return found


_Period = tuple[str, Window]


def _of_final_periods(
    connection: psycopg.Connection, revisions: Sequence[ChargeRevision], catalog: Catalog
) -> Mapping[_Period, list[ChargeRevision]]:
    """Return the revisions whose invoice is final, by subscription and period of the charge."""
    by_slot: dict[Slot, list[ChargeRevision]] = defaultdict(list)
    for revision in revisions:
        key = revision.charge.key
        price = catalog.prices.get(key.price_id)
        if price is None or not price.is_prepaid:
            due = key.period.end if price is None else due_at(price, key.period)
            slot = slot_of(key.subscription_id, due_at=due, period=key.period, subscriptions=catalog.subscriptions)
            by_slot[slot].append(revision)
    found: dict[_Period, list[ChargeRevision]] = defaultdict(list)
    for slot in _final(connection, list(by_slot)):
        for revision in by_slot[slot]:
            found[revision.charge.key.subscription_id, revision.charge.key.period].append(revision)
    return found


def _final(connection: psycopg.Connection, slots: Sequence[Slot]) -> Iterable[Slot]:
    """Yield the slots whose newest invoice is final."""
    rows = connection.execute(
        """
        select distinct on (subscription_id, period_start, period_end) subscription_id, period_start, period_end, state
        from invoicing.invoice
        join unnest(%s::text[], %s::timestamptz[], %s::timestamptz[])
            as wanted (subscription_id, period_start, period_end) using (subscription_id, period_start, period_end)
        order by subscription_id, period_start, period_end, issue desc
        """,
        [
            [slot.subscription_id for slot in slots],
            [slot.period.start for slot in slots],
            [slot.period.end for slot in slots],
        ],
    )
    return [
        Slot(subscription_id, Window(start, end)) for subscription_id, start, end, state in rows if state == "final"
    ]


def _change(
    subscription_id: str, period: Window, revisions: Sequence[ChargeRevision], booked_before: Mapping[UUID, Money]
) -> PeriodChange:
    first = revisions[0].charge
    nothing = Money(0, first.currency)
    changes = tuple(
        ChargeChange(
            charge_id=revision.charge_id,
            rating_digest=revision.charge.rating_digest,
            booked=booked_before.get(revision.charge_id, nothing),
            proposed=revision.charge.amount,
        )
        for revision in revisions
    )
    booked = sum(change.booked.minor_units for change in changes)
    return PeriodChange(
        account_id=first.account_id,
        subscription_id=subscription_id,
        period=period,
        booked=Money(booked, first.currency),
        charges=changes,
    )


def _decisions(connection: psycopg.Connection, proposal_ids: Sequence[UUID]) -> Mapping[UUID, str]:
    if not proposal_ids:
        return {}
    rows = connection.execute(
        "select proposal_id, decision from invoicing.proposal_decision where proposal_id = any(%s)", [proposal_ids]
    )
    return dict(rows.fetchall())


def _write(
    connection: psycopg.Connection, change: PeriodChange, revisions: Sequence[ChargeRevision], booking: Booking
) -> None:
    written = connection.execute(
        """
        insert into invoicing.proposal (
            proposal_id, account_id, subscription_id, period_start, period_end, currency, booked_minor, proposed_minor,
            change_minor, catalog_sha256, code_version, event_day, run_id
        )
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (proposal_id) do nothing
        """,
        [
            change.proposal_id,
            change.account_id,
            change.subscription_id,
            change.period.start,
            change.period.end,
            change.booked.currency,
            change.booked.minor_units,
            change.proposed.minor_units,
            change.size.minor_units,
            booking.catalog.sha256,
            booking.code_version,
            booking.days.newest_in(change.period),
            booking.run_id,
        ],
    ).rowcount
    if written:
        _write_charges(connection, change, revisions)
    connection.execute(
        """
        insert into invoicing.proposal_waiting (subscription_id, period_start, period_end, proposal_id)
        values (%s, %s, %s, %s)
        on conflict (subscription_id, period_start, period_end) do update set proposal_id = excluded.proposal_id
        """,
        [change.subscription_id, change.period.start, change.period.end, change.proposal_id],
    )


def _write_charges(connection: psycopg.Connection, change: PeriodChange, revisions: Sequence[ChargeRevision]) -> None:
    statement = """
        copy invoicing.proposal_charge (
            proposal_id, charge_id, price_id, group_key, booked_revision, booked_minor, proposed_minor, quantity, unit,
            rating_digest
        ) from stdin
    """
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for revision, one in zip(revisions, change.charges, strict=True):
            rated = revision.charge.rated
            copy.write_row(
                (
                    change.proposal_id,
                    revision.charge_id,
                    revision.charge.key.price_id,
                    revision.charge.key.group_key,
                    revision.revision - 1,
                    one.booked.minor_units,
                    one.proposed.minor_units,
                    to_scale(rated.quantity, digits=_PLACES),
                    rated.unit,
                    one.rating_digest,
                )
            )


def _read(connection: psycopg.Connection) -> tuple[Proposal, ...]:
    rows = connection.execute(
        """
        select
            proposal_id, account_id, proposal.subscription_id, proposal.period_start, proposal.period_end, currency,
            booked_minor, proposed_minor, change_minor,
            (select count(*) from invoicing.proposal_charge as charge where charge.proposal_id = proposal.proposal_id),
            event_day, proposed_at, decision
        from invoicing.proposal_waiting
        join invoicing.proposal using (proposal_id)
        left join invoicing.proposal_decision using (proposal_id)
        order by change_minor desc, proposal_id
        """
    )
    return tuple(
        Proposal(
            proposal_id=row[0],
            account_id=row[1],
            subscription_id=row[2],
            period=Window(row[3], row[4]),
            booked=Money(row[6], row[5]),
            proposed=Money(row[7], row[5]),
            size=Money(row[8], row[5]),
            charges=row[9],
            day=row[10],
            proposed_at=row[11],
            decision=row[12],
        )
        for row in rows
    )


def _find(connection: psycopg.Connection, name: str) -> Proposal:
    digits = name.strip().lower().replace("-", "")
    found = [one for one in _read(connection) if one.proposal_id.hex.startswith(digits)]
    if len(digits) < 4 or len(found) != 1:
        what = f"{len(found)} proposals begin with {name!r}" if found else f"no proposal {name!r} waits"
        raise _unknown(what, "take the first digits (four at least) of an id from `billing proposals`")
    return found[0]


def _unknown(what: str, fix: str) -> ProposalUnknownError:
    return ProposalUnknownError(what, bill="nothing was decided; what is booked stays as it is", fix=fix)
