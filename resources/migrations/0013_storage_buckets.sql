-- A repository holds the sum of what its buckets hold: drifts and beginnings are of one bucket. '': all that is measured is one.
alter table usage.storage_drift add column bucket text not null default '';
alter table usage.storage_drift drop constraint storage_drift_pkey;
alter table usage.storage_drift add primary key (event_day, repository, bucket, snapshot_at);

-- Grain: event day, repository, bucket. Visibility and owner are of the repository, and stand with the bucket ''.
alter table usage.storage_base add column bucket text not null default '';
alter table usage.storage_base drop constraint storage_base_pkey;
alter table usage.storage_base add primary key (event_day, repository, bucket);

-- What a day leaves has other columns now: every day is built again, from its deliveries.
delete from usage.storage_tail;
