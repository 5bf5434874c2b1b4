-- Invoicing: drafts that follow the books, final invoices that never change, and what people add. Owner: resources/invoicing.
create schema invoicing;

-- An invoice that is still open: (account, subscription, period, issue). Replaced as a whole whenever it is compiled; gone when
-- it is final. invoice_id: uuid5 of that key.
create table invoicing.draft_invoice (
    invoice_id uuid primary key,
    account_id text not null,
    -- null: an invoice of the account itself, for what belongs to no subscription
    subscription_id text,
    period_start timestamptz not null,
    period_end timestamptz not null,
    issue integer not null check (issue >= 1),
    -- first day of the month, in the account's zone, in which the period begins
    month date not null check (extract(day from month) = 1),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    item_count integer not null check (item_count >= 0),
    total_minor bigint not null,
    -- SHA-256 of all lines
    items_digest text not null,
    compiled_at timestamptz not null default now(),
    check (period_end > period_start),
    unique nulls not distinct (account_id, subscription_id, period_start, period_end, issue)
);

-- An invoice as it went to the customer. Append-only. `number` has no gaps.
create table invoicing.final_invoice (
    invoice_id uuid primary key,
    account_id text not null,
    subscription_id text,
    period_start timestamptz not null,
    period_end timestamptz not null,
    issue integer not null check (issue >= 1),
    month date not null check (extract(day from month) = 1),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    item_count integer not null check (item_count >= 0),
    total_minor bigint not null,
    items_digest text not null,
    number text not null unique,
    -- the same invoice elsewhere, such as in_... of Stripe; null: it is nowhere else
    external_id text,
    finalized_by text not null check (finalized_by <> ''),
    finalized_at timestamptz not null,
    recorded_at timestamptz not null default now(),
    check (period_end > period_start),
    check (item_count > 0 or total_minor = 0),
    unique nulls not distinct (account_id, subscription_id, period_start, period_end, issue)
);
create index final_invoice_by_external_id on invoicing.final_invoice (external_id) where external_id is not null;
create index final_invoice_by_subscription on invoicing.final_invoice (subscription_id, period_start);
create index final_invoice_by_month on invoicing.final_invoice (month, currency) include (total_minor, invoice_id);

-- A final invoice that counts no more. Append-only; its number stays taken.
create table invoicing.voided_invoice (
    invoice_id uuid primary key references invoicing.final_invoice (invoice_id),
    actor text not null check (actor <> ''),
    reason text not null check (reason <> ''),
    voided_at timestamptz not null default now()
);

-- Lines of drafts. item_key: 32 hex digits, Stripe's metadata.bp_key.
create table invoicing.draft_item (
    invoice_id uuid not null references invoicing.draft_invoice (invoice_id) on delete cascade,
    item_key text not null check (item_key ~ '^[0-9a-f]{32}$'),
    position integer not null check (position >= 1),
    -- the line that groups this one; null: it stands on the invoice by itself. Lines that group others have part_count > 0:
    -- an invoice is the sum of lines with part_of null, and the sum of lines with part_count = 0
    part_of text,
    part_count integer not null default 0 check (part_count >= 0),
    kind text not null check (
        kind in ('usage', 'fee', 'one_off', 'adjustment', 'correction', 'minimum', 'credit', 'other')
    ),
    account_id text not null,
    subscription_id text,
    -- the charge, adjustment or one-off item that it is made of; null of lines that are made of others
    source_id uuid,
    charge_id uuid,
    corrects uuid,
    period_start timestamptz not null,
    period_end timestamptz not null,
    amount_minor bigint not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    description text not null,
    quantity_text text not null,
    revision integer not null,
    source_digest text not null,
    reason text not null,
    -- through Stripe's meter: on the invoice by Stripe's own doing
    by_meter boolean not null,
    primary key (invoice_id, item_key),
    check (period_end > period_start),
    check (charge_id is null or charge_id = source_id),
    check (corrects is null or corrects = source_id),
    check (part_of is null or part_count = 0)
);
create index draft_item_by_source on invoicing.draft_item (source_id);

-- Lines of final invoices. Append-only; all lines of an invoice are inserted by one statement.
create table invoicing.final_item (
    invoice_id uuid not null references invoicing.final_invoice (invoice_id),
    item_key text not null check (item_key ~ '^[0-9a-f]{32}$'),
    position integer not null check (position >= 1),
    part_of text,
    part_count integer not null default 0 check (part_count >= 0),
    kind text not null check (
        kind in ('usage', 'fee', 'one_off', 'adjustment', 'correction', 'minimum', 'credit', 'other')
    ),
    account_id text not null,
    subscription_id text,
    source_id uuid,
    charge_id uuid,
    corrects uuid,
    period_start timestamptz not null,
    period_end timestamptz not null,
    amount_minor bigint not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    description text not null,
    quantity_text text not null,
    revision integer not null,
    source_digest text not null,
    reason text not null,
    by_meter boolean not null,
    primary key (invoice_id, item_key),
    check (period_end > period_start),
    check (charge_id is null or charge_id = source_id),
    check (corrects is null or corrects = source_id),
    check (part_of is null or part_count = 0)
);
create index final_item_by_source on invoicing.final_item (source_id) include (amount_minor, invoice_id);
create index final_item_by_account on invoicing.final_item (account_id);
create index final_item_by_subscription on invoicing.final_item (subscription_id, period_start);

-- Lines of a final invoice come to its total, with groups as they stand and with groups taken apart. Once per statement.
create function invoicing.refuse_sum_apart() returns trigger language plpgsql as $$
declare
    apart record;
begin
    select final.invoice_id, final.total_minor, sums.* into apart
    from (
        select
            added.invoice_id,
            coalesce(sum(amount_minor) filter (where part_of is null), 0) as as_shown,
            coalesce(sum(amount_minor) filter (where part_count = 0), 0) as in_detail,
            count(*) filter (where part_of is null) as shown_count,
            min(added.currency) as lowest_currency,
            max(added.currency) as highest_currency
        from added
        group by added.invoice_id
    ) as sums
    join invoicing.final_invoice as final using (invoice_id)
    where final.total_minor <> sums.as_shown
        or final.total_minor <> sums.in_detail
        or final.item_count <> sums.shown_count
        or final.currency <> sums.lowest_currency
        or final.currency <> sums.highest_currency
    limit 1;
    if found then
        raise exception 'invoice % is % and its lines are % as shown, % in detail', apart.invoice_id, apart.total_minor,
            apart.as_shown, apart.in_detail;
    end if;
    return null;
end $$;
create trigger final_item_adds_up after insert on invoicing.final_item
    referencing new table as added for each statement execute function invoicing.refuse_sum_apart();

-- A person's change to an account's invoice of a period. Append-only; taken back by one that reverses it.
create table invoicing.adjustment (
    adjustment_id uuid primary key,
    account_id text not null,
    subscription_id text,
    period_start timestamptz not null,
    period_end timestamptz not null,
    -- exact, in major units, and rounded once, in minor units
    exact_amount numeric not null,
    amount_minor bigint not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    reverses uuid unique references invoicing.adjustment (adjustment_id),
    actor text not null check (actor <> ''),
    reason text not null check (reason <> ''),
    booked_at timestamptz not null default now(),
    check (period_end > period_start)
);
create index adjustment_by_account on invoicing.adjustment (account_id, period_start);

-- Something sold once, beside what a plan charges. Append-only; taken back by one that reverses it.
create table invoicing.one_off (
    one_off_id uuid primary key,
    account_id text not null,
    -- null: the account's, on whichever of its invoices is next
    subscription_id text,
    -- when it was sold: decides the period
    sold_at timestamptz not null,
    quantity numeric not null,
    unit text not null,
    unit_price numeric not null,
    exact_amount numeric not null,
    amount_minor bigint not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    description text not null check (description <> ''),
    reverses uuid unique references invoicing.one_off (one_off_id),
    actor text not null check (actor <> ''),
    reason text not null check (reason <> ''),
    booked_at timestamptz not null default now(),
    check (exact_amount = quantity * unit_price)
);
create index one_off_by_account on invoicing.one_off (account_id, sold_at);

-- Money given back on a final invoice. Append-only. `number` has no gaps.
create table invoicing.credit_note (
    credit_note_id uuid primary key,
    number text not null unique,
    invoice_id uuid not null references invoicing.final_invoice (invoice_id),
    account_id text not null,
    amount_minor bigint not null check (amount_minor > 0),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    -- what was charged too high, by a later word of the books; null: a person's decision
    corrects uuid,
    -- the line of the invoice that it is about; null: the invoice as a whole
    item_key text,
    actor text not null check (actor <> ''),
    reason text not null check (reason <> ''),
    issued_at timestamptz not null default now()
);
create index credit_note_by_invoice on invoicing.credit_note (invoice_id);
create index credit_note_by_corrects on invoicing.credit_note (corrects) where corrects is not null;
create index credit_note_by_account on invoicing.credit_note (account_id);

-- Everything that was done to an invoice, by whom and why. Append-only. An invoice is held when the newest of its events of
-- kinds held and released is `held`.
create table invoicing.invoice_event (
    event_id bigint generated always as identity primary key,
    invoice_id uuid not null,
    account_id text not null,
    kind text not null check (
        kind in ('held', 'released', 'finalized', 'voided', 'reissued', 'adjusted', 'one_off', 'credited', 'refused')
    ),
    actor text not null check (actor <> ''),
    reason text not null,
    detail jsonb not null default '{}',
    happened_at timestamptz not null default now()
);
create index invoice_event_by_invoice on invoicing.invoice_event (invoice_id, event_id);
create index invoice_event_by_account on invoicing.invoice_event (account_id, event_id);

-- The last number taken of each series without gaps: `invoice`, `credit_note`. Locked to the end of the transaction that takes one.
create table invoicing.number_series (
    series text primary key,
    last_number bigint not null check (last_number >= 1)
);

-- A rating that would change a final period by more than the policy lets pass: waits for a person. Append-only. proposal_id: uuid5
-- of the period and of the digests of what is proposed.
create table invoicing.proposal (
    proposal_id uuid primary key,
    account_id text not null,
    subscription_id text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    booked_minor bigint not null,
    proposed_minor bigint not null,
    -- sum of the charges' changes, each without its sign
    change_minor bigint not null check (change_minor >= 0),
    catalog_sha256 text not null references catalog.release (catalog_sha256),
    code_version text not null,
    event_day date not null,
    run_id text not null,
    proposed_at timestamptz not null default now(),
    check (period_end > period_start)
);

create table invoicing.proposal_charge (
    proposal_id uuid not null references invoicing.proposal (proposal_id),
    charge_id uuid not null,
    price_id text not null,
    group_key text not null,
    -- the newest booked revision, 0 for none
    booked_revision integer not null check (booked_revision >= 0),
    booked_minor bigint not null,
    proposed_minor bigint not null,
    quantity numeric not null,
    unit text not null,
    rating_digest text not null,
    primary key (proposal_id, charge_id)
);

-- The proposal that the newest rating of a period makes; none where what is rated is booked.
create table invoicing.proposal_waiting (
    subscription_id text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    proposal_id uuid not null references invoicing.proposal (proposal_id),
    primary key (subscription_id, period_start, period_end)
);

-- What a person said to a proposal. Append-only, once.
create table invoicing.proposal_decision (
    proposal_id uuid primary key references invoicing.proposal (proposal_id),
    decision text not null check (decision in ('approved', 'rejected')),
    actor text not null check (actor <> ''),
    reason text not null check (reason <> ''),
    decided_at timestamptz not null default now()
);

-- Every invoice, whatever its state.
create view invoicing.invoice as
select
    invoice_id, account_id, subscription_id, period_start, period_end, issue, month, currency, 'draft'::text as state,
    null::text as number, item_count, total_minor, items_digest, null::text as external_id, compiled_at as as_of,
    null::timestamptz as finalized_at, null::timestamptz as voided_at
from invoicing.draft_invoice
union all
select
    invoice_id, account_id, subscription_id, period_start, period_end, issue, month, currency,
    case when voided_invoice.invoice_id is null then 'final' else 'void' end, number, item_count, total_minor,
    items_digest, external_id, finalized_at, finalized_at, voided_at
from invoicing.final_invoice
left join invoicing.voided_invoice using (invoice_id);

-- Every line of every invoice.
create view invoicing.item as
select * from invoicing.draft_item
union all
select * from invoicing.final_item;

-- Postings of adjustments, one-off items and credit notes: exactly one cause each.
alter table billing.ledger_posting add column adjustment_id uuid references invoicing.adjustment (adjustment_id);
alter table billing.ledger_posting add column one_off_id uuid references invoicing.one_off (one_off_id);
alter table billing.ledger_posting add column credit_note_id uuid references invoicing.credit_note (credit_note_id);
alter table billing.ledger_posting drop constraint ledger_posting_check;
alter table billing.ledger_posting add check ((charge_id is null) = (revision is null));
alter table billing.ledger_posting add constraint ledger_posting_has_one_cause check (
    num_nonnulls(charge_id, prepaid_entry_id, adjustment_id, one_off_id, credit_note_id) = 1
);
create index ledger_posting_of_people on billing.ledger_posting (account_id)
    where charge_id is null and prepaid_entry_id is null;
