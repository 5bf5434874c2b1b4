"""Print the incidents that are open, and messages that no channel took. Let a person close one.

Not here: finding out what is wrong (resources/alerting).
"""

from datetime import datetime

from rich.console import Console
from rich.markup import escape

from billing_pipeline.errors import BillingError
from console.screen import count, notes, page, table
from resources.alerting.desk import AlertDesk
from resources.alerting.incidents import open_incidents
from resources.database import Database
from resources.runtime import running
from resources.settings import Settings


class IncidentNotOpenError(BillingError):
    """There is no open incident of this number."""


def show_alerts(settings: Settings) -> None:
    """Print what is wrong, the oldest first."""
    with running(settings) as runtime:
        print_alerts(page(), runtime.database)


def print_alerts(console: Console, database: Database) -> None:
    """Print the same on `console`."""
    with database.reading() as connection:
        found = open_incidents(connection)
        waiting = connection.execute(
            """
            select incident_id, phase, channel, attempts, problem
            from alerts.delivery
            where delivered_at is null and attempts > 0
            order by incident_id, phase desc, channel
            """
        ).fetchall()
    if not found:
        console.print("Nothing is wrong that anybody was told of.")
    for one in found:
        console.print(
            f"[bold]{one.incident_id}[/] {one.kind.value} {escape(one.subject)}, since {one.opened_at:%Y-%m-%d %H:%M} UTC"
        )
        console.print(f"  {escape(one.message)}")
    if waiting:
        shown = table("Messages that were not taken", "incident", "phase", "by", "tries", "problem")
        for incident_id, phase, channel, attempts, problem in waiting:
            shown.add_row(str(incident_id), phase, escape(channel), count(attempts), escape(problem or ""))
        console.print(shown)


def close_alert(settings: Settings, incident_id: int, *, actor: str, reason: str, now: datetime) -> None:
    """Close an incident by a person's word; what is still wrong is a new one at the next look.

    Raises:
        IncidentNotOpenError: there is none of this number, or it has ended.
    """
    with running(settings) as runtime:
        # Messages go out from the daemon, to wherever the incident was told.
        desk = AlertDesk(database=runtime.database, channels=())
        found = [one for one in desk.open() if one.incident_id == incident_id]
        if not found:
            raise IncidentNotOpenError(
                f"there is no open incident {incident_id}", bill="none", fix="take a number that `billing alerts` shows"
            )
        desk.over(found[0].kind, found[0].subject, f"Closed by {actor}: {reason}", now=now)
    notes().print(f"Incident {incident_id} is closed.")
