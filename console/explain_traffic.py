"""Print what stands behind a charge of traffic: usage rows or entries of a balance, their minutes, and the samples of these.

Not here: the queries (traffic_lineage, traffic_sample_lineage, prepaid_lineage), the charge itself (explain_page).
"""

from itertools import zip_longest

from rich.console import Console
from rich.markup import escape

from console.arithmetic import plain
from console.explain_origin import origin_text
from console.screen import count
from resources.charge_reader import BookedCharge
from resources.lake import Lake
from resources.prepaid_lineage import PrepaidEntries, PrepaidEntry, read_bucket_minutes
from resources.runtime import Runtime
from resources.traffic_lineage import TrafficMinute, TrafficMinutes, read_minutes, read_traffic_rows
from resources.traffic_sample_lineage import TrafficSample, TrafficStep, read_samples


def print_traffic(console: Console, runtime: Runtime, charge: BookedCharge, *, usage_rows: int, lines: int) -> None:
    """Print the first usage rows of the charge; of each `lines` minutes, of each of these `lines` samples."""
    usage = read_traffic_rows(runtime.database, charge, limit=usage_rows)
    console.print(
        f"[bold]Usage[/] of meter {escape(charge.meter_id or '')}: {plain(usage.quantity)} byte in {count(usage.rows)} rows"
        f"; the first {count(len(usage.first))}:"
    )
    for row in usage.first:
        inbound = f" {row.inbound_tag}" if row.inbound_tag else ""
        console.print(
            f"  {row.period_start:%Y-%m-%d %H:%M:%S} to {row.period_end:%H:%M:%S} UTC  "
            f"{escape(f'{row.node} ({row.env}){inbound}')}: {plain(row.quantity)} {row.unit} in {count(row.bucket_count)} minutes"
        )
        _print_minutes(console, runtime, read_minutes(runtime.database, row, limit=lines), lines=lines)
    if usage.rows > len(usage.first):
        console.print(f"  … and {count(usage.rows - len(usage.first))} more rows: --rows {usage.rows}")


def print_prepaid(console: Console, runtime: Runtime, entries: PrepaidEntries, *, currency: str, lines: int) -> None:
    """Print what the charge took from the balance, minute by minute, and the traffic behind it."""
    console.print(
        f"[bold]Taken from the balance[/]: {plain(entries.amount)} {currency} by {count(entries.entries)} entries, for "
        f"{count(entries.included_bytes)} byte included and {count(entries.rated_bytes)} byte paid; "
        f"the first {count(len(entries.first))}:"
    )
    for entry, following in zip_longest(entries.first, entries.first[1:]):
        _print_entry(console, entry, currency=currency)
        if following is not None and following.bucket_id == entry.bucket_id:
            continue
        minutes = read_bucket_minutes(runtime.database, entry, limit=lines)
        if minutes.minutes:
            _print_minutes(console, runtime, minutes, lines=lines)
        else:
            console.print("      no traffic stands behind this minute any more")
    if entries.entries > len(entries.first):
        console.print(f"  … and {count(entries.entries - len(entries.first))} more entries: --rows {entries.entries}")


def _print_entry(console: Console, entry: PrepaidEntry, *, currency: str) -> None:
    place = ", ".join(part for part in (entry.region, entry.line) if part)
    revision = f", revision {entry.revision}" if entry.revision > 1 else ""
    console.print(
        f"  {entry.bucket_start:%Y-%m-%d %H:%M} UTC  {escape(f'{entry.node} ({entry.env})')}"
        f"{escape(f' {place}') if place else ''}: {count(entry.included_bytes)} byte included, {count(entry.rated_bytes)} byte "
        f"x {escape(entry.pricing_rule_version)} x {plain(entry.multiplier)}: {plain(entry.amount_delta)} {currency}"
        f"  [dim]({entry.entry_type.replace('_', ' ')}{revision})[/]"
    )


def _print_minutes(console: Console, runtime: Runtime, minutes: TrafficMinutes, *, lines: int) -> None:
    settings = runtime.settings
    lake = Lake(settings.lake_url, settings.scratch_dir)
    samples = read_samples(runtime.database, lake, settings.scratch_dir, minutes.first)
    for minute in minutes.first:
        _print_minute(console, minute, samples[minute], lines=lines)
    if minutes.minutes > len(minutes.first):
        console.print(
            f"      … {count(minutes.minutes)} minutes in all: up {count(minutes.uplink_bytes)}, down "
            f"{count(minutes.downlink_bytes)}{_loss(minutes.suspected_loss_bytes)}"
        )


def _print_minute(console: Console, minute: TrafficMinute, steps: tuple[TrafficStep, ...], *, lines: int) -> None:
    stream = f"{minute.inbound_tag} of {minute.account_uuid[:8]}".strip()
    epoch = f", epoch {minute.epoch}" if minute.epoch else ""
    console.print(
        f"      {minute.bucket_start:%H:%M} {escape(stream)}  up {count(minute.uplink_bytes)}, down "
        f"{count(minute.downlink_bytes)}{_loss(int(minute.suspected_loss_bytes))}  [dim]({_basis(minute)}{epoch})[/]"
    )
    for number, step in enumerate(steps[:lines]):
        if number == 0 and step.earlier is not None:
            _print_sample(console, "before", step.earlier)
        _print_sample(console, "then" if number or step.earlier else "first", step.sample)
    if len(steps) > lines:
        console.print(f"          … and {count(len(steps) - lines)} more samples")


def _print_sample(console: Console, word: str, sample: TrafficSample) -> None:
    console.print(
        f"          {word:6}  {sample.collected_at:%Y-%m-%d %H:%M:%S}  totals up {count(sample.uplink_bytes)}, down "
        f"{count(sample.downlink_bytes)}  {escape(origin_text(sample.origin))}"
    )


def _loss(loss_bytes: int) -> str:
    return f", {count(loss_bytes)} byte not billed may be traffic" if loss_bytes else ""


def _basis(minute: TrafficMinute) -> str:
    """Return what the bytes of a minute rest on, with the policy where it decides."""
    match minute.basis:
        case "new_stream":
            return "a new stream, its totals are all new"
        case "first_of_node":
            return f"first snapshot of the node: {minute.on_first}"
        case "after_hold":
            return "the sample before was held"
        case "restart":
            return "restarted: totals began at 0"
        case "reset":
            return f"a total went down, nothing tells why: {minute.on_reset}"
        case _:
            return "grown since the sample before"
