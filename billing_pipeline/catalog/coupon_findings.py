"""What coupons may not say together with prices, accounts and subscriptions. Pure. Not here: one coupon (coupons)."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from billing_pipeline.catalog.coupons import Coupon, Redemption
from billing_pipeline.catalog.currencies import currency_problem, places_problem
from billing_pipeline.catalog.entries import Account, Catalog, Kind, Subscription
from billing_pipeline.catalog.files import FILES, Finding
from billing_pipeline.catalog.models import AmountOff


def findings(catalog: Catalog) -> Iterator[Finding]:
    """Yield what is wrong with coupons and with who has them."""
    for coupon in catalog.coupons.values():
        for field, message in _coupon_problems(catalog, coupon):
            yield Finding(file=FILES[Kind.COUPON], entry=coupon.coupon_id, field=field, message=message)
    for account in catalog.accounts.values():
        subscriptions = catalog.subscriptions_by_account.get(account.account_id, ())
        problems = [*_redeemed(catalog, account, account.coupons), *_shared_amounts(catalog, account, subscriptions)]
        for message in problems:
            yield Finding(file=FILES[Kind.ACCOUNT], entry=account.account_id, field="coupons", message=message)
    for subscription in catalog.subscriptions.values():
        owner = catalog.accounts.get(subscription.account_id)
        if owner is not None:
            for message in _redeemed(catalog, owner, (*subscription.coupons, *owner.coupons), subscription.coupons):
                yield Finding(
                    file=FILES[Kind.SUBSCRIPTION], entry=subscription.subscription_id, field="coupons", message=message
                )


def _coupon_problems(catalog: Catalog, coupon: Coupon) -> Iterator[tuple[str, str]]:
    for price_id in coupon.prices:
        if price_id not in catalog.prices:
            yield "prices", f"{price_id!r} is not a price"
        elif catalog.prices[price_id].is_prepaid:
            yield "prices", f"{price_id!r} is paid from a balance; coupons are about what is invoiced"
    if coupon.currency is not None and isinstance(coupon.discount, AmountOff):
        if (problem := currency_problem(coupon.currency)) is not None:
            yield "currency", problem
        elif (places := places_problem(coupon.discount.amount, coupon.currency)) is not None:
            yield "amount", places


def _redeemed(
    catalog: Catalog, account: Account, redemptions: Sequence[Redemption], own: Sequence[Redemption] | None = None
) -> Iterator[str]:
    """Yield what is wrong with redemptions that hold together; `own` are those that it is said of, None: all."""
    if not redemptions:
        return
    ids = [redemption.coupon_id for redemption in redemptions]
    for coupon_id in dict.fromkeys(redemption.coupon_id for redemption in (redemptions if own is None else own)):
        coupon = catalog.coupons.get(coupon_id)
        if coupon is None:
            yield f"{coupon_id!r} is not a coupon of {FILES[Kind.COUPON]}"
            continue
        if ids.count(coupon_id) > 1:
            yield f"{coupon_id!r} is redeemed {ids.count(coupon_id)} times for the same charges: leave one"
        if coupon.currency is not None and coupon.currency != account.currency:
            yield f"{coupon_id!r} takes off {coupon.currency}, and account {account.account_id!r} pays in {account.currency}"


def _shared_amounts(catalog: Catalog, account: Account, subscriptions: Sequence[Subscription]) -> Iterator[str]:
    if not account.coupons:
        return
    amounts = [
        redemption.coupon_id
        for redemption in account.coupons
        if redemption.coupon_id in catalog.coupons
        and isinstance(catalog.coupons[redemption.coupon_id].discount, AmountOff)
    ]
    for one, other in combinations(subscriptions, 2) if amounts else ():
        if _meet(one, other):
            yield (
                f"{', '.join(amounts)} is an amount, and {one.subscription_id!r} and {other.subscription_id!r} are in force "
                "together: each would have it, so give it to one of them"
            )
            return


def _meet(one: Subscription, other: Subscription) -> bool:
    return (other.ends_at is None or one.starts_at < other.ends_at) and (
        one.ends_at is None or other.starts_at < one.ends_at
    )
