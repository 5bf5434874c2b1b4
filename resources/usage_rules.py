"""What of the catalog decides a day's usage: the billable rule, meters, clients of accounts, and cuts inside hours.

Pure. A day's rules digest covers exactly what matters for that day, so that a new customer does not make last year stale.
Not here: running the SQL that applies the rules (usage_scan).
"""

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise

from billing_pipeline.billing_schedule import usage_cuts
from billing_pipeline.catalog import BillableRule, Catalog, Meter
from billing_pipeline.meters import MeterSource
from billing_pipeline.periods import Window

BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
END = datetime(9999, 12, 31, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientAccount:
    """A client id belongs to an account in `[valid_from, valid_to)`."""

    client_id: str
    account_id: str
    valid_from: datetime
    valid_to: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientWindow:
    """A part `[start, end)` of an hour of a client that something cuts: a billing period's bound or a change of account."""

    client_id: str
    hour_start: datetime
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRules:
    """The rules of a set of days, as the usage SQL wants them, and the digest of each day's own part."""

    billable_rule: BillableRule
    meters: tuple[Meter, ...]
    client_accounts: tuple[ClientAccount, ...]
    client_windows: tuple[ClientWindow, ...]
    digests: Mapping[date, str]


def usage_rules(catalog: Catalog, days: Sequence[date], source: MeterSource = MeterSource.API_REQUESTS) -> UsageRules:
    """Return what the catalog says about usage of `source` on `days`.

    Clients are who calls; of traffic they are the uuids of counters, of storage the owners of repositories.
    """
    links = _client_accounts(catalog)
    cuts_by_client = _cuts_by_client(catalog, links, days)
    meters = tuple(meter for _, meter in sorted(catalog.meters.items()) if meter.source is source)
    return UsageRules(
        billable_rule=catalog.billable_rule,
        meters=meters,
        client_accounts=links,
        client_windows=tuple(_client_windows(cuts_by_client)),
        digests=_digests(_rule_text(catalog.billable_rule, meters, source), links, cuts_by_client, days),
    )


def _client_accounts(catalog: Catalog) -> tuple[ClientAccount, ...]:
    links = (
        ClientAccount(
            client_id=client.client_id,
            account_id=account.account_id,
            valid_from=client.valid_from or BEGINNING,
            valid_to=client.valid_to or END,
        )
        for account in catalog.accounts.values()
        for client in account.clients
    )
    return tuple(sorted(links, key=lambda link: (link.client_id, link.valid_from)))


def _cuts_by_client(
    catalog: Catalog, links: Iterable[ClientAccount], days: Sequence[date]
) -> Mapping[str, tuple[datetime, ...]]:
    """Return the instants inside an hour at which a client's rows end, ascending; clients without any are absent."""
    if not days:
        return {}
    window = Window(_day_start(min(days)), _day_start(max(days)) + DAY)
    by_account = {
        account_id: found
        for account_id, subscriptions in catalog.subscriptions_by_account.items()
        if (found := usage_cuts(catalog, subscriptions, window))
    }
    by_client: dict[str, set[datetime]] = defaultdict(set)
    for link in links:
        by_client[link.client_id].update(
            at for at in by_account.get(link.account_id, ()) if link.valid_from < at < link.valid_to
        )
        by_client[link.client_id].update(
            at for at in (link.valid_from, link.valid_to) if at in window and at != _hour_start(at)
        )
    return {client_id: tuple(sorted(found)) for client_id, found in by_client.items() if found}


def _client_windows(cuts_by_client: Mapping[str, Sequence[datetime]]) -> Iterable[ClientWindow]:
    for client_id, instants in sorted(cuts_by_client.items()):
        by_hour: dict[datetime, list[datetime]] = defaultdict(list)
        for at in instants:
            by_hour[_hour_start(at)].append(at)
        for hour_start, inside in sorted(by_hour.items()):
            bounds = [hour_start, *inside, hour_start + HOUR]
            for start, end in pairwise(bounds):
                yield ClientWindow(client_id=client_id, hour_start=hour_start, start=start, end=end)


def _digests(
    rule_text: str,
    links: Sequence[ClientAccount],
    cuts_by_client: Mapping[str, Sequence[datetime]],
    days: Sequence[date],
) -> Mapping[date, str]:
    """Return each day's digest. Days between the same changes of clients share their part: 400 days cost like a few."""
    changes = sorted({at for link in links for at in (link.valid_from, link.valid_to)})
    cut_lines: dict[date, list[str]] = defaultdict(list)
    for client_id, instants in cuts_by_client.items():
        for at in instants:
            cut_lines[at.date()].append(json.dumps([client_id, at.isoformat()]))
    quiet_texts: dict[int, str] = {}
    digests = {}
    for day in sorted(set(days)):
        start, end = _day_start(day), _day_start(day) + DAY
        changed_before, changed_within = bisect_right(changes, start), bisect_left(changes, end)
        if changed_before != changed_within:
            link_text = _link_text(links, start, end)
        elif changed_before in quiet_texts:
            link_text = quiet_texts[changed_before]
        else:
            link_text = quiet_texts[changed_before] = _link_text(links, start, end)
        text = "\n".join((rule_text, link_text, *sorted(cut_lines.get(day, ()))))
        digests[day] = hashlib.sha256(text.encode()).hexdigest()
    return digests


def _link_text(links: Iterable[ClientAccount], start: datetime, end: datetime) -> str:
    """Return the links that hold in `[start, end)`, clipped to it: what is outside of the day does not matter to it."""
    lines = (
        json.dumps(
            [
                link.client_id,
                link.account_id,
                link.valid_from.isoformat() if link.valid_from > start else "",
                link.valid_to.isoformat() if link.valid_to < end else "",
            ]
        )
        for link in links
        if link.valid_from < end and link.valid_to > start
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _rule_text(rule: BillableRule, meters: Iterable[Meter], source: MeterSource) -> str:
    if source is not MeterSource.API_REQUESTS:
        return json.dumps(
            [[meter.meter_id, meter.aggregation, meter.field, meter.unit, sorted(meter.envs)] for meter in meters]
        )
    return json.dumps(
        {
            "success_statuses": sorted(rule.success_statuses),
            "endpoints": sorted(rule.endpoints),
            "meters": [
                [
                    meter.meter_id,
                    meter.aggregation,
                    meter.field,
                    None if meter.percentile is None else str(meter.percentile.normalize()),
                    meter.unit,
                    None if meter.endpoints is None else sorted(meter.endpoints),
                    None if meter.methods is None else sorted(meter.methods),
                    meter.bucket_seconds,
                    # Only where there is one: a digest of rules that lack it stays what it was.
                    *([] if meter.transactions is None else [meter.transactions]),
                    *([] if meter.level is None else [sorted(meter.lowered_by), meter.is_set]),
                ]
                for meter in meters
            ],
        }
    )


def _day_start(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _hour_start(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)
