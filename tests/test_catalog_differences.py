"""Two catalogs: what changes, for whom, from when."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from billing_pipeline.catalog import Kind
from billing_pipeline.catalog.differences import Change, Difference, differences
from resources.catalog_store import read_catalog
from resources.settings import PROJECT_ROOT

SHIPPED = PROJECT_ROOT / "catalog"


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    """Return a copy of the shipped catalog that a test may edit."""
    copy = tmp_path / "draft"
    shutil.copytree(SHIPPED, copy)
    return copy


def compared(draft: Path) -> tuple[Difference, ...]:
    """Return what differs from the shipped catalog to the draft."""
    return differences(read_catalog(SHIPPED), read_catalog(draft))


def replace(folder: Path, file: str, old: str, new: str) -> None:
    """Replace `old`, which is there, in a catalog file."""
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))


class TestDifferences:
    def test_of_a_catalog_to_itself_are_none(self, draft: Path) -> None:
        assert compared(draft) == ()

    def test_name_the_field_and_whom_it_concerns_from_the_version_on(self, draft: Path) -> None:
        replace(
            draft, "prices.toml", 'up_to = "10000", unit_price = "0.0090"', 'up_to = "10000", unit_price = "0.0085"'
        )
        (one,) = compared(draft)
        assert (one.kind, one.entry_id, one.version, one.change) == (Kind.PRICE, "starter_requests", 2, Change.CHANGED)
        assert [str(field) for field in one.fields] == ["tiers.2.unit_price: 0.009 -> 0.0085"]
        assert one.since == datetime(2026, 3, 3, tzinfo=UTC)
        catalog = read_catalog(SHIPPED)
        on_plan = {
            sub.subscription_id: sub.account_id
            for sub in catalog.subscriptions.values()
            if "starter_requests" in {price.price_id for price in catalog.prices_of(sub)}
        }
        assert one.subscriptions == tuple(sorted(on_plan))
        assert one.accounts == tuple(sorted(set(on_plan.values())))
        assert one.subscriptions

    def test_of_an_account_concern_its_subscriptions_from_their_begin(self, draft: Path) -> None:
        replace(draft, "accounts.toml", 'name = "Acme Charging"', 'name = "Acme"')
        (one,) = compared(draft)
        assert (one.kind, one.entry_id, one.accounts) == (Kind.ACCOUNT, "acme", ("acme",))
        assert one.since == min(sub.starts_at for sub in read_catalog(SHIPPED).subscriptions_by_account["acme"])
        assert [(field.field, field.before, field.after) for field in one.fields] == [("name", "Acme Charging", "Acme")]

    def test_of_a_new_version_show_its_fields_and_the_end_of_the_one_before(self, draft: Path) -> None:
        with (draft / "prices.toml").open("a") as prices:
            prices.write(
                '\n[[price]]\nid = "unused_fee"\ncurrency = "USD"\n[[price.versions]]\nversion = 1\n'
                'effective_from = 2027-01-01T00:00:00Z\nmodel = "flat_fee"\namount = "1"\n'
            )
        (one,) = compared(draft)
        assert (one.change, one.subscriptions, one.accounts) == (Change.ADDED, (), ())
        assert one.since == datetime(2027, 1, 1, tzinfo=UTC)
        assert ("amount", None, "1") in [(field.field, field.before, field.after) for field in one.fields]

    def test_are_the_same_with_the_sides_changed(self, draft: Path) -> None:
        replace(draft, "subscriptions.toml", "starts_at = ", "ends_at = 2030-01-01T00:00:00Z\nstarts_at = ")
        forth = differences(read_catalog(SHIPPED), read_catalog(draft))
        back = differences(read_catalog(draft), read_catalog(SHIPPED))
        assert [one.entry_id for one in forth] == [one.entry_id for one in back]
        assert [(one.before, one.after) for one in forth[0].fields] == [
            (one.after, one.before) for one in back[0].fields
        ]
