"""The stores of an installation, each over the same database, lake and landing zone: settings -> stores. Opens nothing.

The one place where stores are made from settings; the Dagster definitions and the command line both take them from here.
"""

import os
from dataclasses import dataclass

from resources.backtest.backtest_store import BacktestStore
from resources.build_reader import BuildReader
from resources.catalog_store import CatalogStore
from resources.charge_store import ChargeStore
from resources.database import Database
from resources.entitlements.entitlement_store import EntitlementStore
from resources.invoicing.added_store import AddedStore
from resources.invoicing.invoice_reader import InvoiceReader
from resources.invoicing.invoice_store import InvoiceStore
from resources.invoicing.policy_file import load_invoicing_policy
from resources.invoicing.proposal_store import ProposalStore
from resources.lake import Lake
from resources.landing import Landing
from resources.payment_store import PaymentStore
from resources.pseudonym_key import pseudonym_key
from resources.reconciliation.canaries import load_canaries
from resources.reconciliation.reconciler import Reconciler
from resources.request_store import RequestStore
from resources.retention import Retention
from resources.settings import Settings
from resources.source_config import load_sources
from resources.storage_config import load_storage_policy, load_storage_sources
from resources.storage_policy import storage_policy
from resources.storage_store import StorageStore
from resources.storage_usage_store import StorageUsageStore
from resources.stripe_mirror.following import StripeFollowing, stripe_following
from resources.stripe_mirror.invoice_life import StoredInvoiceLife
from resources.stripe_sync.policy_file import load_sync_policy
from resources.stripe_sync.sync_reader import SyncReader
from resources.stripe_sync.syncing import StripeSyncing, stripe_syncing
from resources.timeline_reader import TimelineReader
from resources.traffic_clients import exporter_clients
from resources.traffic_config import load_traffic_sources
from resources.traffic_receipts import e_mail_pseudonyms
from resources.traffic_store import TrafficStore
from resources.traffic_usage_store import TrafficUsageStore
from resources.usage_store import UsageStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What reads, builds and books. `requests`, `traffic`, `storage` take deliveries; `..._usage` build event days,
    which `timelines` shows."""

    requests: RequestStore
    traffic: TrafficStore
    storage: StorageStore
    request_usage: UsageStore
    traffic_usage: TrafficUsageStore
    storage_usage: StorageUsageStore
    timelines: TimelineReader
    catalog: CatalogStore
    charges: ChargeStore
    payments: PaymentStore
    entitlements: EntitlementStore
    backtests: BacktestStore
    invoices: InvoiceStore
    invoice_reader: InvoiceReader
    added: AddedStore
    proposals: ProposalStore
    builds: BuildReader
    retention: Retention
    stripe_following: StripeFollowing
    reconciler: Reconciler
    stripe_syncing: StripeSyncing
    stripe_sync_reader: SyncReader


def open_stores(settings: Settings, database: Database) -> Stores:
    """Return the stores of an installation.

    Raises:
        SourcesError, TrafficConfigError, StorageConfigError, InvoicingPolicyError, StripePolicyError: sources.toml is missing,
            or one of these files is wrong.
    """
    lake = Lake(settings.lake_url, settings.scratch_dir)
    landing = Landing(settings.landing_url, settings.scratch_dir)
    key = pseudonym_key(settings.pseudonym_key_file)
    traffic_sources = load_traffic_sources(settings.catalog_dir)
    storage_sources = load_storage_sources(settings.catalog_dir)
    policy = load_invoicing_policy(settings.catalog_dir)
    invoices = InvoiceStore(database, policy)
    sync_policy = load_sync_policy(settings.catalog_dir)
    following = stripe_following(
        settings, database, life=StoredInvoiceLife(invoices), renewal_reasons=sync_policy.renewal_reasons
    )
    requests = RequestStore(database, lake, landing, load_sources(settings.catalog_dir), settings.scratch_dir, key)
    return Stores(
        requests=requests,
        traffic=TrafficStore(
            database,
            lake,
            landing,
            traffic_sources,
            exporter_clients(os.environ, e_mail_pseudonyms(key)),
            settings.scratch_dir,
            key,
        ),
        storage=StorageStore(
            database,
            lake,
            landing,
            storage_sources,
            settings.scratch_dir,
            landing_url=settings.landing_url,
            pseudonymise=e_mail_pseudonyms(key),
        ),
        request_usage=UsageStore(
            database=database, lake=lake, scratch_dir=settings.scratch_dir, expectations=requests.expected_hours
        ),
        traffic_usage=TrafficUsageStore(
            database=database, lake=lake, scratch_dir=settings.scratch_dir, sources=traffic_sources
        ),
        storage_usage=StorageUsageStore(
            database=database,
            lake=lake,
            scratch_dir=settings.scratch_dir,
            sources=frozenset(source.name for source in storage_sources),
            policy=storage_policy(storage_sources, load_storage_policy(settings.catalog_dir)),
        ),
        timelines=TimelineReader(database=database, lake=lake, scratch_dir=settings.scratch_dir),
        catalog=CatalogStore(database, e_mail_pseudonyms(key)),
        charges=ChargeStore(database, policy.thresholds, settings.catalog_dir),
        payments=PaymentStore(database),
        entitlements=EntitlementStore(database),
        backtests=BacktestStore(database),
        invoices=invoices,
        invoice_reader=InvoiceReader(database),
        added=AddedStore(database, policy),
        proposals=ProposalStore(database),
        builds=BuildReader(database),
        retention=Retention(database=database, lake=lake, scratch_dir=settings.scratch_dir),
        stripe_following=following,
        reconciler=Reconciler(
            database=database,
            reads=lambda: following.reads,
            clock=following.clock,
            canaries=load_canaries(settings.catalog_dir),
            is_pushed=sync_policy.daily_push,
        ),
        stripe_syncing=stripe_syncing(settings, database, invoices, sync_policy),
        stripe_sync_reader=SyncReader(database),
    )
