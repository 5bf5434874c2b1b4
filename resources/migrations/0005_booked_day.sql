-- What the books of an event day rest on: written in the transaction that books the day. A day whose usage or whose catalog is
-- another by now is booked again. Without it a run that dies between usage and charges would leave usage that nobody bills.
create table billing.booked_day (
    event_day date primary key,
    -- held: a guard let nothing be booked
    state text not null check (state in ('booked', 'held')),
    -- of usage.build, read before the usage was
    usage_state text not null,
    inputs_digest text not null,
    rules_digest text not null,
    catalog_sha256 text not null references catalog.release (catalog_sha256),
    booked_at timestamptz not null default now()
);
