"""Find what is wrong now, by what PostgreSQL says: held checks, open gaps, dead letters, missed true-ups, what lags behind Stripe.

Read-only. Each condition says what it means for the bill and what to do. Not here: failed runs, skipped days (assets: Dagster
knows them), telling anybody (desk).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta

import psycopg

from billing_pipeline.amounts import exact_text
from resources.alerting.notice import Condition, IncidentKind
from resources.alerting.policy import AlertPolicy
from resources.database import Database
from resources.stripe_mirror.inbox import MOST_ATTEMPTS

# Guards that hold because something has not come (yet), and not because it is wrong.
_GAP_GUARDS = frozenset({"windows_complete", "hours_delivered", "node_alive", "snapshots_fresh", "samples_complete"})
CLOSING = {
    IncidentKind.CHECK_HELD: "The check lets the day through, or a person did.",
    IncidentKind.DECISION_WAITS: "A person has decided, or the change is not proposed any more.",
    IncidentKind.GAP_OPEN: "What was missing has come, or a person has closed the gap.",
    IncidentKind.DEAD_LETTER: "It was tried again and taken, or is wanted no more.",
    IncidentKind.TRUE_UP_MISSED: "What was missing on the invoice is charged or credited.",
    IncidentKind.SYNC_LAG: "It is in step again.",
    IncidentKind.STRIPE_DRIFT: "A later look found both sides equal, or the sync on its way.",
    IncidentKind.STRIPE_FINDING: "The sync does not find it any more.",
    IncidentKind.CANARY: "A later look found the bill right.",
    IncidentKind.LIMIT_PASSED: "The time over which it is counted has ended.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionReader:
    """What is wrong in one database."""

    database: Database
    policy: AlertPolicy = field(default_factory=AlertPolicy)

    def conditions(self, *, now: datetime) -> Mapping[IncidentKind, tuple[Condition, ...]]:
        """Return everything that is wrong at `now`, by kind; kinds of which nothing is are there, empty."""
        with self.database.reading() as connection:
            held = _held(connection, self.policy, now)
            found = {
                IncidentKind.CHECK_HELD: [one for guard, one in held if guard not in _GAP_GUARDS],
                IncidentKind.GAP_OPEN: [one for guard, one in held if guard in _GAP_GUARDS],
                IncidentKind.DECISION_WAITS: _proposals(connection),
                IncidentKind.DEAD_LETTER: [
                    *_dead_events(connection),
                    *_dead_invoices(connection),
                    *_dead_calls(connection),
                ],
                IncidentKind.TRUE_UP_MISSED: _missed(connection),
                IncidentKind.SYNC_LAG: [
                    *_feeds(connection, self.policy, now),
                    *_runs(connection, self.policy, now),
                    *_accounts(connection, self.policy, now),
                ],
                IncidentKind.STRIPE_DRIFT: _drifts(connection),
                IncidentKind.STRIPE_FINDING: _findings(connection),
                IncidentKind.CANARY: _canaries(connection),
                IncidentKind.LIMIT_PASSED: _limits(connection, now),
            }
        return {kind: tuple(conditions) for kind, conditions in found.items()}


def _held(connection: psycopg.Connection, policy: AlertPolicy, now: datetime) -> list[tuple[str, Condition]]:
    """Return days that a guard holds and nobody has let through. A gap of a day that is not long over may still be filled."""
    rows = connection.execute(
        """
        select asset, partition_key, guard, message, inputs_digest, run_id
        from guards.verdict
        where status = 'held' and not exists (
            select from guards.release
            where release.asset = verdict.asset and release.partition_key = verdict.partition_key
                and release.guard = verdict.guard and release.inputs_digest = verdict.inputs_digest
        )
        order by asset, partition_key, guard
        """
    )
    found = []
    for asset, partition_key, guard, message, digest, run_id in rows:
        if guard in _GAP_GUARDS and _day_end(partition_key) + policy.gap_grace > now:
            continue
        condition = Condition(
            subject=f"{asset} {partition_key} {guard}",
            message=f"{message} For the bill: the last good rows of the day stay in it. To fix: `billing "
            "status` says what is "
            f"expected; deliver it, or let it through with `billing release {asset} {partition_key} {guard}`.",
            evidence={"inputs_digest": digest, "run_id": run_id},
        )
        found.append((guard, condition))
    return found


def _day_end(partition_key: str) -> datetime:
    return datetime.combine(datetime.fromisoformat(partition_key).date() + timedelta(days=1), time(), UTC)


def _proposals(connection: psycopg.Connection) -> list[Condition]:
    """Return changes of final invoices that are too big to book themselves, and that nobody has decided about."""
    rows = connection.execute(
        """
        select proposal_id::text, account_id, subscription_id, period_start, booked_minor, proposed_minor, currency, run_id
        from invoicing.proposal_waiting as waiting
        join invoicing.proposal using (proposal_id, subscription_id, period_start)
        left join invoicing.proposal_decision as decision using (proposal_id)
        where decision.proposal_id is null
        order by account_id, subscription_id, period_start
        """
    )
    return [
        Condition(
            subject=f"{account_id} {subscription_id} {start:%Y-%m-%d} {proposal_id[:8]}",
            message=f"The final period from {start:%Y-%m-%d} of {account_id} is booked at {booked} {currency} (minor units) and "
            f"rates to {proposed} now. For the bill: the difference is on no invoice until somebody decides. To fix: `billing "
            f"approve {proposal_id[:8]}` or `reject`, or the job decide_proposal.",
            evidence={"proposal_id": proposal_id, "booked": booked, "proposed": proposed, "run_id": run_id},
        )
        for proposal_id, account_id, subscription_id, start, booked, proposed, currency, run_id in rows
    ]


def _dead_events(connection: psycopg.Connection) -> list[Condition]:
    rows = connection.execute(
        """
        select object_kind, object_id, array_agg(event_id order by created_at), max(problem)
        from stripe.event_work
        join stripe.event using (event_id)
        where state = 'dead'
        group by object_kind, object_id
        order by object_kind, object_id
        """
    )
    return [
        Condition(
            subject=f"stripe {kind} {object_id}",
            message=f"Events about it could not be applied, {MOST_ATTEMPTS} times: {problem}. "
            "For the bill: what is known of it is old. "
            f"To fix: mend the cause, then `billing retry-events {' '.join(event_ids[:3])}`.",
            evidence={"event_ids": event_ids, "problem": problem},
        )
        for kind, object_id, event_ids, problem in rows
    ]


def _dead_invoices(connection: psycopg.Connection) -> list[Condition]:
    rows = connection.execute(
        "select invoice_id, attempts, problem from stripe.settlement where attempts >= %s order by invoice_id",
        [MOST_ATTEMPTS],
    )
    return [
        Condition(
            subject=f"settle {invoice_id}",
            message=f"What this invoice at Stripe asks for could not be done, {attempts} times: {problem}. "
            "For the bill: its payments, its true-up or its being void are not known here. To fix: mend the "
            "cause; it is tried again every hour.",
            evidence={"problem": problem},
        )
        for invoice_id, attempts, problem in rows
    ]


def _dead_calls(connection: psycopg.Connection) -> list[Condition]:
    """Return the calls that Stripe refused, by account."""
    rows = connection.execute(
        """
        select account_id, array_agg(intent_id::text order by refused_at), min(refused_at)
        from stripe.intent_dead
        group by account_id
        order by account_id
        """
    )
    return [
        Condition(
            subject=f"refused calls of {account_id}",
            message=f"Stripe has refused {len(intent_ids)} calls for {account_id} since {since:%Y-%m-%d %H:%M} UTC. "
            "For the bill: what they would have written is not at Stripe; others go on. To fix: `billing "
            "dead-letters` says why; mend it, then let "
            "them be tried again.",
            evidence={"intent_ids": intent_ids},
        )
        for account_id, intent_ids, since in rows
    ]


def _missed(connection: psycopg.Connection) -> list[Condition]:
    """Return renewals that were final before their true-up: by the queue until it is looked at, then by the true-up's word, until
    the account's next sync has what is missing on the next invoice."""
    rows = connection.execute(
        """
        select invoice_id, account_id, min(problem), min(since)
        from (
            select invoice_id, account_id, null::text as problem, boundary_at as since
            from stripe.trueup_queue
            where state = 'missed'
            union all
            select subject, account_id, message, opened_at
            from stripe.sync_finding
            where closed_at is null and kind = 'final_before_true_up'
        ) as missed
        group by invoice_id, account_id
        order by invoice_id
        """
    )
    return [
        Condition(
            subject=f"{account_id} {invoice_id}",
            message=f"{problem or f'The invoice {invoice_id} of {account_id} was final before its true-up'}. "
            "For the bill: usage that it lacks comes onto the next one, with its old period. To fix: nothing "
            "now; see why the true-up was late (the run, Stripe, a period that was not whole).",
            evidence={"since": since},
        )
        for invoice_id, account_id, problem, since in rows
    ]


def _feeds(connection: psycopg.Connection, policy: AlertPolicy, now: datetime) -> list[Condition]:
    rows = connection.execute(
        "select feed, polled_at, problem from stripe.event_feed where polled_at is not null order by feed"
    )
    return [
        Condition(
            subject=f"stripe feed {feed}",
            message=f"Stripe's events were not read since {polled_at:%Y-%m-%d %H:%M} UTC. "
            "For the bill: renewals may become final before their true-up, and payments are not known. To "
            "fix: switch on the sensor stripe_events, and see whether Stripe "
            "answers (status.stripe.com).",
            evidence={"polled_at": polled_at, "problem": problem},
        )
        for feed, polled_at, problem in rows
        if now - polled_at > policy.feed_lag
    ]


def _runs(connection: psycopg.Connection, policy: AlertPolicy, now: datetime) -> list[Condition]:
    """Return that no sync has come to its end for too long: what changed here since, of whichever account, is not at Stripe."""
    rows = connection.execute(
        """
        select last.ended_at, newest.problem
        from (
            select max(ended_at) as ended_at
            from stripe.sync_run
            where purpose = 'daily' and (problem is null or accounts > 0)
        ) as last
        left join lateral (
            select problem from stripe.sync_run where purpose = 'daily' order by started_at desc limit 1
        ) as newest on true
        where exists (select from stripe.sync_account where state in ('in_step', 'behind', 'failed'))
        """
    )
    return [
        Condition(
            subject="stripe sync",
            message=f"No sync with Stripe has come to its end since {ended_at:%Y-%m-%d %H:%M} UTC"
            f"{': ' + problem if problem else ''}. For the bill: renewals would lack what was used since. To fix: switch on "
            "the schedule sync_stripe_regularly, and see its runs and whether Stripe answers (status.stripe.com).",
            evidence={"ended_at": ended_at, "problem": problem},
        )
        for ended_at, problem in rows
        if ended_at is not None and now - ended_at > policy.sync_lag
    ]


def _accounts(connection: psycopg.Connection, policy: AlertPolicy, now: datetime) -> list[Condition]:
    rows = connection.execute(
        """
        select account_id, state, behind_since, problem
        from stripe.sync_account
        where state in ('behind', 'failed') and behind_since <= %s
        order by account_id
        """,
        [now - policy.sync_lag],
    )
    return [
        Condition(
            subject=f"account {account_id}",
            message=f"What {account_id} is billed is not at Stripe since {behind_since:%Y-%m-%d %H:%M} UTC"
            f"{': ' + problem if problem else ''}. For the bill: its invoice at Stripe may lack what was used since. "
            "To fix: see `billing stripe` for the account, mend the cause, and let it be synced.",
            evidence={"state": state, "behind_since": behind_since, "problem": problem},
        )
        for account_id, state, behind_since, problem in rows
    ]


def _drifts(connection: psycopg.Connection) -> list[Condition]:
    """Return what the newest reconciliation found to differ and nobody knows why."""
    rows = connection.execute(
        """
        select account_id, invoice_id::text, period_start, period_end, currency, difference_stripe_minor, drifts, run_id, day
        from invoicing.reconciliation
        where agreement = 'drift' and run_id = (
            -- a look at an older day, repeated, says nothing of this one
            select run_id from invoicing.reconciliation order by day desc, compared_at desc, run_id limit 1
        )
        order by account_id, row_number
        """
    )
    found = []
    for account_id, invoice_id, start, end, currency, difference, drifts, run_id, day in rows:
        what = f"of {start:%Y-%m-%d} to {end:%Y-%m-%d}" if start else "that nothing here knows"
        found.append(
            Condition(
                subject=f"{account_id} {invoice_id or 'unknown lines ' + currency}",
                message=f"Stripe holds {difference:+} {currency} (minor units) other than was billed {what}, "
                f"in {len(drifts)} lines. "
                "For the bill: the customer is charged that much too much or too little. "
                "To fix: see invoicing/reconciliation for the lines, and who changed them at Stripe.",
                evidence={"run_id": run_id, "day": day, "drifts": drifts},
            )
        )
    return found


def _canaries(connection: psycopg.Connection) -> list[Condition]:
    rows = connection.execute(
        """
        select account_id, subscription_id, period_start, currency, expected_stripe_minor, ours_stripe_minor, held_stripe_minor,
            run_id
        from invoicing.canary_result
        where not is_right and run_id = (
            -- a run without canaries counts: there are none any more
            select run_id
            from (
                select day, compared_at, run_id from invoicing.canary_result
                union all
                select day, compared_at, run_id from invoicing.reconciliation
            ) as run
            order by day desc, compared_at desc, run_id
            limit 1
        )
        order by account_id, subscription_id, period_start
        """
    )
    return [
        Condition(
            subject=f"{account_id} {subscription_id} {start:%Y-%m-%d}",
            message=f"The bill of the period from {start:%Y-%m-%d} was known to be {expected} {currency} "
            f"(minor units), is {ours} here "
            f"and {held} at Stripe. For the bill: what went wrong here may have gone wrong for everybody. "
            "To fix: `billing explain` its charges before any invoice is let go.",
            evidence={"run_id": run_id, "expected": expected, "ours": ours, "held": held},
        )
        for account_id, subscription_id, start, currency, expected, ours, held, run_id in rows
    ]


def _findings(connection: psycopg.Connection) -> list[Condition]:
    """Return what the sync and the true-up want a person to see. Missed true-ups are told of by the queue."""
    rows = connection.execute(
        """
        select kind, subject, message, opened_at
        from stripe.sync_finding
        where closed_at is null and kind <> 'final_before_true_up'
        order by kind, subject
        """
    )
    return [
        Condition(
            subject=f"{kind} {subject}",
            message=f"{message}. For the bill: what this is about is not at Stripe as it should be. To fix: "
            f"see docs/stripe.md, {kind}.",
            evidence={"opened_at": opened_at},
        )
        for kind, subject, message, opened_at in rows
    ]


def _limits(connection: psycopg.Connection, now: datetime) -> list[Condition]:
    """Return thresholds of limits that usage has passed, as long as their window lasts, and for a day where that was found late."""
    rows = connection.execute(
        """
        with
        passed as (
            select distinct on (account_id, feature_id, crossing.counted_from, threshold)
                account_id, feature_id, crossing.counted_from, threshold, crossing.limit_quantity, used_quantity, beyond, found_at,
                case reset when 'day' then crossing.counted_from + interval '1 day' else counted_to end as counted_to
            from entitlement.threshold_crossing as crossing
            join entitlement.allowance as allowance using (account_id, feature_id)
            where case reset
                when 'day' then crossing.counted_from < valid_to and crossing.counted_from + interval '1 day' > valid_from
                else allowance.counted_from = crossing.counted_from
            end
            order by account_id, feature_id, crossing.counted_from, threshold, valid_from desc
        )
        select account_id, feature_id, counted_from, threshold, limit_quantity, used_quantity, beyond
        from passed
        where counted_to > %(now)s
            or (counted_to > %(now)s - interval '2 days' and found_at > %(now)s - interval '1 day')
        order by account_id, feature_id, counted_from, threshold
        """,
        {"now": now},
    )
    return [
        Condition(
            subject=f"{account_id} {feature_id} {exact_text(threshold)} % since {start:%Y-%m-%d}",
            message=f"{account_id} has used {exact_text(used)} of {exact_text(limit)} of {feature_id} since "
            f"{start:%Y-%m-%d %H:%M} UTC: past {exact_text(threshold)} %. For the bill: "
            + (
                "what lies beyond the limit is allowed, and billed by the plan's prices. "
                if beyond == "allow"
                else "nothing; beyond the limit it is denied. "
            )
            + "To fix: nothing, or give the account more: entitlements.toml.",
            evidence={"threshold": exact_text(threshold), "limit": exact_text(limit), "used": exact_text(used)},
        )
        for account_id, feature_id, start, threshold, limit, used, beyond in rows
    ]
