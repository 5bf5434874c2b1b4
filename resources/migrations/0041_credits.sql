-- Credits: money that accounts may spend on invoices. Owner: resources/credits.

-- What an account was granted. Append-only. grant_id: of recurring credits uuid5 of credit and period; of others of the words.
create table billing.credit_grant (
    grant_id uuid primary key,
    account_id text not null,
    amount_minor bigint not null check (amount_minor > 0),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    -- 1 is spent first
    priority integer not null check (priority >= 1),
    effective_at timestamptz not null,
    -- exclusive; null: for ever
    expires_at timestamptz,
    source text not null check (source in ('top_up', 'promotion', 'recurring', 'refund')),
    actor text not null check (actor <> ''),
    reason text not null check (reason <> ''),
    granted_at timestamptz not null,
    check (expires_at is null or expires_at > effective_at)
);
create index credit_grant_by_account on billing.credit_grant (account_id, effective_at);

-- What is left of a grant from then on is nobody's. Append-only, once.
create table billing.credit_revocation (
    grant_id uuid primary key references billing.credit_grant (grant_id),
    revoked_at timestamptz not null,
    actor text not null check (actor <> ''),
    reason text not null check (reason <> '')
);

-- What changes the balance of a grant: granted (+), spent on an invoice (-), expired (-). Revision 1 is the first of its grant,
-- kind and invoice, further ones are differences: sums are what stands. Append-only. A balance at an instant is the sum of
-- delta_minor with effective_at until then.
create table billing.credit_entry (
    -- uuid5 of grant, kind, invoice and revision
    entry_id uuid primary key,
    grant_id uuid not null references billing.credit_grant (grant_id),
    account_id text not null,
    kind text not null check (kind in ('granted', 'spent', 'expired')),
    invoice_id uuid,
    revision integer not null check (revision >= 1),
    delta_minor bigint not null check (delta_minor <> 0),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    effective_at timestamptz not null,
    booked_at timestamptz not null,
    unique nulls not distinct (grant_id, kind, invoice_id, revision),
    check ((kind = 'spent') = (invoice_id is not null))
);
create index credit_entry_by_account on billing.credit_entry (account_id, effective_at);

-- The postings of a credit entry.
alter table billing.ledger_posting add column credit_entry_id uuid references billing.credit_entry (entry_id);
alter table billing.ledger_posting drop constraint ledger_posting_has_one_cause;
alter table billing.ledger_posting add constraint ledger_posting_has_one_cause check (
    num_nonnulls(charge_id, prepaid_entry_id, adjustment_id, one_off_id, credit_note_id, credit_entry_id) = 1
);
