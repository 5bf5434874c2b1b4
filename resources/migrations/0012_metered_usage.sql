-- All usage that is rated, in one shape. A dimension that a kind of usage does not have is ''.
create view usage.metered as
select
    event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id,
    ''::text as node, ''::text as inbound_tag, quantity, unit, request_count as record_count, state
from usage.api_requests
union all
select
    event_day, account_id, meter_id, period_start, period_end, '', '', '', node, inbound_tag, quantity, unit, bucket_count,
    null::jsonb
from usage.traffic
union all
select
    event_day, account_id, meter_id, period_start, period_end, '', '', '', '', '', quantity, unit, repository_count,
    null::jsonb
from usage.storage;

-- The books of a day rest on the usage of every kind.
alter table billing.booked_day add column usage_asset text not null default 'usage/api_requests';
alter table billing.booked_day alter column usage_asset drop default;
alter table billing.booked_day drop constraint booked_day_pkey;
alter table billing.booked_day add primary key (event_day, usage_asset);

-- Files of requests, traffic and storage stand in one manifest; each belongs to the lake dataset that its rows go to.
alter table core.source_file add column dataset text not null default 'core/request_records';
