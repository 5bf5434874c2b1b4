-- Catalog: versioned mirror of the files in catalog/. Owner of nothing: the files in git are the truth.
create schema catalog;
create extension if not exists btree_gist;

-- One row per distinct content of the catalog folder. Append-only.
create table catalog.release (
    catalog_sha256 text primary key check (catalog_sha256 ~ '^[0-9a-f]{64}$'),
    release_number bigint generated always as identity unique,
    loaded_at timestamptz not null default now()
);

-- Every version of every entry (meter, price, plan, account, subscription) ever loaded. Append-only.
create table catalog.entry (
    kind text not null check (kind in ('billable_rule', 'meter', 'price', 'plan', 'account', 'subscription')),
    entry_id text not null,
    version integer not null check (version >= 1),
    content jsonb not null,
    content_sha256 text not null,
    first_release text not null references catalog.release (catalog_sha256),
    primary key (kind, entry_id, version, content_sha256)
);

-- What the newest loaded catalog says.
create table catalog.current_entry (
    kind text not null,
    entry_id text not null,
    version integer not null,
    content_sha256 text not null,
    primary key (kind, entry_id, version),
    foreign key (kind, entry_id, version, content_sha256) references catalog.entry
);

create table catalog.price (
    price_id text not null,
    version integer not null,
    meter_id text,
    model text not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    effective_from timestamptz not null,
    effective_to timestamptz,
    content_sha256 text not null,
    primary key (price_id, version),
    exclude using gist (price_id with =, tstzrange(effective_from, effective_to) with &&)
);

create table catalog.account (
    account_id text primary key,
    name text not null,
    time_zone text not null,
    currency text not null
);

-- Which client id belongs to which account, and when. Half-open.
create table catalog.account_client (
    client_id text not null,
    account_id text not null references catalog.account (account_id) on delete cascade,
    valid_from timestamptz not null,
    valid_to timestamptz,
    exclude using gist (client_id with =, tstzrange(valid_from, valid_to) with &&)
);

create table catalog.subscription (
    subscription_id text primary key,
    account_id text not null references catalog.account (account_id) on delete cascade,
    plan_id text not null,
    starts_at timestamptz not null,
    ends_at timestamptz,
    check (ends_at is null or ends_at > starts_at)
);
