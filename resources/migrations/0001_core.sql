-- Core: what was delivered, where its records lie, what was refused. Owner of: deliveries, quarantine, lake pointers.
create schema core;

-- One row per (source, key, content). A file's outcome obeys law 1; the check below is that law.
create table core.source_file (
    file_id bigint generated always as identity primary key,
    source text not null,
    key text not null,
    content_sha256 text not null check (content_sha256 ~ '^[0-9a-f]{64}$'),
    size_bytes bigint not null check (size_bytes >= 0),
    delivery_day date not null,
    first_seen_at timestamptz not null,
    -- of the object when it was registered: size and this unchanged means that it need not be hashed again
    modified_at timestamptz not null,
    -- pending: registered, not read yet. held: same key was delivered before with other content. duplicate: same content
    -- under another key (every line is counted as duplicate). rejected: no row of it was taken.
    status text not null check (status in ('pending', 'accepted', 'rejected', 'held', 'duplicate')),
    reason text,
    detail text,
    profile_version integer,
    -- reader version and hash of the profile: while they stand, rows of the file are taken over from the last generation
    read_with text,
    lines_read bigint not null default 0 check (lines_read >= 0),
    accepted_rows bigint not null default 0 check (accepted_rows >= 0),
    rejected_rows bigint not null default 0 check (rejected_rows >= 0),
    duplicate_rows bigint not null default 0 check (duplicate_rows >= 0),
    out_of_scope_rows bigint not null default 0 check (out_of_scope_rows >= 0),
    first_event_at timestamptz,
    last_event_at timestamptz,
    read_at timestamptz,
    unique (source, key, content_sha256),
    check (lines_read = accepted_rows + rejected_rows + duplicate_rows + out_of_scope_rows),
    check (status not in ('rejected', 'held') or reason is not null)
);
create index source_file_by_delivery_day on core.source_file (source, delivery_day);
create index source_file_by_content on core.source_file (source, content_sha256);

-- Which event days an accepted file touches: what the usage assets and their sensor compare.
create table core.source_file_day (
    file_id bigint not null references core.source_file (file_id),
    event_day date not null,
    accepted_rows bigint not null check (accepted_rows > 0),
    primary key (file_id, event_day)
);
create index source_file_day_by_day on core.source_file_day (event_day);

-- A refused line: reason, file and position. Never its text (law 10); line_sha256 lets a person find it in the source.
create table core.quarantine (
    file_id bigint not null references core.source_file (file_id),
    line_number bigint not null check (line_number >= 1),
    reason text not null,
    field text,
    line_sha256 text,
    primary key (file_id, line_number)
);

-- Two records with one identity and different content. Both stay out of usage until decided; one already billed stays.
create table core.request_conflict (
    source text not null,
    event_id text not null,
    event_day date not null,
    file_id bigint not null references core.source_file (file_id),
    line_number bigint not null,
    content_sha256 text not null,
    found_at timestamptz not null,
    primary key (source, event_id, content_sha256, file_id, line_number)
);
create index request_conflict_by_day on core.request_conflict (event_day);

-- Append-only. The version that counts for a conflicting identity, decided by a person or because it was billed already.
create table core.request_conflict_decision (
    source text not null,
    event_id text not null,
    content_sha256 text,
    actor text not null,
    reason text not null,
    decided_at timestamptz not null default now(),
    primary key (source, event_id)
);

-- Immutable lake files; every generation ever published. Append-only.
create table core.lake_generation (
    dataset text not null,
    partition_key date not null,
    generation text not null,
    uri text not null,
    file_sha256 text not null,
    size_bytes bigint not null,
    row_count bigint not null,
    -- identities that occur more than once inside this generation with different content
    conflicting_identities bigint not null default 0,
    inputs_digest text not null,
    code_version text not null,
    run_id text not null,
    created_at timestamptz not null default now(),
    primary key (dataset, partition_key, generation)
);

-- The current generation of each partition: the pointer that readers follow, switched under an advisory lock.
create table core.lake_partition (
    dataset text not null,
    partition_key date not null,
    generation text not null,
    updated_at timestamptz not null default now(),
    primary key (dataset, partition_key),
    foreign key (dataset, partition_key, generation) references core.lake_generation
);

-- Event days inside a current generation.
create table core.lake_generation_day (
    dataset text not null,
    partition_key date not null,
    generation text not null,
    event_day date not null,
    row_count bigint not null check (row_count > 0),
    primary key (dataset, partition_key, generation, event_day),
    foreign key (dataset, partition_key, generation) references core.lake_generation
);
create index lake_generation_day_by_event_day on core.lake_generation_day (dataset, event_day);

create schema guards;

-- The verdict of one guard over one partition of one asset, written with the data. Downstream leaves out what is held.
create table guards.verdict (
    asset text not null,
    partition_key text not null,
    guard text not null,
    status text not null check (status in ('passed', 'warned', 'held', 'released')),
    expected text not null,
    actual text not null,
    message text not null,
    inputs_digest text not null,
    run_id text not null,
    checked_at timestamptz not null default now(),
    primary key (asset, partition_key, guard)
);

-- Append-only. A person lets a held partition through, for exactly the inputs that were looked at.
create table guards.release (
    asset text not null,
    partition_key text not null,
    guard text not null,
    inputs_digest text not null,
    actor text not null,
    reason text not null,
    released_at timestamptz not null default now(),
    primary key (asset, partition_key, guard, inputs_digest)
);
