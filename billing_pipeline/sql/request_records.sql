-- request_records (view). Grain: source, event_id, file_id, line_number. Window: the days of requested_days, which lie in
-- [first_day, end_day). From: lake_records.
create or replace temp view request_records as
select *
from lake_records
where
    event_at >= getvariable('first_day')::timestamp
    and event_at < getvariable('end_day')::timestamp
    and event_day in (select event_day from requested_days)
