"""Guards of traffic: what a day's samples came to against what was expected -> verdicts. Pure.

Not here: keeping verdicts (guard_store), the rule of deltas (counters).
"""

from collections.abc import Collection

from billing_pipeline.checks import LISTED_ITEMS, Outcomes, Subject, Verdict, VerdictStatus, equal


def samples_complete(subject: Subject, *, held_by: Collection[str]) -> Verdict:
    """Hold a day whose samples are held: windows are missing that may still come. `held_by`: guards of the samples."""
    return equal(
        subject,
        guard="samples_complete",
        expected="no guard holds the samples",
        actual=f"held by {_listed(held_by)}" if held_by else "no guard holds the samples",
        passed="Nothing holds the day's samples.",
        held=f"The day's samples are held ({_listed(held_by)}). For the bill: the day keeps its last good usage, or none; "
        "counters are cumulative, so what is missing is not lost as long as the node counts on. To fix: collect the missing "
        "windows, or close the gap with a reason, then build the day again.",
    )


def samples_conserved(subject: Subject, outcomes: Outcomes, *, in_lake: int) -> Verdict:
    """Hold a day of which a sample has no outcome, or more than one."""
    told = (
        f"{outcomes.read} read = {outcomes.billable} billable + {outcomes.not_billable} not billable + "
        f"{outcomes.duplicate} duplicate + {outcomes.conflict} conflict"
    )
    return _verdict(
        subject,
        "samples_conserved",
        VerdictStatus.PASSED if in_lake == outcomes.read == outcomes.accounted else VerdictStatus.HELD,
        f"{in_lake} samples in the lake, each with one outcome",
        told,
        "Every sample of the day is billable, not billable, a duplicate or in conflict."
        if in_lake == outcomes.read == outcomes.accounted
        else f"{in_lake} samples are in the lake, and {told}. For the bill: the day keeps its last good usage, or none. "
        "To fix: build the day again; if it stays, the traffic query has a fault.",
    )


def bytes_conserved(subject: Subject, *, conserved: int, in_minutes: int, stored: int) -> Verdict:
    """Hold a day whose minutes are not what its counters grew by. Bytes of both directions, also of those nobody pays for.

    `conserved`: last less first total of each stream and what restarts add; `in_minutes`: sum of the minutes; `stored`: of the
    rows in PostgreSQL.
    """
    return equal(
        subject,
        guard="bytes_conserved",
        expected=f"{conserved} bytes",
        actual=f"{conserved} bytes"
        if conserved == in_minutes == stored
        else f"{in_minutes} bytes in minutes, {stored} bytes in PostgreSQL",
        passed="The counters grew by exactly the bytes of the minutes, in PostgreSQL too.",
        held=f"The counters grew by {conserved} bytes, the minutes hold {in_minutes} and PostgreSQL {stored}. For the bill: the "
        "day keeps its last good usage, or none. To fix: build the day again; if it stays, the traffic query has a fault.",
    )


def no_split_brain(subject: Subject, *, held_streams: Collection[str]) -> Verdict:
    """Warn of streams that two writers share: they alone are held. Streams are named `env/node/account uuid/inbound tag`."""
    return _warning(
        subject,
        "no_split_brain",
        held_streams,
        "streams with two writers",
        passed="No stream's totals go up and down more often than restarts explain.",
        warned=f"Totals of {_listed(held_streams)} go down more often in an hour than the node's limit of resets. Two "
        "processes seem to write one key. For the bill: these streams are not billed on this day, the others are "
        "(usage.traffic_not_billable). To fix: give each process its own node or inbound name; if the node really resets that "
        "often, raise max_resets_per_hour of its source and build the day again.",
    )


def within_int64(subject: Subject, *, held_streams: Collection[str]) -> Verdict:
    """Warn of streams that would come to more bytes of the day than 2^63 - 1 in a direction: they alone are held."""
    return _warning(
        subject,
        "within_int64",
        held_streams,
        "streams beyond 2^63 - 1 bytes",
        passed="No stream would come to more bytes of the day than a 64-bit counter holds.",
        warned=f"Totals of {_listed(held_streams)} would come to more than 2^63 - 1 bytes of one day. No node counts so much: "
        "the totals are wrong. For the bill: these streams are not billed on this day, the others are "
        "(usage.traffic_not_billable). To fix: look at the node's exporter for what it sent, and settle the day's traffic of "
        "these accounts with them.",
    )


def no_suspected_loss(subject: Subject, *, reset_streams: Collection[str], suspected_loss_bytes: int) -> Verdict:
    """Warn of streams whose totals went down with no witness of a restart."""
    return _warning(
        subject,
        "no_suspected_loss",
        reset_streams,
        "streams whose totals went down without a witness",
        passed="No total went down without a witness of a restart.",
        warned=f"Totals of {_listed(reset_streams)} went down, and no uptime tells of a restart. For the bill: "
        f"{suspected_loss_bytes} bytes that may have been traffic are not billed, as the policy of their nodes says "
        "(usage.traffic_suspect). To fix: let the exporter send uptime_seconds; or set on_reset = 'from_zero' for the node.",
    )


def identities_known(subject: Subject, *, unknown: Collection[str], unknown_bytes: int) -> Verdict:
    """Warn of traffic whose uuid no account has."""
    return _warning(
        subject,
        "identities_known",
        unknown,
        "identities that no account has",
        passed="Every identity belongs to an account.",
        warned=f"No account has {_listed(unknown)}. For the bill: their {unknown_bytes} bytes wait in "
        "usage.traffic_not_billable; they are billed once, when the catalog gives the uuid to an account and the day is built "
        "again. To fix: add the uuid to the clients of its account, with valid_from if it had another owner before.",
    )


def _warning(subject: Subject, guard: str, names: Collection[str], what: str, *, passed: str, warned: str) -> Verdict:
    return _verdict(
        subject,
        guard,
        VerdictStatus.WARNED if names else VerdictStatus.PASSED,
        f"0 {what}",
        f"{len(names)} {what}",
        warned if names else passed,
    )


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


def _listed(items: Collection[str]) -> str:
    shown = sorted(items)[:LISTED_ITEMS]
    more = len(items) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
