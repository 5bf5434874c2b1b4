"""The asset of invoices and its jobs, over stores in memory: what it asks, what its page shows, when its checks fail."""

import dagster as dg

from assets.invoicing import AGREES, COMPILED, KEY, finalize_invoices
from billing_pipeline.amounts import Money
from resources.invoicing.invoice_reader import Disagreement
from tests.dagster_fakes import World

APART = Disagreement(account_id="acme", receivable=Money(4000, "USD"), invoiced=Money(3997, "USD"))


def run(world: World, accounts: list[str] | None = None) -> dg.ExecuteInProcessResult:
    config = {"ops": {"invoicing__items": {"config": {"accounts": accounts}}}} if accounts else {}
    job = world.defs.resolve_job_def("compile_invoices")
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(run_config=config, instance=instance)


def passed(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {one.check_name: one.passed for one in result.get_asset_check_evaluations()}


class TestItems:
    def test_compiles_all_accounts_or_those_asked_for(self) -> None:
        world = World()
        run(world)
        run(world, ["acme"])
        assert world.invoices.compiled == [None, ("acme",)]

    def test_shows_states_totals_and_the_biggest_invoices(self) -> None:
        (materialization,) = run(World()).asset_materializations_for_node("invoicing__items")
        metadata = materialization.metadata
        assert metadata["total_minor_USD_final"].value == 3997
        assert "| final | 1 | 3 | 39.97 USD |" in str(metadata["states"].value)
        assert "INV-000001" in str(metadata["biggest_invoices"].value)
        assert metadata["credited"].value == "5.00 USD"
        assert metadata["dagster/row_count"].value == 3

    def test_compiles_again_what_was_booked_meanwhile_and_fails_what_stays_apart(self) -> None:
        world = World()
        world.invoice_reader.apart = [(APART,)]
        assert passed(run(world)) == {AGREES: True, COMPILED: True}
        assert world.invoices.compiled == [None, ["acme"]]
        world.invoice_reader.apart = [(APART,), (APART,)]
        result = run(world)
        assert passed(result) == {AGREES: False, COMPILED: True}
        (check,) = (one for one in result.get_asset_check_evaluations() if one.check_name == AGREES)
        assert "| acme | 40.00 USD | 39.97 USD | 0.03 USD |" in str(check.metadata["apart"].value)

    def test_fails_the_check_of_accounts_that_could_not_be_compiled(self) -> None:
        world = World()
        world.invoices.failed = {"acme": "two currencies"}
        assert passed(run(world)) == {AGREES: True, COMPILED: False}

    def test_is_in_the_group_of_invoices(self) -> None:
        node = World().defs.resolve_asset_graph().get(dg.AssetKey(KEY.split("/")))
        assert node.group_name == "invoicing"


class TestFinalizeInvoices:
    def test_tells_how_many_became_final(self) -> None:
        world = World()
        result = world.defs.resolve_job_def(finalize_invoices.name).execute_in_process()
        (output,) = (event for event in result.all_events if event.is_successful_output)
        assert output.event_specific_data.metadata["invoices_finalized"].value == 1
