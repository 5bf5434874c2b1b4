"""The catalog: files in git -> what is measured, what it costs, who pays. Pure.

`parse_catalog` reads the files of a folder; the entries are frozen values. Not here: keeping them (catalog_store).
"""

from billing_pipeline.catalog.entries import (
    Account,
    AccountClient,
    BillableRule,
    BillingMode,
    Catalog,
    Dimension,
    EntryContent,
    Kind,
    Plan,
    Price,
    PriceVersion,
    Prorate,
    Subscription,
    Timing,
    TrialCovers,
    UnitConversion,
    UnknownEntryError,
)
from billing_pipeline.catalog.files import FILES, CatalogError, Finding
from billing_pipeline.catalog.models import (
    FlatFee,
    Graduated,
    MeteredBalance,
    Package,
    PackageRounding,
    PeakHours,
    PriceModel,
    Standard,
    Tier,
    Volume,
)
from billing_pipeline.catalog.phases import Existing, Phase, PhaseStatus
from billing_pipeline.catalog.schema import file_schemas
from billing_pipeline.catalog.validation import parse_catalog, restore_catalog
from billing_pipeline.meters import Aggregation, Meter

__all__ = [
    "FILES",
    "Account",
    "AccountClient",
    "Aggregation",
    "BillableRule",
    "BillingMode",
    "Catalog",
    "CatalogError",
    "Dimension",
    "EntryContent",
    "Existing",
    "Finding",
    "FlatFee",
    "Graduated",
    "Kind",
    "Meter",
    "MeteredBalance",
    "Package",
    "PackageRounding",
    "PeakHours",
    "Phase",
    "PhaseStatus",
    "Plan",
    "Price",
    "PriceModel",
    "PriceVersion",
    "Prorate",
    "Standard",
    "Subscription",
    "Tier",
    "Timing",
    "TrialCovers",
    "UnitConversion",
    "UnknownEntryError",
    "Volume",
    "file_schemas",
    "parse_catalog",
    "restore_catalog",
]
