"""The rules of prepaid balances, in figures: ids, multipliers, quota, arrears, and what a catalog may say of them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import permutations
from uuid import NAMESPACE_OID, UUID, uuid5
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.amounts import Money, exact_text
from billing_pipeline.catalog import (
    Catalog,
    CatalogError,
    MeteredBalance,
    PeakHours,
    Price,
    PriceVersion,
    parse_catalog,
    restore_catalog,
)
from billing_pipeline.prepaid import (
    Bucket,
    BucketOutsidePriceError,
    Payment,
    PaymentArrears,
    PaymentKind,
    SuspendState,
    adjustment_id,
    hour_multiplier,
    multiplier,
    opening_postings,
    payment_arrears,
    price_of_byte,
    spend,
    suspend_state,
)
from billing_pipeline.rating import BalanceUsage, VersionUsage, rate, rate_balance
from tests import prepaid_books
from tests.prepaid_books import account, subscription, version

NOON = datetime(2026, 4, 8, 12, tzinfo=UTC)
GOLDEN = UUID("977011f3-a25b-5968-a041-3458bf9fbbfd")


def bucket(minute: int = 0, *, node: str = "jp-node", region: str = "", line: str = "") -> Bucket:
    return Bucket(
        bucket_start=NOON + timedelta(minutes=minute),
        env="prod",
        node=node,
        account_uuid="u",
        region=region,
        line=line,
    )


def priced(*models: MeteredBalance) -> Price:
    """Return a price whose versions follow each other by an hour, from noon on."""
    versions = tuple(
        PriceVersion(
            version=number,
            model=model,
            effective_from=NOON + timedelta(hours=number - 1),
            effective_to=None if number == len(models) else NOON + timedelta(hours=number),
        )
        for number, model in enumerate(models, 1)
    )
    files = catalog_files()
    price = parse_catalog(files).price("per_byte")
    return Price(price_id="p", meter_id="traffic", currency="USD", versions=versions, billing_mode=price.billing_mode)


def catalog_files(**changes: str) -> Mapping[str, bytes]:
    texts = {
        "billable": prepaid_books.BILLABLE,
        "meters": prepaid_books.METERS + '[[meter]]\nid = "requests"\naggregation = "count"\nunit = "request"\n',
        "prices": prepaid_books.HALF,
        "plans": '[[plan]]\nid = "paygo"\nprices = ["per_byte"]\n',
        "accounts": account("acme"),
        "subscriptions": subscription("acme"),
        **changes,
    }
    return {f"{name}.toml": text.encode() for name, text in texts.items()}


def parse(**changes: str) -> Catalog:
    return parse_catalog(catalog_files(**changes))


def findings(**changes: str) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        parse(**changes)
    return [str(finding) for finding in caught.value.findings]


class TestEntryId:
    def test_is_the_golden_one(self) -> None:
        name = "2026-04-08T10:30:00Z|prod:jp-node|11111111-1111-1111-1111-111111111111||"
        found = Bucket(
            bucket_start=datetime(2026, 4, 8, 10, 30, tzinfo=UTC),
            env="prod",
            node="jp-node",
            account_uuid="11111111-1111-1111-1111-111111111111",
        )
        assert found.entry_id == uuid5(NAMESPACE_OID, name) == GOLDEN

    def test_is_the_same_in_any_zone_and_another_for_any_other_place(self) -> None:
        there = bucket()
        tokyo = Bucket(
            bucket_start=there.bucket_start.astimezone(ZoneInfo("Asia/Tokyo")),
            env="prod",
            node="jp-node",
            account_uuid="u",
        )
        assert there.entry_id == tokyo.entry_id
        others = {bucket(1), bucket(node="us"), bucket(region="jp"), bucket(line="jp")}
        assert len({one.entry_id for one in others} | {there.entry_id}) == 5

    def test_adjustments_follow_from_it(self) -> None:
        assert adjustment_id(GOLDEN, 1) == GOLDEN
        assert adjustment_id(GOLDEN, 2) == uuid5(GOLDEN, "2")
        assert len({adjustment_id(GOLDEN, revision) for revision in range(1, 10)}) == 9


class TestMultiplier:
    def test_is_region_times_line_times_hour(self) -> None:
        model = MeteredBalance(
            unit_price=Decimal("0.5"),
            region_multipliers={"jp": Decimal("1.2")},
            line_multipliers={"premium": Decimal("2.0")},
            peak=PeakHours(hours=((12, 13),), zone="UTC"),
            peak_multiplier=Decimal("1.5"),
            off_peak_multiplier=Decimal("0.5"),
        )
        assert multiplier(model, region="jp", line="premium", at=NOON) == Decimal("3.6")
        assert multiplier(model, region="jp", line="", at=NOON + timedelta(hours=1)) == Decimal("0.6")

    def test_what_is_missing_or_zero_counts_one(self) -> None:
        model = MeteredBalance(
            unit_price=Decimal(1),
            region_multipliers={"jp": Decimal(0)},
            peak=PeakHours(hours=((0, 24),), zone="UTC"),
            peak_multiplier=Decimal(0),
        )
        assert multiplier(model, region="jp", line="none", at=NOON) == 1

    @pytest.mark.parametrize(
        ("zone", "hours", "peak_utc"),
        [
            ("UTC", ((9, 11),), {9, 10}),
            ("UTC", ((22, 2),), {22, 23, 0, 1}),
            ("Asia/Shanghai", ((18, 23),), {10, 11, 12, 13, 14}),
            ("UTC", ((0, 24),), set(range(24))),
            ("UTC", ((23, 24), (0, 1)), {23, 0}),
        ],
    )
    def test_peak_hours_begin_and_end_on_hours_of_their_zone(
        self, zone: str, hours: tuple[tuple[int, int], ...], peak_utc: set[int]
    ) -> None:
        model = MeteredBalance(
            unit_price=Decimal(1), peak=PeakHours(hours=hours, zone=zone), peak_multiplier=Decimal(2)
        )
        for hour in range(24):
            at = NOON.replace(hour=hour)
            expected = 2 if hour in peak_utc else 1
            assert hour_multiplier(model, at) == expected
            assert hour_multiplier(model, at + timedelta(minutes=59)) == expected

    def test_peak_hours_follow_daylight_saving(self) -> None:
        model = MeteredBalance(
            unit_price=Decimal(1), peak=PeakHours(hours=((18, 19),), zone="Europe/Berlin"), peak_multiplier=Decimal(2)
        )
        assert hour_multiplier(model, datetime(2026, 3, 28, 17, tzinfo=UTC)) == 2
        assert hour_multiplier(model, datetime(2026, 3, 29, 16, tzinfo=UTC)) == 2


class TestSpend:
    def test_quota_first_then_price(self) -> None:
        model = MeteredBalance(
            unit_price=Decimal("0.5"),
            included_quota_bytes=100,
            region_multipliers={"jp": Decimal("1.2")},
            line_multipliers={"premium": Decimal("2.0")},
        )
        (spent,) = spend([(bucket(region="jp", line="premium"), 150)], priced(model))
        assert (spent.included_bytes, spent.rated_bytes, spent.multiplier, spent.amount) == (
            100,
            50,
            Decimal("2.4"),
            -60,
        )

    def test_100_000_bytes_one_by_one_are_exactly_one_cent(self) -> None:
        price = priced(MeteredBalance(unit_price=Decimal("0.0000001")))
        minutes = [(bucket(minute % 1440, node=f"n{minute}"), 1) for minute in range(100_000)]
        assert sum(spent.amount for spent in spend(minutes, price)) == Decimal("-0.01")

    def test_another_quota_in_the_period_goes_on_counting(self) -> None:
        price = priced(
            MeteredBalance(unit_price=Decimal(1), included_quota_bytes=100),
            MeteredBalance(unit_price=Decimal(2), included_quota_bytes=130),
            MeteredBalance(unit_price=Decimal(3), included_quota_bytes=50),
        )
        spent = list(spend([(bucket(0), 110), (bucket(60), 30), (bucket(120), 7)], price))
        assert [(one.included_bytes, one.rated_bytes, one.amount) for one in spent] == [
            (100, 10, -10),
            (20, 10, -20),
            (0, 7, -21),
        ]

    def test_a_bucket_before_the_price_is_refused(self) -> None:
        with pytest.raises(BucketOutsidePriceError, match="no prepaid version at 2026-04-08T11:59"):
            list(spend([(bucket(-1), 1)], priced(MeteredBalance(unit_price=Decimal(1)))))

    @given(
        st.lists(st.integers(0, 300), max_size=12),
        st.integers(0, 1000),
        st.decimals("0", "3", places=9),
        st.randoms(use_true_random=False),
    )
    def test_order_of_input_does_not_matter_and_nothing_is_lost(
        self, sizes: list[int], quota: int, unit_price: Decimal, chance: object
    ) -> None:
        price = priced(MeteredBalance(unit_price=unit_price, included_quota_bytes=quota))
        minutes = [(bucket(number), size) for number, size in enumerate(sizes)]
        shuffled = list(minutes)
        chance.shuffle(shuffled)  # type: ignore[attr-defined]
        spent = list(spend(shuffled, price))
        assert spent == list(spend(minutes, price))
        total = sum(sizes)
        assert sum(one.included_bytes for one in spent) == min(quota, total)
        assert sum(one.rated_bytes for one in spent) == max(total - quota, 0)
        assert sum((one.amount for one in spent), Decimal(0)) == -max(total - quota, 0) * unit_price


class TestRateBalance:
    def test_gives_a_line_for_each_multiplier(self) -> None:
        price = parse().price("per_byte")
        (only,) = price.versions
        usage = [
            BalanceUsage(version=only, multiplier=Decimal(1), quantity=Decimal(10), included=Decimal(10)),
            BalanceUsage(version=only, multiplier=Decimal("2.4"), quantity=Decimal(150), included=Decimal(100)),
        ]
        rated = rate_balance(price=price, unit="byte", usage=usage)
        (line,) = rated.lines
        assert (rated.quantity, rated.exact) == (160, 60)
        assert line.as_text() == {
            "version": 1,
            "tier": None,
            "quantity": "50",
            "unit": "byte",
            "unit_price": "1.2",
            "flat_fee": "0",
            "amount": "60",
            "multiplier": "2.4",
        }

    def test_a_quantity_by_hand_is_rated_at_multiplier_one(self) -> None:
        body = 'unit_price = "0.05"\nincluded_quota_bytes = 1000000000\nconversion = { unit = "GB", divide = "1000000000" }'
        price = parse(prices=prepaid_books.price(version(body=body))).price("per_byte")
        usage = [VersionUsage(version=price.versions[0], quantity=Decimal("3500000000"))]
        rated = rate(price=price, unit="byte", usage=usage)
        assert (exact_text(rated.quantity), rated.unit, exact_text(rated.exact)) == ("3.5", "GB", "0.125")
        assert price_of_byte(price.versions[0]) == Decimal("0.00000000005")


class TestArrears:
    STORY = (
        Payment(at=NOON, event_id="a", kind=PaymentKind.PAYMENT_FAILED),
        Payment(at=NOON + timedelta(days=2), event_id="b", kind=PaymentKind.INVOICE_PAID),
        Payment(at=NOON + timedelta(days=4), event_id="c", kind=PaymentKind.PAYMENT_FAILED),
        Payment(at=NOON + timedelta(days=6), event_id="d", kind=PaymentKind.PAYMENT_FAILED),
    )

    def test_follow_from_the_payments_in_any_order(self) -> None:
        expected = PaymentArrears(arrears_since=NOON + timedelta(days=4), last_paid_at=NOON + timedelta(days=2))
        assert {payment_arrears(order) for order in permutations(self.STORY)} == {expected}

    @pytest.mark.parametrize(
        ("paid", "since"), [("in_b", 0), ("in_a", 4), ("", None), ("in_c", 0)], ids=["b", "a", "all", "another"]
    )
    def test_of_an_invoice_are_ended_by_its_own_payment(self, paid: str, since: int | None) -> None:
        """Whoever pays this month has not paid the last one with it."""
        story = [
            Payment(at=NOON, event_id="1", kind=PaymentKind.PAYMENT_FAILED, invoice_id="in_a"),
            Payment(at=NOON + timedelta(days=4), event_id="2", kind=PaymentKind.PAYMENT_FAILED, invoice_id="in_b"),
            Payment(at=NOON + timedelta(days=9), event_id="3", kind=PaymentKind.INVOICE_PAID, invoice_id=paid),
        ]
        found = payment_arrears(story)
        assert found.arrears_since == (None if since is None else NOON + timedelta(days=since))
        day = NOON + timedelta(days=14 + (since or 0))
        expected = SuspendState.ACTIVE if since is None else SuspendState.SUSPENDED
        assert suspend_state(payments=found, balance_arrears_since=None, now=day) is expected

    def test_of_no_invoice_in_particular_are_ended_by_any_payment(self) -> None:
        failed = Payment(at=NOON, event_id="1", kind=PaymentKind.PAYMENT_FAILED)
        paid = Payment(at=NOON + timedelta(days=1), event_id="2", kind=PaymentKind.INVOICE_PAID, invoice_id="in_a")
        assert payment_arrears([failed, paid]).arrears_since is None

    def test_a_payment_at_the_instant_of_a_failure_comes_after_it(self) -> None:
        failed = Payment(at=NOON, event_id="z", kind=PaymentKind.PAYMENT_FAILED)
        paid = Payment(at=NOON, event_id="a", kind=PaymentKind.INVOICE_PAID)
        assert payment_arrears([paid, failed]) == PaymentArrears(last_paid_at=NOON)

    @pytest.mark.parametrize(
        ("failed", "negative", "paid", "expected"),
        [
            (None, None, None, SuspendState.ACTIVE),
            (13, None, None, SuspendState.ACTIVE),
            (14, None, None, SuspendState.SUSPENDED),
            (None, 13, None, SuspendState.ACTIVE),
            (None, 14, None, SuspendState.SUSPENDED),
            (None, 20, 13, SuspendState.ACTIVE),
            (None, 20, 14, SuspendState.SUSPENDED),
            (3, 15, None, SuspendState.SUSPENDED),
        ],
    )
    def test_fourteen_days_suspend(
        self, failed: int | None, negative: int | None, paid: int | None, expected: SuspendState
    ) -> None:
        def ago(days: int | None) -> datetime | None:
            return None if days is None else NOON - timedelta(days=days)

        payments = PaymentArrears(arrears_since=ago(failed), last_paid_at=ago(paid))
        assert suspend_state(payments=payments, balance_arrears_since=ago(negative), now=NOON) is expected


class TestOpeningPostings:
    def test_owe_the_customer_what_was_paid_before(self) -> None:
        found = opening_postings(entry_id=GOLDEN, account_id="acme", amount=Money(10_000, "USD"))
        assert [(one.ledger_account, one.amount.minor_units) for one in found] == [
            ("prepaid:acme", -10_000),
            ("opening_balance:USD", 10_000),
        ]
        assert opening_postings(entry_id=GOLDEN, account_id="acme", amount=Money(0, "USD")) == ()


class TestCatalog:
    FULL = (
        'unit_price = "0.05"\nincluded_quota_bytes = 107374182400\nregion_multipliers = { jp = "1.2" }\n'
        'line_multipliers = { premium = "2" }\npeak = { hours = [[18, 23]], zone = "Asia/Shanghai" }\n'
        'peak_multiplier = "1.5"\noff_peak_multiplier = "0.8"\ninitial_balance = "5.00"\nminimum_balance = "1.25"\n'
        'conversion = { unit = "GiB", divide = "1073741824" }'
    )

    def test_reads_every_term_and_keeps_it(self) -> None:
        catalog = parse(
            prices=prepaid_books.price(version(body=self.FULL)),
            subscriptions=subscription("acme", rest='initial_balance = "7.5"'),
        )
        (only,) = catalog.price("per_byte").versions
        assert only.model == MeteredBalance(
            unit_price=Decimal("0.05"),
            included_quota_bytes=100 * 2**30,
            region_multipliers={"jp": Decimal("1.2")},
            line_multipliers={"premium": Decimal(2)},
            peak=PeakHours(hours=((18, 23),), zone="Asia/Shanghai"),
            peak_multiplier=Decimal("1.5"),
            off_peak_multiplier=Decimal("0.8"),
            initial_balance=Decimal(5),
            minimum_balance=Decimal("1.25"),
        )
        assert only.model_name == "metered_balance"
        assert catalog.subscriptions["s_acme_paygo"].initial_balance == Decimal("7.5")
        kept = restore_catalog((entry.kind, entry.json) for entry in catalog.contents)
        assert (kept.sha256, kept.prices, kept.subscriptions) == (
            catalog.sha256,
            catalog.prices,
            catalog.subscriptions,
        )

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ('unit_price = "1"\nincluded_units = "5"', "included_units: of a prepaid price are included_quota_bytes"),
            ('unit_price = "1"\npeak_multiplier = "2"', "peak: the hours are missing: add peak = { hours"),
            ('unit_price = "1"\npeak = { hours = [[1, 1]], zone = "UTC" }', "peak.hours: [1, 1] holds no hour"),
            ('unit_price = "1"\npeak = { hours = [[1, 2]], zone = "Mars" }', "peak.zone: 'Mars' is not an IANA"),
            ('unit_price = "1"\npeak = { hours = [[1, 25]], zone = "UTC" }', "peak.hours.1.2: Input should be less"),
            ('unit_price = "1"\ninitial_balance = "1.005"', "initial_balance: 1.005 has more places than USD"),
            (
                'unit_price = "1"\nconversion = { unit = "x", divide = "3" }',
                "conversion.divide: the price of one byte has no end in decimals",
            ),
            (
                'unit_price = "1"\nconversion = { unit = "x", rounding = "up" }',
                "conversion.rounding: would round every minute by itself",
            ),
            ('unit_price = "1"\namount = "2"', "a metered_balance price has no amount"),
            ("", "a metered_balance price needs unit_price"),
            ('unit_price = "1"\nincluded_quota_bytes = "5"', "included_quota_bytes: Input should be a valid integer"),
        ],
    )
    def test_refuses_terms_that_cannot_be_rated(self, body: str, expected: str) -> None:
        (finding,) = findings(prices=prepaid_books.price(version(body=body)))
        assert "prices.toml: per_byte" in finding
        assert expected in finding

    def test_refuses_another_model_or_another_way_of_billing(self) -> None:
        standard = version(body='unit_price = "1"').replace("metered_balance", "standard")
        assert "write both, or neither" in findings(prices=prepaid_books.price(standard))[0]
        invoiced = prepaid_books.HALF.replace('billing_mode = "prepaid_balance"\n', "")
        assert "write both, or neither" in findings(prices=invoiced)[0]

    def test_refuses_a_meter_that_is_not_of_traffic_and_groups(self) -> None:
        wrong = prepaid_books.HALF.replace('meter = "traffic"', 'meter = "requests"\ngroup_by = ["node"]')
        meter, groups = findings(prices=wrong)
        assert "meter: a balance pays for traffic, and 'requests' is not: give the meter source" in meter
        assert groups == ("prices.toml: per_byte: group_by: a balance has one quota for all groups: leave it out")

    def test_refuses_two_prices_on_one_balance(self) -> None:
        other = prepaid_books.price(version(body='unit_price = "1"'), price_id="other", meter="downlink")
        both = prepaid_books.HALF + other
        shared, spent = findings(prices=both, plans='[[plan]]\nid = "paygo"\nprices = ["per_byte", "other"]\n')
        assert "would bill the bytes twice that meters 'downlink' and 'traffic' share" in shared
        assert "would spend one balance by two quotas" in spent
        shared, spent = findings(
            prices=both,
            plans='[[plan]]\nid = "paygo"\nprices = ["per_byte"]\n[[plan]]\nid = "more"\nprices = ["other"]\n',
            subscriptions=subscription("acme") + subscription("acme", plan="more"),
        )
        assert "bills bytes of meter 'downlink', which meter 'traffic' counts too, of account 'acme' together" in shared
        assert "spends the balance of 'acme' together with 's_acme_paygo'" in spent

    def test_refuses_an_initial_balance_that_nothing_spends(self) -> None:
        fee = '[[price]]\nid = "fee"\ncurrency = "USD"\n' + version(body='amount = "1"').replace(
            "metered_balance", "flat_fee"
        )
        (finding,) = findings(
            prices=fee,
            plans='[[plan]]\nid = "paygo"\nprices = ["fee"]\n',
            subscriptions=subscription("acme", rest='initial_balance = "5"'),
        )
        assert "initial_balance: plan 'paygo' has no prepaid price: leave it out" in finding
