"""Where the catalog sends invoices: with which subscription, to whom at Stripe; what is refused, and what changes no digest."""

import pytest

from billing_pipeline.catalog import CatalogError
from tests.test_catalog import BASE, parse

PAIR = BASE["subscriptions.toml"] + (
    '[[subscription]]\nid = "s2"\naccount = "acme"\nplan = "other"\nstarts_at = 2026-02-01T00:00:00Z\n{}'
)
OTHERS = {
    "plans": BASE["plans.toml"] + '[[plan]]\nid = "other"\nprices = ["fee"]\n',
    "prices": BASE["prices.toml"]
    + '[[price]]\nid = "fee"\ncurrency = "USD"\n[[price.versions]]\nversion = 1\nmodel = "flat_fee"\namount = "5"\n'
    "effective_from = 2026-01-01T00:00:00Z\n",
}


def refused(subscriptions: str = BASE["subscriptions.toml"], accounts: str = BASE["accounts.toml"]) -> str:
    with pytest.raises(CatalogError) as error:
        parse(subscriptions=subscriptions, accounts=accounts, **OTHERS)
    return str(error.value)


class TestLinks:
    def test_are_read(self) -> None:
        accounts = BASE["accounts.toml"] + 'stripe_customer = "cus_1"\n'
        links = 'invoice_with = "s1"\n'
        subscriptions = PAIR.replace('plan = "plain"', 'plan = "plain"\nstripe_subscription = "sub_1"').format(links)
        catalog = parse(subscriptions=subscriptions, accounts=accounts, **OTHERS)
        assert catalog.accounts["acme"].stripe_customer == "cus_1"
        assert catalog.subscriptions["s1"].stripe_subscription == "sub_1"
        assert catalog.subscriptions["s2"].invoice_with == "s1"

    def test_that_are_absent_change_no_digest(self) -> None:
        assert all("stripe" not in content.json and "invoice_with" not in content.json for content in parse().contents)

    @pytest.mark.parametrize(
        ("fields", "problem"),
        [
            ('invoice_with = "s9"\n', "'s9' is not a subscription of the same account"),
            ('invoice_with = "s2"\n', "'s2' has no invoices of its own"),
            ('invoice_with = "s1"\nanchor_day = 2\n', "has other billing periods"),
            ('invoice_with = "s1"\nstripe_subscription = "sub_1"\n', "give the link there"),
        ],
    )
    def test_that_lead_nowhere_are_refused(self, fields: str, problem: str) -> None:
        assert problem in refused(PAIR.format(fields))

    def test_to_a_subscription_that_ends_before_are_refused(self) -> None:
        ended = PAIR.replace('plan = "plain"', 'plan = "plain"\nends_at = 2026-04-01T00:00:00Z')
        assert "not in force all the time" in refused(ended.format('invoice_with = "s1"\n'))

    def test_to_one_subscription_of_stripe_are_refused_twice_at_the_same_time(self) -> None:
        linked = PAIR.replace('plan = "plain"', 'plan = "plain"\nstripe_subscription = "sub_1"')
        assert 'write invoice_with = "s1" instead' in refused(linked.format('stripe_subscription = "sub_1"\n'))

    def test_to_one_customer_are_refused_twice(self) -> None:
        linked = BASE["accounts.toml"] + 'stripe_customer = "cus_1"\n'
        twice = linked + '[[account]]\nid = "beta"\nname = "B"\ncurrency = "USD"\nstripe_customer = "cus_1"\n'
        assert "a customer pays for one account" in refused(accounts=twice)

    @pytest.mark.parametrize("link", ["sub_1", "cus 1", ""])
    def test_of_another_shape_are_refused(self, link: str) -> None:
        assert "stripe_customer" in refused(accounts=BASE["accounts.toml"] + f'stripe_customer = "{link}"\n')
