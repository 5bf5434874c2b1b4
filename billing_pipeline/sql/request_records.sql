-- request_records (view). Grain: source, event_id, file_id, line_number. Window: the days of requested_days, which lie in
-- [first_day, end_day). From: lake_records, days_left_out (the days in between that were not requested: mostly none, and an
-- anti join of nothing costs nothing, where a semi join of what is wanted looks at every row).
create or replace temp view request_records as
select *
from lake_records
anti join days_left_out using (event_day)
where
    event_at >= getvariable('first_day')::timestamp
    and event_at < getvariable('end_day')::timestamp
