"""More lines than an invoice may have -> the smallest of them as one line, with nothing lost. Pure.

The group is the sum of its parts to the minor unit and keeps them. What a person added, and what goes through Stripe's meter, is
grouped last or not at all. Not here: which lines there are (compile).
"""

from collections.abc import Sequence

from billing_pipeline.invoicing.items import InvoiceItem, InvoiceKey, ItemKind, digest_of, item_key, sum_of

GROUP_KEY = "other"
# In the order in which an invoice shows them.
_ORDER = tuple(ItemKind)
_OF_PEOPLE = frozenset({ItemKind.ADJUSTMENT, ItemKind.ONE_OFF, ItemKind.CREDIT, ItemKind.MINIMUM})


def grouped(lines: Sequence[InvoiceItem], *, key: InvoiceKey, at_most: int) -> tuple[InvoiceItem, ...]:
    """Return the lines in order, `at_most` of them beside those by meter: 1,000 lines are 249 and one of 751 parts.

    The smallest amounts are grouped, whatever their sign; of equal ones those with the lower key.
    """
    by_meter = [line for line in lines if line.by_meter]
    sent = [line for line in lines if not line.by_meter]
    if len(sent) > at_most:
        sent.sort(key=_smallest_first)
        parts = tuple(sorted(sent[: len(sent) - at_most + 1], key=_shown))
        sent = [*sent[len(parts) :], _group(parts, key)]
    return tuple(sorted([*by_meter, *sent], key=_shown))


def _group(parts: tuple[InvoiceItem, ...], key: InvoiceKey) -> InvoiceItem:
    return InvoiceItem(
        item_key=item_key(
            account_id=key.account_id,
            subscription_id=key.subscription_id,
            charge_key=GROUP_KEY,
            period_start=key.period.start,
            issue=key.issue,
        ),
        kind=ItemKind.OTHER,
        account_id=key.account_id,
        subscription_id=key.subscription_id,
        source_id=None,
        charge_id=None,
        period=key.period,
        amount=sum_of(parts, parts[0].amount.currency),
        description=f"Other usage ({len(parts)} lines)",
        quantity_text=f"{len(parts)} lines",
        revision=1,
        source_digest=digest_of(*(f"{part.item_key}|{part.source_digest}" for part in parts)),
        parts=parts,
    )


def _smallest_first(line: InvoiceItem) -> tuple[bool, bool, int, str]:
    return line.kind in _OF_PEOPLE, line.kind is ItemKind.OTHER, abs(line.amount.minor_units), line.item_key


def _shown(line: InvoiceItem) -> tuple[int, str, str, str]:
    return _ORDER.index(line.kind), line.subscription_id or "", line.description, line.item_key
