-- States are loaded by day and repository, where an index by repository alone costs as much as the rows: a repository's states are found
-- day by day (usage.build says which there are). Byte-seconds are checked by one multiplication instead of three, days in whole steps
-- from one instant, without a time zone for each row.
drop index usage.storage_state_by_repository;
do $$
declare
    name text;
begin
    for name in
        select conname
        from pg_constraint
        where conrelid = 'usage.storage_state'::regclass and contype = 'c'
            and (pg_get_constraintdef(oid) like '%byte_seconds%' or pg_get_constraintdef(oid) like '%event_day%')
    loop
        execute format('alter table usage.storage_state drop constraint %I', name);
    end loop;
end
$$;
alter table usage.storage_state
    add constraint storage_state_is_exact check (byte_seconds = bytes * extract(epoch from segment_end - segment_start)),
    add constraint storage_state_on_day check (
        segment_start >= timestamptz '2000-01-01 00:00:00+00' + (event_day - date '2000-01-01') * interval '24 hours'
        and segment_end <= timestamptz '2000-01-01 00:00:00+00' + (event_day + 1 - date '2000-01-01') * interval '24 hours'
    );
