"""Find what two prices that hold at the same time would bill twice: one meter, or bytes of traffic that two meters share. Pure.

Uplink and downlink are apart; the total holds both, and two meters of one field share what they count in the same
environment. Not here: who has which prices at what time (validation).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import product

from billing_pipeline.catalog.entries import Price
from billing_pipeline.meters import Meter, MeterSource

_TOTAL = "total_bytes"


def in_one_plan(prices: Iterable[Price], meters: Mapping[str, Meter]) -> Iterator[str]:
    """Yield a sentence for each meter that several of a plan's prices bill, and each two of its meters that share bytes."""
    by_meter: dict[str, set[str]] = defaultdict(set)
    modes: dict[str, str] = {}
    for price in prices:
        if price.meter_id is not None:
            by_meter[price.meter_id].add(price.price_id)
            modes[price.price_id] = price.billing_mode.value
    for meter_id, price_ids in by_meter.items():
        if len(price_ids) > 1:
            is_one_way = len({modes[one] for one in price_ids}) == 1
            named = [one if is_one_way else f"{one} ({modes[one]})" for one in sorted(price_ids)]
            yield f"{', '.join(named)} would bill meter {meter_id!r} twice: leave one of them in the plan"
    for one, other in _sharing(by_meter, by_meter, meters):
        if one < other:
            names = ", ".join(sorted(by_meter[one] | by_meter[other]))
            yield f"{names} would bill the bytes twice that meters {one!r} and {other!r} share: leave one of them in the plan"


def in_two_plans(ones: Iterable[Price], others: Iterable[Price], meters: Mapping[str, Meter]) -> Iterator[str]:
    """Yield what both of two plans bill, as `meter 'requests'` or `bytes of meter 'uplink', which are in 'total',`."""
    first = {price.meter_id for price in ones if price.meter_id is not None}
    second = {price.meter_id for price in others if price.meter_id is not None}
    yield from (f"meter {meter_id!r}" for meter_id in sorted(first & second))
    for one, other in _sharing(first, second, meters):
        yield f"bytes of meter {other!r}, which meter {one!r} counts too,"


def _sharing(ones: Iterable[str], others: Iterable[str], meters: Mapping[str, Meter]) -> Iterator[tuple[str, str]]:
    for one, other in sorted(product(ones, others)):
        if one != other and one in meters and other in meters and _share(meters[one], meters[other]):
            yield one, other


def _share(one: Meter, other: Meter) -> bool:
    is_traffic = one.source is other.source is MeterSource.TRAFFIC
    is_same_field = one.field == other.field or _TOTAL in (one.field, other.field)
    return is_traffic and is_same_field and bool(one.envs & other.envs)
