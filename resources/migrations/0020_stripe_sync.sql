-- What is sent to Stripe: every write is a row before it is a call. Owner: resources/stripe_sync.
create schema if not exists stripe;

-- A write to Stripe, as it will be sent. Append-only: written before the call, never changed. What became of it: intent_state.
create table stripe.intent (
    -- uuid5 of idempotency_key
    intent_id uuid primary key,
    -- the order in which they were planned
    intent_number bigint generated always as identity unique,
    -- bp:<operation>:<digest>:<epoch>; the same while the outcome is not known, another one after it is
    idempotency_key text not null unique check (length(idempotency_key) between 1 and 255),
    account_id text not null,
    customer_id text not null,
    -- what it is about: an item's bp_key, or the invoice or credit note whose lines it changes
    subject text not null,
    -- of the SDK, such as invoice_items.create
    operation text not null,
    target_ids text[] not null,
    params jsonb not null,
    -- SHA-256 of operation, target_ids and params
    request_digest text not null check (request_digest ~ '^[0-9a-f]{64}$'),
    -- 1 + how many intents of this digest are settled
    epoch integer not null check (epoch >= 1),
    -- what called for it: daily, demand, true_up, correction, meter
    purpose text not null,
    run_id text not null,
    planned_at timestamptz not null,
    unique (request_digest, epoch)
);
create index intent_by_account on stripe.intent (account_id, planned_at);
create index intent_by_customer on stripe.intent (customer_id, intent_number);
create index intent_by_subject on stripe.intent (subject, planned_at);

-- What became of an intent, step by step. Append-only. Ends: confirmed (Stripe was seen to hold it), abandoned (never sent),
-- superseded (it could not apply any more, or in part; planned anew from what Stripe holds), lost (not to be seen after its key's
-- life: it never took effect), refused (a dead letter), and after a person's word retried.
create table stripe.intent_state (
    intent_id uuid not null references stripe.intent (intent_id),
    state_number integer not null check (state_number >= 1),
    state text not null check (
        state in ('sent', 'answered', 'confirmed', 'abandoned', 'superseded', 'lost', 'refused', 'retried')
    ),
    at timestamptz not null,
    run_id text not null,
    -- the object that Stripe answered with
    stripe_id text,
    request_id text,
    -- of a refusal: status, code, param; of others: why
    detail jsonb not null default '{}',
    -- who let a dead letter be tried again, and why
    actor text,
    reason text,
    primary key (intent_id, state_number),
    check (state <> 'retried' or (actor is not null and reason is not null))
);

-- Intents without an end: an index of the two tables above, written in their transactions. Few rows: those under way, and
-- those of runs that died.
create table stripe.intent_open (
    intent_id uuid primary key references stripe.intent (intent_id),
    customer_id text not null,
    request_digest text not null
);
create index intent_open_by_customer on stripe.intent_open (customer_id);

-- Refused intents that nobody has let through again: dead letters. An index, as intent_open.
create table stripe.intent_dead (
    intent_id uuid primary key references stripe.intent (intent_id),
    account_id text not null,
    request_digest text not null,
    refused_at timestamptz not null
);
create index intent_dead_by_account on stripe.intent_dead (account_id);
create index intent_dead_by_digest on stripe.intent_dead (request_digest);

-- Our items at Stripe as they were last read back, with the invoice that has taken them. Grain: item. Replaced by customer.
create table stripe.sync_item (
    item_id text primary key,
    item_key text not null,
    account_id text not null,
    customer_id text not null,
    -- null: pending
    invoice_id text,
    amount_stripe_minor bigint not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    read_at timestamptz not null
);
create index sync_item_by_customer on stripe.sync_item (customer_id);
create index sync_item_by_key on stripe.sync_item (item_key);

-- How an account stands with Stripe. Grain: account.
create table stripe.sync_account (
    account_id text primary key,
    customer_id text,
    -- in_step: Stripe was seen to hold what is wanted. behind: not yet. failed: a person is needed. unlinked: nobody says which
    -- customer it is
    state text not null check (state in ('in_step', 'behind', 'failed', 'unlinked')),
    -- SHA-256 of what was wanted when it was last in step
    wanted_digest text,
    -- when the sync that last brought it in step had begun, and when Stripe was last read for it
    synced_at timestamptz,
    verified_at timestamptz,
    -- since when it is not in step
    behind_since timestamptz,
    problem text,
    run_id text not null,
    changed_at timestamptz not null,
    check (state <> 'in_step' or (wanted_digest is not null and synced_at is not null)),
    check ((state = 'in_step') = (behind_since is null))
);
create index sync_account_by_state on stripe.sync_account (state);

-- A run of the sync, the true-up, corrections or the meter writer.
create table stripe.sync_run (
    run_id text primary key,
    purpose text not null,
    started_at timestamptz not null,
    ended_at timestamptz,
    accounts integer not null default 0,
    in_step integer not null default 0,
    failed integer not null default 0,
    -- not reached: Stripe was down, or the run was ended
    left_over integer not null default 0,
    reads integer not null default 0,
    writes integer not null default 0,
    problem text
);
create index sync_run_by_start on stripe.sync_run (started_at);

-- What a person should see. Grain: (kind, subject) while it is open. Closed by the run that finds it gone.
create table stripe.sync_finding (
    finding_id bigint generated always as identity primary key,
    kind text not null,
    subject text not null,
    account_id text,
    message text not null,
    opened_at timestamptz not null,
    seen_at timestamptz not null,
    closed_at timestamptz
);
create unique index sync_finding_open on stripe.sync_finding (kind, subject) where closed_at is null;
create index sync_finding_by_account on stripe.sync_finding (account_id) where closed_at is null;

-- What was done about a renewal's draft, or about an invoice that this pipeline made itself. Grain: invoice at Stripe.
create table stripe.sync_true_up (
    invoice_id text primary key,
    account_id text not null,
    customer_id text not null,
    -- of invoicing; null: there is no open invoice of that period
    compiled_id uuid,
    period_start timestamptz,
    period_end timestamptz,
    -- waiting: held, its period is not whole, or a person holds it. right: read back and equal, and let go. final: it was final before.
    -- failed: a person is needed
    state text not null check (state in ('waiting', 'right', 'final', 'failed')),
    hold_until timestamptz,
    wanted_digest text,
    total_stripe_minor bigint,
    problem text,
    first_seen_at timestamptz not null,
    -- when its lines were last read back and equal
    verified_at timestamptz,
    run_id text not null,
    changed_at timestamptz not null,
    check (state <> 'right' or (verified_at is not null and wanted_digest is not null))
);
create index sync_true_up_by_account on stripe.sync_true_up (account_id);
