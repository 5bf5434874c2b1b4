"""Guards of deliveries about storage: what a snapshot, a log file or a digest should be against what it is -> verdicts. Pure.

Not here: what a verdict is (checks), the guards of a day's usage (storage_checks).
"""

from collections.abc import Collection, Iterable, Mapping

from billing_pipeline.checks import LISTED_ITEMS, Subject, Verdict, VerdictStatus, equal
from billing_pipeline.records import LineCounts


def lines_conserved(subject: Subject, counts: LineCounts) -> Verdict:
    """Hold a delivery of which a record has no outcome, or more than one."""
    return equal(
        subject,
        guard="lines_conserved",
        expected=counts.lines_read,
        actual=counts.lines_read - counts.unaccounted,
        passed="Every record that was read is accepted, rejected, duplicate or out of scope.",
        held=f"{counts.unaccounted} of {counts.lines_read} records have no outcome, or more than one. "
        "For the bill: storage of this delivery may be wrong. "
        "To fix: ingest the delivery day again; if it stays, the reader of this source has a fault.",
    )


def files_taken(subject: Subject, *, refused: Mapping[str, str]) -> Verdict:
    """Warn of files that were refused or are held as a whole. Keys to reasons."""
    return _verdict(
        subject,
        "files_taken",
        VerdictStatus.WARNED if refused else VerdictStatus.PASSED,
        expected="0 files refused or held",
        actual=f"{len(refused)} files refused or held",
        message="Every delivered file was read."
        if not refused
        else f"Nothing was taken of {_listed(f'{key} ({reason})' for key, reason in refused.items())}. "
        "For the bill: what these files say of storage does not count; timelines go on from the last snapshot. "
        "To fix: deliver a sound file under a new name, or correct the source's profile; a held file can be accepted.",
    )


def snapshots_sound(subject: Subject, *, unsound: Mapping[str, str]) -> Verdict:
    """Hold a day with a snapshot that was rejected or is held: checksum, missing file, bad rows, bounds. Keys to reasons."""
    return _verdict(
        subject,
        "snapshots_sound",
        VerdictStatus.HELD if unsound else VerdictStatus.PASSED,
        expected="0 snapshots rejected or held",
        actual=f"{len(unsound)} snapshots rejected or held",
        message="Every snapshot is whole and within its bounds."
        if not unsound
        else f"Not taken: {_listed(f'{key} ({why})' for key, why in unsound.items())}. "
        "For the bill: sizes are carried forward from the snapshot before, for as long as the profile allows. "
        "To fix: deliver the missing or sound files; a snapshot whose jump is real can be accepted.",
    )


def digests_verified(subject: Subject, *, findings: Collection[str], digests: int, is_required: bool) -> Verdict:
    """Hold a delivery day that digests prove not to be whole: missing or foreign log files, a broken chain, hours without."""
    if findings:
        message = (
            f"The digests do not prove this day: {_listed(findings)}. "
            "For the bill: a put or delete may be missing, so what is built from this day is held. "
            "To fix: deliver the missing files from the trail's bucket; if they are lost, release the day: "
            "snapshots then correct the sizes."
        )
    elif digests:
        message = "Every log file that the digests list was read, and every chain and signature holds."
    else:
        message = (
            "No digests are delivered, so nothing proves that every log file arrived; snapshots correct the sizes."
        )
    return _verdict(
        subject,
        "digests_verified",
        VerdictStatus.HELD if findings else VerdictStatus.PASSED,
        expected="every hour proven" if is_required else "nothing against what digests say",
        actual=f"{digests} digests, {len(findings)} findings",
        message=message,
    )


def sizes_known(subject: Subject, *, unsized: Mapping[str, int], batch_deletes: int) -> Verdict:
    """Warn of events that changed what is stored without saying by how much. Event names to counts."""
    named = [f"{name} {count}" for name, count in sorted(unsized.items())]
    if batch_deletes:
        named.append(f"DeleteObjects {batch_deletes} (their keys count where the log names them one by one)")
    return _verdict(
        subject,
        "sizes_known",
        VerdictStatus.WARNED if named else VerdictStatus.PASSED,
        expected="every change has its size",
        actual=", ".join(named) or "every change has its size",
        message="Every event that changed what is stored says by how many bytes."
        if not named
        else f"Changed by a size that the log does not say: {', '.join(named)}. "
        "For the bill: nothing is guessed; what cannot be sized counts from the next snapshot on. "
        "To fix: nothing while snapshots come daily; more frequent ones make the time shorter.",
    )


def _listed(items: Iterable[str]) -> str:
    every = sorted(items)
    more = len(every) - LISTED_ITEMS
    return ", ".join(every[:LISTED_ITEMS]) + (f" and {more} more" if more > 0 else "")


def _verdict(
    subject: Subject, guard: str, status: VerdictStatus, *, expected: str, actual: str, message: str
) -> Verdict:
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
