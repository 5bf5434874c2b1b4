"""Sessions, locks, bulk loads and clear failures, on a real server."""

from resources.database import Database, Role


class TestConnect:
    def test_drops_into_the_role_and_into_utc(self, database: Database) -> None:
        for role in Role:
            with database.connect(role) as connection:
                facts = connection.execute("select current_user, current_setting('TimeZone')").fetchall()
            assert facts == [(role, "UTC")]
