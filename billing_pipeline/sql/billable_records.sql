-- Grain: event_day, endpoint, method. From: counted_records. The billable records, counted record by record.
-- Says the billable rule a second time, in other words than request_outcomes: the guard usage_equals_records compares the two.
select
    records.event_day,
    records.endpoint,
    records.method,
    count(*) as billable_records,
from counted_records as records
where
    not records.is_simulated
    and records.status_code in (select status_code from success_statuses)
    and exists (
        select 1
        from client_accounts
        where
            client_accounts.client_id = records.client_id
            and records.event_at >= client_accounts.valid_from
            and records.event_at < client_accounts.valid_to
    )
    and (
        (records.method, records.endpoint) in (select method, endpoint from billable_endpoints)
        or records.endpoint in (select endpoint from billable_endpoints where method = '*')
    )
group by records.event_day, records.endpoint, records.method
