-- What Stripe holds, as it was fetched last. Owner: Stripe. Every row knows when it was fetched; a row is only replaced by one
-- with a higher fetch number. Amounts are Stripe's own minor units. Metadata: only keys that begin with bp_.

create table stripe.customer (
    customer_id text primary key,
    is_deleted boolean not null,
    currency text check (currency ~ '^[A-Z]{3}$'),
    -- negative is credit
    balance_stripe_minor bigint not null,
    is_delinquent boolean not null,
    test_clock_id text,
    created_at timestamptz,
    metadata jsonb not null,
    fetched_at timestamptz not null,
    fetch_number bigint not null
);
create index customer_by_account on stripe.customer ((metadata ->> 'bp_account'));

create table stripe.subscription (
    subscription_id text primary key,
    customer_id text not null,
    status text not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    collection_method text not null,
    started_at timestamptz not null,
    billing_cycle_anchor timestamptz not null,
    trial_start timestamptz,
    trial_end timestamptz,
    cancel_at timestamptz,
    cancel_at_period_end boolean not null,
    canceled_at timestamptz,
    ended_at timestamptz,
    latest_invoice_id text,
    created_at timestamptz not null,
    metadata jsonb not null,
    fetched_at timestamptz not null,
    fetch_number bigint not null
);
create index subscription_by_customer on stripe.subscription (customer_id);

-- Grain: item of a subscription. Billing periods are the item's, half-open. Replaced with its subscription.
create table stripe.subscription_item (
    subscription_id text not null references stripe.subscription on delete cascade,
    item_id text not null,
    price_id text not null,
    quantity bigint,
    is_metered boolean not null,
    current_period_start timestamptz not null,
    current_period_end timestamptz not null,
    metadata jsonb not null,
    primary key (subscription_id, item_id)
);

create table stripe.invoice (
    invoice_id text primary key,
    customer_id text not null,
    subscription_id text,
    -- deleted: Stripe has it no more; only drafts can be deleted
    status text not null check (status in ('draft', 'open', 'paid', 'uncollectible', 'void', 'deleted')),
    billing_reason text not null,
    collection_method text not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    subtotal_stripe_minor bigint not null,
    discount_stripe_minor bigint not null,
    tax_stripe_minor bigint not null,
    total_stripe_minor bigint not null,
    amount_due_stripe_minor bigint not null,
    amount_paid_stripe_minor bigint not null,
    amount_remaining_stripe_minor bigint not null,
    starting_balance_stripe_minor bigint not null,
    credited_stripe_minor bigint not null,
    attempt_count integer not null,
    auto_advance boolean not null,
    automatically_finalizes_at timestamptz,
    -- in which items attach; what is billed is the lines' period
    items_from timestamptz not null,
    items_until timestamptz not null,
    created_at timestamptz not null,
    finalized_at timestamptz,
    paid_at timestamptz,
    voided_at timestamptz,
    uncollectible_at timestamptz,
    metadata jsonb not null,
    fetched_at timestamptz not null,
    fetch_number bigint not null
);
create index invoice_by_customer on stripe.invoice (customer_id, created_at);
create index invoice_unsettled on stripe.invoice (status) where status in ('draft', 'open');

-- What of an invoice's state has been acted upon, for which account. An invoice whose newest fetch or account is another one is
-- to be settled (again). Grain: invoice.
create table stripe.settlement (
    invoice_id text primary key references stripe.invoice on delete cascade,
    -- null: not settled yet
    fetch_number bigint,
    -- null: its customer is no account of ours
    account_id text,
    attempts integer not null default 0 check (attempts >= 0),
    not_before timestamptz,
    problem text,
    changed_at timestamptz not null
);

-- Grain: line of an invoice, all of them. Replaced with its invoice.
create table stripe.invoice_line (
    invoice_id text not null references stripe.invoice on delete cascade,
    line_id text not null,
    amount_stripe_minor bigint not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    period_start timestamptz not null,
    period_end timestamptz not null,
    is_proration boolean not null,
    invoice_item_id text,
    subscription_id text,
    subscription_item_id text,
    price_id text,
    metadata jsonb not null,
    primary key (invoice_id, line_id)
);
create index invoice_line_by_key on stripe.invoice_line ((metadata ->> 'bp_key')) where metadata ? 'bp_key';

-- Grain: payment, or try of one, of an invoice. Replaced with its invoice.
create table stripe.payment (
    payment_id text primary key,
    invoice_id text not null references stripe.invoice on delete cascade,
    status text not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    amount_requested_stripe_minor bigint not null,
    amount_paid_stripe_minor bigint not null,
    created_at timestamptz not null,
    paid_at timestamptz,
    canceled_at timestamptz
);
create index payment_by_invoice on stripe.payment (invoice_id);

create table stripe.credit_note (
    credit_note_id text primary key,
    invoice_id text not null,
    customer_id text not null,
    status text not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    total_stripe_minor bigint not null,
    before_payment_stripe_minor bigint not null,
    after_payment_stripe_minor bigint not null,
    reason text,
    created_at timestamptz not null,
    voided_at timestamptz,
    metadata jsonb not null,
    fetched_at timestamptz not null,
    fetch_number bigint not null
);
create index credit_note_by_invoice on stripe.credit_note (invoice_id);

-- When a customer's objects were listed last on somebody's demand, and what went wrong since. Grain: customer, kind.
create table stripe.refresh (
    customer_id text not null,
    object_kind text not null check (object_kind in ('customer', 'subscription', 'invoice')),
    fetched_at timestamptz,
    fetch_number bigint,
    failed_at timestamptz,
    problem text,
    primary key (customer_id, object_kind),
    check ((failed_at is null) = (problem is null))
);

-- Subscriptions as Stripe has them, in our terms; whose they are is what their metadata says. For whoever takes subscriptions from
-- Stripe. Grain: subscription at Stripe.
create view stripe.subscription_source as
select
    subscription.subscription_id as stripe_subscription_id,
    coalesce(subscription.metadata ->> 'bp_account', customer.metadata ->> 'bp_account') as account_id,
    subscription.metadata ->> 'bp_subscription' as subscription_id,
    subscription.metadata ->> 'bp_plan' as plan_id,
    subscription.customer_id,
    subscription.status,
    subscription.currency,
    subscription.started_at,
    coalesce(subscription.ended_at, subscription.cancel_at) as ends_at,
    subscription.billing_cycle_anchor,
    subscription.trial_start,
    subscription.trial_end,
    items.price_ids,
    items.current_period_start,
    items.current_period_end,
    subscription.fetched_at
from stripe.subscription
left join stripe.customer using (customer_id)
left join lateral (
    select
        array_agg(price_id order by item_id) as price_ids,
        min(current_period_start) as current_period_start,
        max(current_period_end) as current_period_end
    from stripe.subscription_item
    where subscription_item.subscription_id = subscription.subscription_id
) as items on true;
