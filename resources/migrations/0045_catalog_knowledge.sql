-- Knowledge time of the catalog: which catalog was current when, and what it said. Effective time is in the entries.

-- One row each time that another catalog became current; the same content may come back. Append-only.
create table catalog.activation (
    activation bigint generated always as identity primary key,
    catalog_sha256 text not null references catalog.release (catalog_sha256),
    activated_at timestamptz not null default clock_timestamp()
);
create index activation_by_release on catalog.activation (catalog_sha256);

-- The activations [known_from, known_to) in which a content was current; null: it still is. Catalogs are large and change little,
-- so a span per content, not a copy per catalog. PostgreSQL refuses two contents of one version at one time.
create table catalog.entry_span (
    kind text not null,
    entry_id text not null,
    version integer not null,
    content_sha256 text not null,
    known_from bigint not null references catalog.activation (activation),
    known_to bigint references catalog.activation (activation),
    primary key (kind, entry_id, version, known_from),
    foreign key (kind, entry_id, version, content_sha256) references catalog.entry,
    check (known_to is null or known_to > known_from),
    exclude using gist (kind with =, entry_id with =, version with =, int8range(known_from, known_to) with &&)
);
create index entry_span_current on catalog.entry_span (kind, entry_id, version) where known_to is null;

-- A catalog that was loaded before this file: it is current from activation 1 on. What was current before it is not known.
insert into catalog.activation (catalog_sha256)
select release.catalog_sha256
from (
    select
        encode(sha256(convert_to(string_agg(
            concat_ws('|', kind, entry_id, version, content_sha256), e'\n'
            order by concat_ws('|', kind, entry_id, version, content_sha256) collate "C"
        ), 'UTF8')), 'hex') as catalog_sha256
    from catalog.current_entry
) as present
join catalog.release as release using (catalog_sha256);
insert into catalog.entry_span (kind, entry_id, version, content_sha256, known_from)
select kind, entry_id, version, content_sha256, activation
from catalog.current_entry
cross join catalog.activation;
