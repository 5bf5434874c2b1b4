-- repeated_identities. Grain: identity_hash, of every (source, event_id) that may occur twice; few, or none.
-- From: request_records, lake_records, lake_parts (lake_file, event_day, is_largest, has_conflicts).
--
-- Ingest leaves no identity twice with the same content in one lake file. So a repeated identity has a row outside the largest
-- file of its day, or lies in a file that ingest found conflicts in; such a file counts as a whole, whatever the day.
-- Two identities with one hash are told apart in request_identities.
create or replace temp table repeated_identities as
with
smaller_parts as (
    select lake_file, event_day
    from lake_parts
    where not is_largest
),
identities_in_smaller_parts as (
    select distinct hash(source, event_id) as identity_hash
    from request_records
    semi join smaller_parts using (lake_file, event_day)
),
repeated_in_day as (
    select hash(source, event_id) as identity_hash
    from request_records
    where hash(source, event_id) in (select identity_hash from identities_in_smaller_parts)
    group by identity_hash
    having count(*) > 1
),
repeated_in_file as (
    select hash(source, event_id) as identity_hash
    from lake_records
    where lake_file in (select lake_file from lake_parts where has_conflicts)
    group by lake_file, identity_hash
    having count(*) > 1
)
select identity_hash
from repeated_in_day
union
select identity_hash
from repeated_in_file
