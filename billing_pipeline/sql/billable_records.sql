-- Grain: event_day, endpoint, method. From: counted_records. The billable records, counted record by record.
-- Says the billable rule a second time, in other words than request_outcomes: the guard usage_equals_records compares the two.
with
successful_records as (
    select records.event_day, records.event_at, records.endpoint, records.method, records.client_id
    from counted_records as records
    semi join success_statuses using (status_code)
    where not records.is_simulated
),
records_of_clients as (
    select records.event_day, records.endpoint, records.method
    from successful_records as records
    semi join client_accounts
        on
            client_accounts.client_id = records.client_id
            and client_accounts.valid_from <= records.event_at
            and client_accounts.valid_to > records.event_at
),
records_by_endpoint as (
    select event_day, endpoint, method, count(*) as records
    from records_of_clients
    group by event_day, endpoint, method
)
select by_endpoint.event_day, by_endpoint.endpoint, by_endpoint.method, by_endpoint.records
from records_by_endpoint as by_endpoint
semi join billable_endpoints
    on by_endpoint.endpoint = billable_endpoints.endpoint and billable_endpoints.method in ('*', by_endpoint.method)
