"""Catalog files: what they mean, and everything that is refused, by file, entry and field."""

from collections.abc import Mapping
from datetime import UTC, datetime, time
from decimal import Decimal

import pytest

from billing_pipeline.catalog import (
    FILES,
    BillingMode,
    Catalog,
    CatalogError,
    Dimension,
    Finding,
    Graduated,
    Package,
    PackageRounding,
    Standard,
    UnknownEntryError,
    parse_catalog,
    restore_catalog,
)
from billing_pipeline.periods import BillingAnchor
from resources.settings import PROJECT_ROOT

BASE: Mapping[str, str] = {
    "billable.toml": 'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{ method = "GET", endpoint = "/a" }]\n',
    "meters.toml": '[[meter]]\nid = "requests"\naggregation = "count"\nunit = "request"\n',
    "prices.toml": """
[[price]]
id = "each"
meter = "requests"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2026-01-01T00:00:00Z
model = "standard"
unit_price = "0.10"
""",
    "plans.toml": '[[plan]]\nid = "plain"\nprices = ["each"]\n',
    "accounts.toml": '[[account]]\nid = "acme"\nname = "Acme"\ncurrency = "USD"\nclients = [{ id = "c1" }]\n',
    "subscriptions.toml": (
        '[[subscription]]\nid = "s1"\naccount = "acme"\nplan = "plain"\nstarts_at = 2026-01-01T00:00:00Z\n'
    ),
}
VERSION_2 = """
[[price.versions]]
version = 2
effective_from = 2026-03-01T00:00:00Z
model = "standard"
unit_price = "0.20"
"""


def parse(**changes: str) -> Catalog:
    """Return the catalog of BASE with other texts for some files (by name without ending)."""
    files = {**BASE, **{f"{name}.toml": text for name, text in changes.items()}}
    return parse_catalog({name: text.encode() for name, text in files.items()})


def findings(**changes: str) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        parse(**changes)
    return [str(finding) for finding in caught.value.findings]


def price_with(body: str, *, head: str = 'meter = "requests"\n') -> str:
    return (
        f'[[price]]\nid = "each"\ncurrency = "USD"\n{head}[[price.versions]]\nversion = 1\n'
        f"effective_from = 2026-01-01T00:00:00Z\n{body}\n"
    )


class TestParseCatalog:
    def test_reads_every_kind_of_entry(self) -> None:
        catalog = parse()
        assert catalog.billable_rule.endpoints == frozenset({("GET", "/a")})
        assert catalog.billable_rule.success_statuses == ((200, 299),)
        assert catalog.meters["requests"].unit == "request"
        assert catalog.price("each").versions[0].model == Standard(unit_price=Decimal("0.10"))
        assert catalog.price("each").billing_mode is BillingMode.INVOICE_ITEMS
        assert catalog.plans["plain"].prices == ("each",)
        assert catalog.account("acme").clients[0].client_id == "c1"
        assert catalog.subscriptions["s1"].anchor == BillingAnchor(day=1, time_of_day=time(0), zone="UTC")
        assert catalog.prices_of(catalog.subscriptions["s1"]) == (catalog.price("each"),)
        assert catalog.subscriptions_by_account == {"acme": (catalog.subscriptions["s1"],)}

    def test_reads_models_with_all_their_fields(self) -> None:
        body = (
            'model = "package"\npackage_size = "100"\npackage_price = 1\nrounding = "down"\nfree_units = "5"\n'
            'included_units = "7.5"\nrestart_tiers = true\n'
            'conversion = { unit = "k", divide = "1000", rounding = "half_up", precision = 2 }'
        )
        price = parse(prices=price_with(body, head='meter = "requests"\ngroup_by = ["method"]\n')).price("each")
        (version,) = price.versions
        assert version.model == Package(
            size=Decimal(100), price=Decimal(1), rounding=PackageRounding.DOWN, free_units=Decimal(5)
        )
        assert (version.included_units, version.restart_tiers) == (Decimal("7.5"), True)
        assert version.conversion is not None
        assert version.conversion.divide == 1000
        assert price.group_by == (Dimension.METHOD,)

    def test_an_anchor_is_in_the_zone_of_the_account(self) -> None:
        catalog = parse(
            accounts=BASE["accounts.toml"].replace('name = "Acme"', 'name = "Acme"\ntime_zone = "Asia/Tokyo"'),
            subscriptions=BASE["subscriptions.toml"] + "anchor_day = 31\nanchor_time = 14:37:12\n",
        )
        assert catalog.subscriptions["s1"].anchor == BillingAnchor(
            day=31, time_of_day=time(14, 37, 12), zone="Asia/Tokyo"
        )

    def test_a_version_ends_where_the_next_begins(self) -> None:
        price = parse(prices=BASE["prices.toml"] + VERSION_2).price("each")
        march = datetime(2026, 3, 1, tzinfo=UTC)
        assert [version.effective_to for version in price.versions] == [march, None]
        found = [
            price.version_at(at) for at in (datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 2, 28, tzinfo=UTC), march)
        ]
        assert [version and version.version for version in found] == [None, 1, 2]

    def test_a_price_that_ended_is_in_force_no_more(self) -> None:
        ended = BASE["prices.toml"] + "effective_to = 2026-05-01T00:00:00Z\n"
        catalog = parse(prices=ended, subscriptions="")
        assert catalog.price("each").version_at(datetime(2026, 5, 1, tzinfo=UTC)) is None

    def test_the_shipped_catalog_is_right(self) -> None:
        folder = PROJECT_ROOT / "catalog"
        catalog = parse_catalog({name: (folder / name).read_bytes() for name in FILES.values()})
        models = {type(version.model).__name__ for price in catalog.prices.values() for version in price.versions}
        assert models == {"Standard", "Graduated", "Volume", "Package", "FlatFee", "MeteredBalance"}

    def test_an_unknown_entry_names_those_that_are_close(self) -> None:
        with pytest.raises(UnknownEntryError, match=r"no account 'acne' \(close: acme\)"):
            parse().account("acne")
        with pytest.raises(UnknownEntryError, match="no price 'zzz'"):
            parse().price("zzz")


class TestSha256:
    def test_is_of_the_content_and_not_of_the_bytes(self) -> None:
        same = parse(
            prices="# a comment\n" + BASE["prices.toml"].replace('"0.10"', '"0.1"').replace("\nmeter", "\n\nmeter"),
            accounts=BASE["accounts.toml"] + 'time_zone = "UTC"\n',
            subscriptions=BASE["subscriptions.toml"].replace("00:00:00Z", "01:00:00+01:00"),
        )
        assert same.sha256 == parse().sha256
        assert same == parse()

    def test_changes_with_every_amount_and_instant(self) -> None:
        digests = {
            parse().sha256,
            parse(prices=BASE["prices.toml"].replace("0.10", "0.11")).sha256,
            parse(prices=BASE["prices.toml"] + VERSION_2).sha256,
            parse(accounts=BASE["accounts.toml"].replace("c1", "c2")).sha256,
            parse(subscriptions=BASE["subscriptions.toml"] + "ends_at = 2027-01-01T00:00:00Z\n").sha256,
        }
        assert len(digests) == 5

    def test_a_catalog_comes_back_from_its_contents(self) -> None:
        catalog = parse(prices=BASE["prices.toml"] + VERSION_2)
        again = restore_catalog((content.kind, content.json) for content in catalog.contents)
        assert again == catalog
        assert again.sha256 == catalog.sha256


class TestAmounts:
    def test_a_toml_float_is_refused_by_file_entry_and_field(self) -> None:
        assert findings(prices=BASE["prices.toml"].replace('"0.10"', "0.10")) == [
            'prices.toml: each: versions.1.unit_price: 0.1 is a TOML float, which is not exact; write it as text: "0.1"'
        ]

    @pytest.mark.parametrize(
        "amount", ['"-1"', '"1e3"', '"0x10"', '" 1"', '"NaN"', '"1,5"', '""', '"."', '"1."', "true", "[]", '"\u0661"']
    )
    def test_what_is_no_plain_number_is_refused(self, amount: str) -> None:
        (finding,) = findings(prices=BASE["prices.toml"].replace('"0.10"', amount))
        assert finding.startswith("prices.toml: each: versions.1.unit_price: ")

    @pytest.mark.parametrize("amount", ["0.1234567890123", "123456789012345678901"])
    def test_more_digits_than_the_tables_keep_are_refused(self, amount: str) -> None:
        (finding,) = findings(prices=BASE["prices.toml"].replace("0.10", amount))
        assert "more than 20 digits before or 12 after the point" in finding


class TestOneEntry:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ('model = "standard"', "a standard price needs unit_price"),
            ('model = "package"\npackage_size = "10"', "a package price needs package_price"),
            ('model = "standard"\nunit_price = "1"\ntiers = [{ unit_price = "1" }]', "a standard price has no tiers"),
            ('model = "standard"\nunit_price = "1"\nrounding = "down"', "a standard price has no rounding"),
            ('model = "percentag"', "versions.1.model: Input should be"),
            (
                'model = "package"\npackage_size = "0"\npackage_price = "1"',
                "versions.1.package_size: Input should be greater",
            ),
            ('model = "graduated"\ntiers = []', "versions.1.tiers: Tuple should have at least 1 item"),
            ('model = "standard"\nunit_price = "1"\nunit_prise = "1"', "versions.1.unit_prise: Extra inputs"),
            ('model = "standard"\nunit_price = "1"\nconversion = { unit = "k", divide = "0" }', "conversion.divide"),
        ],
    )
    def test_a_price_names_the_field_that_is_wrong(self, body: str, message: str) -> None:
        (finding,) = findings(prices=price_with(body))
        assert finding.startswith("prices.toml: each: versions.1")
        assert message in finding

    @pytest.mark.parametrize(
        ("start", "message"),
        [
            ("2026-01-01T00:00:00", "has no time zone"),
            ("2026-01-01", "is not an instant"),
            ("2026-01-01T00:00:00.5Z", "has a fraction of a second"),
            ('"yesterday"', "Invalid isoformat"),
        ],
    )
    def test_an_instant_is_aware_and_in_whole_seconds(self, start: str, message: str) -> None:
        (finding,) = findings(subscriptions=BASE["subscriptions.toml"].replace("2026-01-01T00:00:00Z", start))
        assert finding.startswith("subscriptions.toml: s1: starts_at: ")
        assert message in finding

    @pytest.mark.parametrize(
        "anchor", ["anchor_day = 32", "anchor_day = 0", "anchor_time = 25", "anchor_time = 12:00:00.5"]
    )
    def test_an_anchor_is_a_day_and_a_time_of_day(self, anchor: str) -> None:
        (finding,) = findings(subscriptions=BASE["subscriptions.toml"] + anchor + "\n")
        assert finding.startswith("subscriptions.toml: s1: anchor_")

    def test_a_meter_that_cannot_be_computed_is_refused(self) -> None:
        (finding,) = findings(meters=BASE["meters.toml"].replace('"count"', '"sum"'))
        assert "sum needs a field" in finding

    def test_an_entry_without_id_is_refused(self) -> None:
        (finding,) = findings(plans='[[plan]]\nprices = ["each"]\n')
        assert finding == "plans.toml: (no id): id: Field required"


class TestFiles:
    def test_a_missing_and_a_strange_file_are_named(self) -> None:
        files = {name: text.encode() for name, text in BASE.items() if name != "plans.toml"}
        with pytest.raises(CatalogError) as caught:
            parse_catalog({**files, "price.toml": b""})
        names = [(finding.file, finding.message) for finding in caught.value.findings]
        assert ("plans.toml", "is missing") in names
        assert names[0][0] == "price.toml"
        assert "is not a catalog file" in names[0][1]

    @pytest.mark.parametrize("content", [b"[[price]", b"\xff\xfe", b"a = 1 2"])
    def test_what_is_not_toml_is_named(self, content: bytes) -> None:
        files = {name: text.encode() for name, text in BASE.items()}
        with pytest.raises(CatalogError, match=r"prices\.toml: is not TOML"):
            parse_catalog({**files, "prices.toml": content})

    def test_a_byte_order_mark_is_no_content(self) -> None:
        files = {name: b"\xef\xbb\xbf" + text.encode() for name, text in BASE.items()}
        assert parse_catalog(files).sha256 == parse().sha256

    @pytest.mark.parametrize("text", ["[price]\nid = 1\n", "[[prices]]\nid = 1\n"])
    def test_entries_are_lists_of_their_kind(self, text: str) -> None:
        assert any("[[price]]" in finding for finding in findings(prices=text))

    def test_one_error_lists_everything(self) -> None:
        found = findings(
            accounts='[[account]]\nid = "a"\nname = ""\ncurrency = "USD"\n',
            meters='[[meter]]\nid = "m"\naggregation = "median"\nunit = "u"\n',
            plans="[[plan]]\nid = 5\nprices = []\n",
        )
        assert {finding.split(":")[0] for finding in found} >= {"accounts.toml", "meters.toml", "plans.toml"}
        error = CatalogError(Finding(file="f", entry=str(number), field="", message="m") for number in range(60))
        assert "60 findings" in str(error)
        assert "and 10 more" in str(error)


class TestTogether:
    @pytest.mark.parametrize(
        ("changes", "finding"),
        [
            (
                {"prices": BASE["prices.toml"].replace('"USD"', '"US1"')},
                (
                    "prices.toml: each: currency: currency 'US1' is not in ISO 4217: "
                    "write the three capital letters of a currency in use, such as USD"
                ),
            ),
            (
                {"prices": BASE["prices.toml"].replace('"requests"', '"request"')},
                "prices.toml: each: meter: 'request' is not a meter: name one of meters.toml such as requests, or define it there",
            ),
            (
                {"plans": '[[plan]]\nid = "plain"\nprices = ["eahc"]\n'},
                "plans.toml: plain: prices: 'eahc' is not a price",
            ),
            (
                {"plans": '[[plan]]\nid = "plain"\nprices = ["each", "each"]\n'},
                "plans.toml: plain: prices: 'each' is listed 2 times",
            ),
            (
                {"accounts": BASE["accounts.toml"] + 'time_zone = "Europe/Bonn"\n'},
                "accounts.toml: acme: time_zone: 'Europe/Bonn' is not an IANA time zone such as Europe/Berlin",
            ),
            (
                {"accounts": BASE["accounts.toml"].replace('"USD"', '"EUR"')},
                (
                    "subscriptions.toml: s1: plan: price 'each' is in USD, the account in EUR: "
                    "put it on a plan in its currency, or correct the one that is wrong"
                ),
            ),
            (
                {"subscriptions": BASE["subscriptions.toml"].replace('"acme"', '"acne"')},
                "subscriptions.toml: s1: account: 'acne' is not an account",
            ),
            (
                {"subscriptions": BASE["subscriptions.toml"].replace('"plain"', '"gold"')},
                "subscriptions.toml: s1: plan: 'gold' is not a plan",
            ),
            (
                {"subscriptions": BASE["subscriptions.toml"] + "ends_at = 2026-01-01T00:00:00Z\n"},
                "subscriptions.toml: s1: ends_at: 2026-01-01T00:00:00+00:00 is not after the start",
            ),
            (
                {"subscriptions": BASE["subscriptions.toml"].replace("2026-01-01", "2025-12-01")},
                (
                    "subscriptions.toml: s1: starts_at: price 'each' has a gap in the subscription: it is in force "
                    "2026-01-01T00:00:00+00:00 to open"
                ),
            ),
            (
                {"prices": BASE["prices.toml"] + "effective_to = 2026-02-01T00:00:00Z\n" + VERSION_2},
                (
                    "subscriptions.toml: s1: starts_at: price 'each' has a gap in the subscription: it is in force "
                    "2026-01-01T00:00:00+00:00 to 2026-02-01T00:00:00+00:00, 2026-03-01T00:00:00+00:00 to open"
                ),
            ),
            (
                {"prices": BASE["prices.toml"] + "effective_to = 2026-04-01T00:00:00Z\n" + VERSION_2},
                (
                    "prices.toml: each: versions.2.effective_from: 2026-03-01T00:00:00+00:00 overlaps version 1, "
                    "which ends at 2026-04-01T00:00:00+00:00"
                ),
            ),
            (
                {"prices": BASE["prices.toml"] + VERSION_2.replace("2026-03", "2025-03"), "subscriptions": ""},
                "prices.toml: each: versions.1.effective_from: version 1 starts after version 2: number them in order",
            ),
            (
                {"prices": BASE["prices.toml"] + VERSION_2.replace("T00:00:00Z", "T00:30:00Z")},
                (
                    "prices.toml: each: versions.2.effective_from: 2026-03-01T00:30:00+00:00 is inside an hour; "
                    "usage rows change price on whole UTC hours"
                ),
            ),
            (
                {"prices": BASE["prices.toml"] + VERSION_2 + 'conversion = { unit = "k", divide = "1000" }\n'},
                "prices.toml: each: versions.conversion: all versions of a price are in one unit; use a new price id for another",
            ),
            (
                {"prices": price_with('model = "graduated"\ntiers = [{ up_to = "10" }, { up_to = "10" }, {}]')},
                "prices.toml: each: versions.1.tiers.2.up_to: 10 is not above 10: write the tiers in ascending order",
            ),
            (
                {"prices": price_with('model = "volume"\ntiers = [{ unit_price = "1" }, { up_to = "10" }]')},
                (
                    "prices.toml: each: versions.1.tiers.1.up_to: is open, and tiers follow: say where it ends; "
                    "only the last may be open"
                ),
            ),
            (
                {"prices": price_with('model = "flat_fee"\namount = "1"')},
                "prices.toml: each: versions.1.model: a flat_fee has no meter: leave meter out, or take a model that rates usage",
            ),
            (
                {"prices": price_with('model = "flat_fee"\namount = "1"\nincluded_units = "5"', head="")},
                "prices.toml: each: versions.1.model: a flat fee has neither included units nor a unit conversion",
            ),
            (
                {"prices": price_with('model = "flat_fee"\namount = "1"', head='group_by = ["method"]\n')},
                "prices.toml: each: group_by: a price without a meter has no groups",
            ),
            (
                {"billable": BASE["billable.toml"].replace("[200, 299]", "[299, 200]")},
                "billable.toml: billable: success_statuses: [299, 200] holds no status",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_entries_agree_with_each_other(self, changes: Mapping[str, str], finding: str) -> None:
        assert finding in findings(**changes)

    def test_a_last_tier_may_be_bounded(self) -> None:
        model = (
            parse(prices=price_with('model = "graduated"\ntiers = [{ up_to = "10" }]')).price("each").versions[0].model
        )
        assert isinstance(model, Graduated)
        assert model.tiers[-1].up_to == 10

    @pytest.mark.parametrize("file", ["meters", "prices", "plans", "accounts", "subscriptions"])
    def test_an_id_is_used_once(self, file: str) -> None:
        text = BASE[f"{file}.toml"]
        assert any(
            finding.endswith("is there 2 times; an id is used once") for finding in findings(**{file: text + text})
        )

    def test_a_plan_bills_a_meter_once_and_in_one_currency(self) -> None:
        second = BASE["prices.toml"].replace('"each"', '"other"')
        plan = '[[plan]]\nid = "plain"\nprices = ["each", "other"]\n'
        assert findings(prices=BASE["prices.toml"] + second, plans=plan) == [
            "plans.toml: plain: prices: each, other would bill meter 'requests' twice: leave one of them in the plan"
        ]
        euros = second.replace("USD", "EUR")
        assert (
            "plans.toml: plain: prices: mixes the currencies EUR, USD: leave prices of one of them, a plan is on one bill"
        ) in findings(prices=BASE["prices.toml"] + euros, plans=plan)

    @pytest.mark.parametrize(
        ("fields", "envs", "is_shared"),
        [
            (("uplink_bytes", "total_bytes"), ('["prod"]', '["prod"]'), True),
            (("uplink_bytes", "uplink_bytes"), ('["prod"]', '["dev", "prod"]'), True),
            (("total_bytes", "total_bytes"), ('["prod"]', '["dev"]'), False),
            (("uplink_bytes", "downlink_bytes"), ('["prod"]', '["prod"]'), False),
        ],
    )
    def test_a_plan_bills_a_byte_of_traffic_once(
        self, fields: tuple[str, str], envs: tuple[str, str], is_shared: bool
    ) -> None:
        meters = "".join(
            f'[[meter]]\nid = "m{number}"\nsource = "traffic"\naggregation = "sum"\nfield = "{field}"\nunit = "byte"\n'
            f"envs = {environments}\n"
            for number, (field, environments) in enumerate(zip(fields, envs, strict=True))
        )
        prices = "".join(
            BASE["prices.toml"].replace('"each"', f'"p{number}"').replace('"requests"', f'"m{number}"')
            for number in range(2)
        )
        changes = {
            "meters": BASE["meters.toml"] + meters,
            "prices": BASE["prices.toml"] + prices,
            "plans": '[[plan]]\nid = "plain"\nprices = ["p0", "p1"]\n',
        }
        if is_shared:
            assert findings(**changes) == [
                (
                    "plans.toml: plain: prices: p0, p1 would bill the bytes twice that meters 'm0' and 'm1' share: "
                    "leave one of them in the plan"
                )
            ]
        else:
            assert parse(**changes).plans["plain"].prices == ("p0", "p1")

    def test_two_subscriptions_bill_a_meter_one_after_the_other(self) -> None:
        first = BASE["subscriptions.toml"]
        second = first.replace('"s1"', '"s2"').replace("2026-01-01", "2026-02-01")
        assert findings(subscriptions=first + second) == [
            (
                "subscriptions.toml: s2: plan: bills meter 'requests' of account 'acme' together with 's1', "
                "which has it at the same time: end one of them, or put one on a plan without it"
            )
        ]
        followed = first + "ends_at = 2026-02-01T00:00:00Z\n" + second
        assert len(parse(subscriptions=followed).subscriptions) == 2

    def test_a_uuid_in_capitals_is_refused_for_traffic_spells_it_in_lower_case(self) -> None:
        lower = "aaaaaaaa-1111-4111-8111-111111111111"
        upper = lower.upper()
        first = BASE["accounts.toml"]
        assert findings(accounts=first.replace('{ id = "c1" }', f'{{ id = "{upper}" }}')) == [
            (
                f"accounts.toml: acme: clients: traffic spells uuids in lower case and never matches {upper!r}: write {lower!r}, "
                "or both if requests spell it in capitals"
            )
        ]
        both = first.replace('{ id = "c1" }', f'{{ id = "{upper}" }}, {{ id = "{lower}" }}')
        assert len(parse(accounts=both).accounts["acme"].clients) == 2
        assert (
            parse(accounts=first.replace('"c1"', '"Octocat-AAAA"')).accounts["acme"].clients[0].client_id
            == "Octocat-AAAA"
        )

    def test_a_client_belongs_to_one_account_at_a_time(self) -> None:
        first = BASE["accounts.toml"]
        second = first.replace('"acme"', '"beta"')
        assert findings(accounts=first + second) == [
            "accounts.toml: beta: clients: client 'c1' belongs to account 'acme' at the same time"
        ]
        moved = first.replace('{ id = "c1" }', '{ id = "c1", valid_to = 2026-02-01T00:00:00Z }') + second.replace(
            '{ id = "c1" }', '{ id = "c1", valid_from = 2026-02-01T00:00:00Z }'
        )
        assert len(parse(accounts=moved).accounts) == 2

    def test_a_client_is_valid_at_some_instant(self) -> None:
        never = '{ id = "c1", valid_from = 2026-02-01T00:00:00Z, valid_to = 2026-02-01T00:00:00Z }'
        assert findings(accounts=BASE["accounts.toml"].replace('{ id = "c1" }', never)) == [
            "accounts.toml: acme: clients: client 'c1' is valid at no instant"
        ]


class TestLines:
    def test_an_error_names_the_line_of_the_field_or_of_the_entry(self) -> None:
        prices = BASE["prices.toml"].replace('meter = "requests"', 'meter = "nothing"') + VERSION_2.replace(
            "2026-03", "2025-03"
        )
        with pytest.raises(CatalogError) as caught:
            parse(prices=prices, accounts=BASE["accounts.toml"].replace('currency = "USD"\n', 'currency = "USX"\n'))
        lines = {(finding.file, finding.field): finding.line for finding in caught.value.findings}
        assert lines["prices.toml", "meter"] == 4
        place = lines["prices.toml", "versions.1.effective_from"]
        assert place is not None
        assert prices.splitlines()[place - 1].startswith("effective_from")
        assert lines["accounts.toml", "currency"] == 4
        assert "such as USD (line 4)" in str(caught.value)

    def test_what_has_no_place_has_no_line(self) -> None:
        with pytest.raises(CatalogError) as caught:
            parse_catalog({name: text.encode() for name, text in BASE.items() if name != "plans.toml"})
        assert [finding.line for finding in caught.value.findings] == [None]
        assert "plans.toml: is missing" in str(caught.value)
