-- counted_records (view). Grain: source, event_id. From: request_records less the duplicates and conflicts of request_identities.
create or replace temp view counted_records as
select *
from request_records
anti join (select file_id, line_number from request_identities where outcome <> 'kept') using (file_id, line_number)
