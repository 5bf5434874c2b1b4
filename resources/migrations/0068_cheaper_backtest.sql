-- Backtests: what a draft cannot change is taken from the books, where these are of the usage, the catalog and the code of now.

-- Which code rated the day; null: booked before that was kept.
alter table billing.booked_day add column code_version text;

-- Charges of concerned accounts that the draft leaves as they are booked; charges_rated are those that were rated with it.
alter table backtest.scenario add column charges_unaffected integer not null default 0;

-- The booked arithmetic is that of the revision, which stays as it is for ever; before_lines are of rows written before.
alter table backtest.changed_charge add column before_revision integer;
alter table backtest.changed_charge drop constraint changed_charge_check;
alter table backtest.changed_charge add constraint changed_charge_has_before check (
    num_nonnulls(before_minor, before_currency, coalesce(before_lines::text, before_revision::text)) in (0, 3)
);

-- Rows name a scenario that is there: once for each statement instead of once for each row. Scenarios are append-only.
alter table backtest.changed_charge drop constraint changed_charge_scenario_id_fkey;
create function backtest.refuse_change_of_nothing() returns trigger language plpgsql as $$
declare
    unknown uuid;
begin
    select named.scenario_id into unknown
    from (select distinct scenario_id from added) as named
    where not exists (select from backtest.scenario where scenario.scenario_id = named.scenario_id)
    limit 1;
    if found then
        raise exception 'changed charge of the unknown scenario %', unknown using errcode = 'foreign_key_violation';
    end if;
    return null;
end $$;
create trigger changed_charge_has_scenario after insert on backtest.changed_charge
    referencing new table as added for each statement execute function backtest.refuse_change_of_nothing();

-- Charges that differ, with both arithmetics. Grain: scenario, charge.
create view backtest.charge_change as
select
    changed.scenario_id, changed.charge_id, changed.account_id, changed.subscription_id, changed.price_id, changed.group_key,
    changed.period_start, changed.period_end,
    changed.before_minor, changed.before_currency, coalesce(changed.before_lines, booked.lines) as before_lines,
    changed.after_minor, changed.after_currency, changed.after_lines
from backtest.changed_charge as changed
left join billing.charge_revision as booked
    on booked.charge_id = changed.charge_id and booked.revision = changed.before_revision;
