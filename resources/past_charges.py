"""A charge as it was known: a revision is rated again with the catalog that it was booked with. Reads; nothing is booked.

The usage is what is built now: usage rows are replaced, so a revision comes out the same unless usage of its period came later.
Not here: rating (charge_usage), what the books say of a revision (charge_reader).
"""

from dataclasses import replace
from datetime import timedelta

from billing_pipeline.charges import Charge
from billing_pipeline.periods import RequestedDays
from resources.booking_scope import read_scope
from resources.catalog_store import catalog_release
from resources.charge_reader import BookedCharge, Revision
from resources.charge_usage import rate_to_date
from resources.database import Database


def rated_again(database: Database, charge: BookedCharge, revision: Revision) -> Charge | None:
    """Return what the production's rating makes of the charge with the revision's catalog; None where that has no such charge, and
    of prepaid charges, which are made minute by minute.

    Raises:
        CatalogNotKnownError: the catalog is not kept.
        UnratableError: usage that came since has no price in it.
    """
    # Rating keeps temporary tables; they end with the transaction, which writes nothing else.
    with database.transaction() as connection:
        connection.execute("set transaction isolation level repeatable read")
        catalog = catalog_release(connection, revision.catalog_sha256)
        subscription = catalog.subscriptions.get(charge.subscription_id)
        if subscription is None:
            return None
        alone = replace(catalog, subscriptions={charge.subscription_id: subscription})
        last = (charge.period.end - timedelta(microseconds=1)).date()
        scope = replace(read_scope(connection, alone, RequestedDays([last])), reshaped={})
        return rate_to_date(connection, alone, scope).charges.get(charge.charge_id)
