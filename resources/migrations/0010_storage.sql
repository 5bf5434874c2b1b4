-- Storage: snapshots as they were judged, CloudTrail's digests and what they prove. Deliveries themselves are core.source_file.

-- Grain: source, file, instant. A snapshot that was read, whatever was decided about it.
create table core.storage_snapshot (
    source text not null,
    file_id bigint not null references core.source_file (file_id),
    snapshot_at timestamptz not null,
    -- the bucket that was listed; null: a ready table
    bucket text,
    -- of the lake's core/storage_snapshots and core/storage_objects
    snapshot_id text not null,
    -- held: its rows are in no generation until a person accepts the file
    status text not null check (status in ('accepted', 'held')),
    total_bytes numeric(38, 0) not null check (total_bytes >= 0),
    repository_count bigint not null check (repository_count >= 0),
    -- listed objects whose key no pattern of the profile matches: nobody pays for them
    unassigned_objects bigint not null check (unassigned_objects >= 0),
    unassigned_bytes numeric(38, 0) not null check (unassigned_bytes >= 0),
    judged_at timestamptz not null default now(),
    primary key (source, file_id, snapshot_at)
);
-- One truth per instant.
create unique index storage_snapshot_once on core.storage_snapshot (source, snapshot_at) where status = 'accepted';

-- Log files of CloudTrail that were read: SHA-256 of their inflated bytes, which is what digests name. `log_key` from AWSLogs/ on.
create table core.cloudtrail_log (
    file_id bigint primary key references core.source_file (file_id),
    source text not null,
    log_key text not null,
    content_sha256 text not null,
    -- DeleteObjects events: they name no key, so the bucket's next snapshot has to tell
    batch_deletes bigint not null check (batch_deletes >= 0)
);
create index cloudtrail_log_by_key on core.cloudtrail_log (source, log_key);

-- Digests that were read; whether they hold is judged with the day, because a signature stands in the digest after it as well.
create table core.cloudtrail_digest (
    source text not null,
    digest_key text not null,
    file_id bigint not null references core.source_file (file_id),
    -- account, region and trail: digests of one chain follow each other
    chain text not null,
    start_at timestamptz not null,
    end_at timestamptz not null,
    -- the facts of the digest, with the SHA-256 of its inflated bytes
    content jsonb not null,
    -- hex, from the object's metadata; null where it came without
    signature text,
    primary key (source, digest_key),
    check (end_at > start_at)
);
create index cloudtrail_digest_by_end on core.cloudtrail_digest (source, end_at);
