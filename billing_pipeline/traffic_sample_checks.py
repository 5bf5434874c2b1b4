"""Guards of collected traffic: what was expected of a day's samples against what is there -> verdicts. Pure.

Everything is about one UTC day of `core/traffic_samples`. Not here: which minutes are missing (traffic_coverage), keeping
verdicts (guard_store), guards of usage (traffic_checks).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from billing_pipeline.checks import CONFLICTS_PER_RECORD_TO_HOLD, LISTED_ITEMS, Subject, Verdict, VerdictStatus, equal
from billing_pipeline.traffic_coverage import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class GapFact:
    """A window of a source with missing minutes: still open, or closed by `actor` for `reason`."""

    source: str
    window: Window
    missing_minutes: int
    reason: str
    actor: str | None = None

    def __str__(self) -> str:
        text = f"{self.source} {_span(self.window)} {self.missing_minutes} min ({self.reason})"
        return text if self.actor is None else f"{text}, closed by {self.actor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCounts:
    """Law 1 of a day: samples read = kept + duplicate + conflict + rejected."""

    read: int = 0
    kept: int = 0
    duplicate: int = 0
    conflict: int = 0
    rejected: int = 0

    @property
    def accounted(self) -> int:
        """Return the samples that have an outcome."""
        return self.kept + self.duplicate + self.conflict + self.rejected

    def __add__(self, other: "SampleCounts") -> "SampleCounts":
        return SampleCounts(
            read=self.read + other.read,
            kept=self.kept + other.kept,
            duplicate=self.duplicate + other.duplicate,
            conflict=self.conflict + other.conflict,
            rejected=self.rejected + other.rejected,
        )


def windows_complete(
    subject: Subject, *, expected: int, open_gaps: Sequence[GapFact], closed_gaps: Sequence[GapFact]
) -> Verdict:
    """Hold a day with minutes of which no snapshot is there. `expected`: windows of all sources that have begun.

    Gaps that persons have closed let the day through, by name.
    """
    if open_gaps:
        minutes = sum(gap.missing_minutes for gap in open_gaps)
        message = (
            f"Snapshots are missing for {minutes} minutes in {len(open_gaps)} windows: {_listed(open_gaps)}. "
            "For the bill: what was used in these minutes is booked on the minute of the next snapshot, or lost if the node "
            "was restarted meanwhile, so the day keeps its last good usage. To fix: collect the day again while the exporter "
            "still has them, or deliver the snapshots as a file; if they are lost, close the gap with your name and a reason."
        )
        status = VerdictStatus.HELD
    elif closed_gaps:
        message = f"Every window is complete, or was closed by a person: {_listed(closed_gaps)}."
        status = VerdictStatus.RELEASED
    else:
        message = "Every minute that has passed has a snapshot of every source."
        status = VerdictStatus.PASSED
    return Verdict(
        asset=subject.asset,
        partition_key=subject.partition_key,
        guard="windows_complete",
        status=status,
        expected=f"{expected} windows without a missing minute",
        actual=f"{len(open_gaps)} windows with missing minutes, {len(closed_gaps)} closed by a person",
        message=message,
        inputs_digest=subject.inputs_digest,
    )


def samples_conserved(subject: Subject, counts: SampleCounts, *, in_snapshots: int, in_lake: int) -> Verdict:
    """Hold a day of which a sample has no outcome, or of which snapshots, outcomes and lake differ in number."""
    return equal(
        subject,
        guard="samples_conserved",
        expected=f"{in_snapshots} samples in snapshots = {in_snapshots} with an outcome; {counts.kept} kept = {counts.kept} "
        "in the lake",
        actual=f"{counts.read} samples in snapshots = {counts.accounted} with an outcome; {counts.kept} kept = {in_lake} "
        "in the lake",
        passed="Every sample that was read is kept, duplicate, in conflict or rejected.",
        held=f"Samples of the day were lost or counted twice: {in_snapshots} in snapshots; {counts.kept} kept + "
        f"{counts.duplicate} duplicate + {counts.conflict} conflict + {counts.rejected} rejected; {in_lake} in the lake. "
        "For the bill: traffic of this day would be wrong, so the day keeps its last good usage. "
        "To fix: see which runs wrote the day (core.lake_generation), and restore the lake file of the generation.",
    )


def node_alive(subject: Subject, *, silent: Sequence[tuple[str, Window]]) -> Verdict:
    """Hold a day in which a node sent only empty snapshots for ten minutes. `silent`: (source, stretch)."""
    named = [f"{source} {_span(stretch)}" for source, stretch in silent]
    return equal(
        subject,
        guard="node_alive",
        expected="0 stretches of 10 minutes without a sample",
        actual=f"{len(named)} stretches of 10 minutes without a sample",
        passed="No node sent empty snapshots for ten minutes.",
        held=f"Snapshots without any sample came from {_listed(named)}. For the bill: an exporter that reads no users' "
        "counters looks like no usage, so the day keeps its last good usage. To fix: switch the statistics of users on "
        "(Xray: statsUserUplink, statsUserDownlink; some exporters: -u); if nobody really used the node, release the day.",
    )


def no_conflict(subject: Subject, *, samples: int, streams: Collection[str]) -> Verdict:
    """Warn of samples with two totals for one instant; hold the day when they pass 0.1 % of its samples, and one.

    `streams`: `env:node/account/inbound at instant`, of each conflicting key.
    """
    count = len(streams)
    status = VerdictStatus.PASSED
    if count:
        is_flood = count > 1 and count > samples * CONFLICTS_PER_RECORD_TO_HOLD
        status = VerdictStatus.HELD if is_flood else VerdictStatus.WARNED
    return Verdict(
        asset=subject.asset,
        partition_key=subject.partition_key,
        guard="no_conflict",
        status=status,
        expected="0 samples with different totals",
        actual=f"{count} samples with different totals",
        message="No stream has two totals for one instant."
        if not count
        else f"{count} instants of streams came with different totals: {_listed(streams)}. For the bill: no version of them "
        "is used; totals are cumulative, so the next sample brings the bytes"
        + ("; the day keeps its last good usage. " if status is VerdictStatus.HELD else ". ")
        + "To fix: see which sources deliver them (core.traffic_conflict); two exporters of one node must not share its name.",
        inputs_digest=subject.inputs_digest,
    )


def _span(window: Window) -> str:
    return f"{_minute(window.start)}-{window.end:%H:%M}"


def _minute(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M}"


def _listed(items: Collection[object]) -> str:
    shown = sorted(str(item) for item in items)[:LISTED_ITEMS]
    more = len(items) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
