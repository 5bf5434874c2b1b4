-- Stripe's events and what Stripe holds, mirrored. Nothing personal: no name, e-mail, address, description or link is kept.
create schema if not exists stripe;

-- Order of fetches: a number is taken before the request is sent. Of two answers about one object the one with the higher
-- number knows at least all that was known when the other was asked for. No clock is compared.
create sequence stripe.fetch_number;

-- The inbox. Grain: event, once each, whoever brought it. Append-only. An event says which object to fetch again; its copy of
-- the object is not kept.
create table stripe.event (
    event_id text primary key check (event_id <> ''),
    event_type text not null,
    object_kind text not null check (object_kind in ('invoice', 'customer', 'subscription', 'credit_note', 'meter_report')),
    object_id text not null check (object_id <> ''),
    -- by the event's own word, which is not checked: it only makes us look again
    customer_id text,
    -- whole seconds in the v1 feed
    created_at timestamptz not null,
    received_at timestamptz not null,
    received_from text not null check (received_from in ('feed', 'webhook'))
);
create index event_by_object on stripe.event (object_kind, object_id);
create index event_by_customer on stripe.event (customer_id, received_at) where customer_id is not null;

-- What became of each event. A row is written with its event, in one transaction.
create table stripe.event_work (
    event_id text primary key references stripe.event,
    -- dead: tried too often; a person looks at it and lets it be tried again
    state text not null default 'open' check (state in ('open', 'applied', 'dead')),
    attempts integer not null default 0 check (attempts >= 0),
    not_before timestamptz,
    problem text,
    run_id text,
    changed_at timestamptz not null,
    check (state <> 'dead' or problem is not null)
);
create index event_work_not_applied on stripe.event_work (state, event_id) where state <> 'applied';

-- How far each feed of events is read. A hint: events are known by their id. A walk reads from the newest event down to
-- `walk_floor` and may be cut short; `complete_until` moves when it has arrived.
create table stripe.event_feed (
    feed text primary key check (feed in ('v1', 'v2')),
    -- every event made before this instant has been read, as far as Stripe showed it
    complete_until timestamptz,
    walk_floor timestamptz,
    -- what complete_until becomes at the end of the walk
    walk_newest timestamptz,
    -- the last event of the walk so far
    walk_after text,
    polled_at timestamptz,
    -- what could not be read at the last poll
    problem text,
    -- why Stripe's objects are to be listed anew, null: they are not
    relist_reason text,
    relisted_at timestamptz
);

-- Objects that Stripe answered it has no more. An answer of an earlier fetch never brings one back. Grain: object.
create table stripe.deleted_object (
    object_kind text not null check (object_kind in ('invoice', 'subscription', 'credit_note')),
    object_id text not null,
    seen_at timestamptz not null,
    primary key (object_kind, object_id)
);

-- Renewals whose ended period is to be brought up to date while they are drafts. Grain: invoice.
create table stripe.trueup_queue (
    invoice_id text primary key,
    account_id text not null,
    customer_id text not null,
    stripe_subscription_id text not null,
    state text not null check (state in ('waiting', 'done', 'missed', 'gone')),
    -- where the ended period ends, by the invoice's own lines; null: none of them says
    boundary_at timestamptz,
    first_seen_at timestamptz not null,
    attempts integer not null default 0 check (attempts >= 0),
    not_before timestamptz,
    problem text,
    done_at timestamptz,
    changed_at timestamptz not null,
    check ((state = 'done') = (done_at is not null))
);
create index trueup_queue_waiting on stripe.trueup_queue (first_seen_at, invoice_id) where state = 'waiting';

-- What Stripe could not count of meter events. Grain: report, code. Append-only.
create table stripe.meter_error (
    event_id text not null references stripe.event,
    code text not null,
    event_type text not null,
    meter_id text,
    window_start timestamptz,
    window_end timestamptz,
    error_count bigint not null check (error_count >= 0),
    -- identifiers of some of the meter events
    identifiers text[] not null,
    reported_at timestamptz not null,
    primary key (event_id, code)
);
