-- What no invoice charges for now, and why, as of the last compilation of its account: of a void invoice that was not issued
-- again, or a correction without a next invoice that waits for a person. Replaced with the account's drafts.
create table invoicing.uninvoiced (
    source_id uuid primary key,
    account_id text not null,
    subscription_id text,
    period_start timestamptz,
    period_end timestamptz,
    amount_minor bigint not null check (amount_minor <> 0),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    why text not null,
    check ((period_start is null) = (period_end is null))
);
create index uninvoiced_by_account on invoicing.uninvoiced (account_id);
