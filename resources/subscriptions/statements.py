"""Statements about subscriptions in PostgreSQL: read them, and keep what a load made of them.

`catalog.subscription_statement` is written by an application and never edited. Not here: what can be taken in (sourced).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import psycopg

from billing_pipeline.catalog import FILES, Finding, Kind
from billing_pipeline.catalog.sourced import (
    Merged,
    SourcedSubscription,
    Statement,
    StatementFinding,
    StatementKind,
    place_of,
)


@dataclass(frozen=True, slots=True)
class StatementTable:
    """The subscriptions that an application writes into `catalog.subscription_statement`."""

    name: str = "table"

    def read(self, connection: psycopg.Connection) -> Sequence[SourcedSubscription]:
        """Return what is written of every subscription, without what was withdrawn before it counted."""
        return read_statements(connection, self.name)


_COLUMNS = (
    "statement_id",
    "external_id",
    "subscription_id",
    "statement",
    "at",
    "at_end_of",
    "account_id",
    "plan_id",
    "plan_version",
    "quantities",
    "status",
    "trial_until",
    "cancel",
    "anchor_day",
    "anchor_time",
    "anchor_month",
    "anchor_zone",
    "note",
)
# Fields that a catalog file spells in another way.
_SPELT = {"account_id": "account", "plan_id": "plan"}
_NOT_FIELDS = frozenset({"statement_id", "external_id", "subscription_id", "statement"})


def read_statements(connection: psycopg.Connection, source: str) -> tuple[SourcedSubscription, ...]:
    """Return the statements of a source by subscription: those taken in first, in that order, then the rest as written."""
    found: dict[str, list[Statement]] = defaultdict(list)
    columns = ", ".join(f"statement.{name}" for name in _COLUMNS)
    rows = connection.execute(
        f"""
        select accepted.place is not null, {columns}
        from catalog.subscription_statement as statement
        left join catalog.accepted_statement as accepted using (statement_id)
        where statement.source = %s and statement.statement <> 'withdrawal' and (
            accepted.place is not null
            or not exists (
                select from catalog.subscription_statement as other where other.withdraws = statement.statement_id
            )
        )
        order by accepted.place nulls last, statement_id
        """.encode(),
        [source],
    )
    for is_accepted, *values in rows:
        row = dict(zip(_COLUMNS, values, strict=True))
        kind = StatementKind(row["statement"])
        found[row["subscription_id"]].append(
            Statement(
                statement_id=row["statement_id"],
                external_id=row["external_id"],
                kind=kind,
                table=dict(_fields(row, kind)),
                is_accepted=is_accepted,
            )
        )
    too_late = _withdrawn_too_late(connection, source)
    return tuple(
        SourcedSubscription(
            source=source,
            subscription_id=subscription_id,
            statements=tuple(statements),
            problems=too_late.get(subscription_id, ()),
        )
        for subscription_id, statements in found.items()
    )


def _withdrawn_too_late(connection: psycopg.Connection, source: str) -> Mapping[str, tuple[tuple[str, str], ...]]:
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    for subscription_id, statement_id, withdraws in connection.execute(
        """
        select late.subscription_id, late.statement_id, late.withdraws
        from catalog.subscription_statement as late
        join catalog.accepted_statement as accepted on accepted.statement_id = late.withdraws
        where late.source = %s
        order by late.statement_id
        """,
        [source],
    ):
        message = (
            f"statement {statement_id} withdraws statement {withdraws}, which was taken in before: write a change that "
            "says what holds instead"
        )
        found[subscription_id] = (*found.get(subscription_id, ()), ("withdraws", message))
    return found


def _fields(row: Mapping[str, object], kind: StatementKind) -> Iterator[tuple[str, object]]:
    """Yield the fields as a catalog file would have them."""
    for name, value in row.items():
        if name in _NOT_FIELDS or value is None:
            continue
        if name == "at" and kind is StatementKind.START:
            yield "starts_at", value
        elif name == "note" and kind is StatementKind.START:
            continue
        else:
            yield _SPELT.get(name, name), value


def record_merged(connection: psycopg.Connection, merged: Merged) -> None:
    """Keep what a load has taken in, what waits and why, and where each subscription comes from."""
    connection.execute(
        """
        insert into catalog.accepted_statement (statement_id)
        select taken.statement_id
        from unnest(%s::bigint[]) with ordinality as taken (statement_id, place)
        where not exists (select from catalog.accepted_statement as before where before.statement_id = taken.statement_id)
        order by taken.place
        """,
        [list(merged.taken)],
    )
    findings = list(dict.fromkeys(merged.findings))
    keys = [
        (one.source, one.subscription_id, one.statement_id, one.field, one.message, one.place, one.fix)
        for one in findings
    ]
    columns = [list(column) for column in zip(*keys, strict=True)] if keys else [[], [], [], [], [], [], []]
    connection.execute(
        """
        delete from catalog.statement_finding as finding
        where (source, subscription_id, coalesce(statement_id, 0), field, message) not in (
            select now.source, now.subscription_id, coalesce(now.statement_id, 0), now.field, now.message
            from unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[])
                as now (source, subscription_id, statement_id, field, message)
        )
        """,
        columns[:5],
    )
    connection.execute(
        """
        insert into catalog.statement_finding as finding
            (source, subscription_id, statement_id, field, message, place, fix)
        select *
        from unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[])
        on conflict (source, subscription_id, statement_id, field, message) do update set
            place = excluded.place,
            fix = excluded.fix
        where (finding.place, finding.fix) <> (excluded.place, excluded.fix)
        """,
        columns,
    )
    origins = sorted(merged.origins.items())
    connection.execute(
        """
        with now as (
            select * from unnest(%s::text[], %s::text[]) as now (subscription_id, source)
        ),
        gone as (
            delete from catalog.subscription_origin as origin
            where not exists (select from now where now.subscription_id = origin.subscription_id)
        )
        insert into catalog.subscription_origin as origin
        select * from now
        on conflict (subscription_id) do update set source = excluded.source
        where origin.source <> excluded.source
        """,
        [[one for one, _ in origins], [source for _, source in origins]],
    )


def read_findings(connection: psycopg.Connection) -> tuple[StatementFinding, ...]:
    """Return what the last load could not take in, oldest statement first."""
    rows = connection.execute(
        """
        select source, subscription_id, statement_id, field, message, place, fix
        from catalog.statement_finding
        order by source, subscription_id, statement_id, field
        """
    )
    return tuple(
        StatementFinding(
            source=source,
            subscription_id=subscription_id,
            statement_id=statement_id,
            field=field,
            message=message,
            place=place,
            fix=fix,
        )
        for source, subscription_id, statement_id, field, message, place, fix in rows
    )


def read_origins(connection: psycopg.Connection) -> Mapping[str, str]:
    """Return the source of each loaded subscription that is not of the catalog's files."""
    rows = connection.execute("select subscription_id, source from catalog.subscription_origin")
    return dict(rows.fetchall())


def at_sources(connection: psycopg.Connection, findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return findings on loaded subscriptions with the row, or the object at Stripe, that they come from, in the place of the
    catalog's file."""
    file = FILES[Kind.SUBSCRIPTION]
    rows = connection.execute(
        """
        select subscription_id, min(statement_id), min(external_id) filter (where statement = 'start'),
            (
                select min(stripe_subscription_id) from stripe.subscription_source as mirrored
                where origin.source = 'stripe' and coalesce(mirrored.subscription_id, stripe_subscription_id) = subscription_id
            )
        from catalog.subscription_origin as origin
        join catalog.subscription_statement using (subscription_id, source)
        join catalog.accepted_statement using (statement_id)
        where subscription_id = any(%s)
        group by subscription_id, origin.source
        """,
        [[one.entry for one in findings if one.file == file]],
    ).fetchall()
    places = {
        subscription_id: place_of(statement_id, external_id=external_id, at_stripe=at_stripe)
        for subscription_id, statement_id, external_id, at_stripe in rows
    }
    return tuple(replace(one, file=places.get(one.entry, file)) if one.file == file else one for one in findings)
