"""Guards: what passes, what warns, what holds, and that the message helps."""

from decimal import Decimal

import pytest

from billing_pipeline import checks
from billing_pipeline.checks import Outcomes, Subject, VerdictStatus
from billing_pipeline.records import LineCounts

SUBJECT = Subject(asset="usage/api_requests", partition_key="2026-03-01", inputs_digest="d1")
PASSED, WARNED, HELD, RELEASED = VerdictStatus


class TestLinesConserved:
    def test_passes_when_every_line_has_an_outcome(self) -> None:
        counts = LineCounts(lines_read=10, accepted=6, rejected=1, duplicate=2, out_of_scope=1)
        assert checks.lines_conserved(SUBJECT, counts).status is PASSED

    @pytest.mark.parametrize("accepted", [5, 7])
    def test_holds_when_a_line_is_lost_or_counted_twice(self, accepted: int) -> None:
        counts = LineCounts(lines_read=10, accepted=accepted, rejected=1, duplicate=2, out_of_scope=1)
        verdict = checks.lines_conserved(SUBJECT, counts)
        assert (verdict.status, verdict.expected) == (HELD, "10")


class TestRecordsConserved:
    OUTCOMES = Outcomes(read=10, billable=5, not_billable=3, duplicate=1, conflict=1)

    def test_passes_when_files_lake_and_outcomes_agree(self) -> None:
        assert checks.records_conserved(SUBJECT, self.OUTCOMES, in_lake=10, in_files=10).status is PASSED

    @pytest.mark.parametrize(("in_lake", "in_files"), [(11, 10), (10, 11), (9, 9)])
    def test_holds_when_records_are_missing_anywhere(self, in_lake: int, in_files: int) -> None:
        verdict = checks.records_conserved(SUBJECT, self.OUTCOMES, in_lake=in_lake, in_files=in_files)
        assert verdict.status is HELD
        assert "5 billable + 3 not billable + 1 duplicate + 1 conflict" in verdict.actual
        assert "To fix" in verdict.message

    def test_holds_when_an_outcome_is_missing(self) -> None:
        outcomes = Outcomes(read=10, billable=5, not_billable=3, duplicate=0, conflict=1)
        assert checks.records_conserved(SUBJECT, outcomes, in_lake=10, in_files=10).status is HELD


class TestNoConflict:
    @pytest.mark.parametrize(
        ("records", "count", "status"),
        [(10, 0, PASSED), (10, 1, WARNED), (10, 2, HELD), (10_000, 10, WARNED), (10_000, 11, HELD), (0, 0, PASSED)],
    )
    def test_one_bad_line_warns_and_a_flood_holds(self, records: int, count: int, status: VerdictStatus) -> None:
        verdict = checks.no_conflict(SUBJECT, records=records, open_identities=[f"api/{n}" for n in range(count)])
        assert verdict.status is status
        assert verdict.actual == f"{count} identities with different contents"

    def test_names_ten_identities_and_counts_the_rest(self) -> None:
        verdict = checks.no_conflict(
            SUBJECT, records=100_000, open_identities=[f"api/{number:02d}" for number in range(12)]
        )
        assert "api/00, api/01" in verdict.message
        assert "api/09 and 2 more" in verdict.message


class TestHoursDelivered:
    EXPECTED = {"api": frozenset({6, 7, 8}), "auth": frozenset({6})}

    def test_passes_when_every_expected_hour_has_records(self) -> None:
        delivered = {"api": {6: 1, 7: 5, 8: 2}, "auth": {6: 1}}
        verdict = checks.hours_delivered(SUBJECT, expected=self.EXPECTED, records_by_hour=delivered)
        assert (verdict.status, verdict.expected) == (PASSED, "api: 06-08, auth: 06")

    def test_holds_and_names_the_hours_of_each_source(self) -> None:
        verdict = checks.hours_delivered(SUBJECT, expected=self.EXPECTED, records_by_hour={"api": {6: 1, 7: 0}})
        assert verdict.status is HELD
        assert verdict.actual == "no records in api: 07-08; auth: 06 (UTC)"
        assert "outage of the exporter" in verdict.message

    def test_draws_runs_of_hours_together(self) -> None:
        delivered = {"api": dict.fromkeys((6, 8, 9, 10), 1)}
        verdict = checks.hours_delivered(SUBJECT, expected={"api": frozenset(range(24))}, records_by_hour=delivered)
        assert (verdict.expected, verdict.actual) == ("api: 00-23", "no records in api: 00-05, 07, 11-23 (UTC)")

    def test_expects_nothing_of_a_source_without_hours(self) -> None:
        verdict = checks.hours_delivered(SUBJECT, expected={"api": frozenset()}, records_by_hour={})
        assert (verdict.status, verdict.expected) == (PASSED, "no hours are expected")


class TestUsageEqualsRecords:
    def test_passes_on_equal_counts_and_reads_an_absent_meter_as_zero(self) -> None:
        usage, records = {"requests": Decimal("5.000000000")}, {"requests": Decimal(5), "commands": Decimal(0)}
        assert checks.usage_equals_records(SUBJECT, usage=usage, records=records).status is PASSED

    def test_holds_and_names_the_meters_that_differ(self) -> None:
        verdict = checks.usage_equals_records(
            SUBJECT, usage={"requests": Decimal(5)}, records={"requests": Decimal(6), "commands": Decimal(1)}
        )
        assert verdict.status is HELD
        assert verdict.message.startswith("Usage of commands, requests is not")


class TestMoneyGuards:
    def test_charges_that_equal_the_usage_pass_and_others_hold(self) -> None:
        assert checks.charges_equal_usage(SUBJECT, rated_minor={"USD": 5}, booked_minor={"USD": 5}).status is PASSED
        assert checks.charges_equal_usage(SUBJECT, rated_minor={"USD": 5}, booked_minor={"EUR": 5}).status is HELD

    def test_an_unbalanced_transaction_holds_the_ledger(self) -> None:
        assert checks.ledger_balances(SUBJECT, unbalanced=[]).status is PASSED
        assert "t-1" in checks.ledger_balances(SUBJECT, unbalanced=["t-1"]).message

    def test_a_ledger_that_differs_from_the_charges_is_held(self) -> None:
        verdict = checks.ledger_equals_charges(SUBJECT, charged_minor={"USD": 5}, posted_minor={})
        assert (verdict.status, verdict.expected, verdict.actual) == (HELD, "USD 5", "nothing")


class TestWithReleases:
    def test_lets_through_exactly_the_guards_that_were_released(self) -> None:
        held = checks.equal(SUBJECT, guard="a", expected=1, actual=2, passed="", held="no")
        other = checks.equal(SUBJECT, guard="b", expected=1, actual=2, passed="", held="no")
        passed = checks.equal(SUBJECT, guard="c", expected=1, actual=1, passed="yes", held="")
        verdicts = checks.with_releases([held, other, passed], {"a", "c"})
        assert [verdict.status for verdict in verdicts] == [RELEASED, HELD, PASSED]
        assert checks.holds(verdicts)
        assert not checks.holds(verdicts[:1])
