-- Running totals that were told to Stripe's meters. Grain: customer, meter (by its events' name), billing period. Every event that
-- was sent is an intent (stripe.intent, operation billing.meter_events.create); this is the newest of them.
create table stripe.sync_meter (
    customer_id text not null,
    event_name text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    account_id text not null,
    -- what the period comes to, in the meter's whole units
    value bigint not null check (value >= 0),
    -- the event's own time; grows strictly inside a period
    event_at timestamptz not null,
    identifier text not null,
    -- sending: it may have been sent. sent: Stripe has taken it. confirmed: a summary has shown it. unconfirmed: no summary has
    -- shown it in time. failed: Stripe has reported that it does not count
    state text not null check (state in ('sending', 'sent', 'confirmed', 'unconfirmed', 'failed')),
    sent_at timestamptz not null,
    confirmed_at timestamptz,
    problem text,
    run_id text not null,
    primary key (customer_id, event_name, period_start),
    check (period_end > period_start),
    check (event_at >= period_start and event_at < period_end),
    check ((state = 'confirmed') = (confirmed_at is not null))
);
create index sync_meter_by_account on stripe.sync_meter (account_id);
create index sync_meter_unconfirmed on stripe.sync_meter (customer_id) where state in ('sending', 'sent', 'unconfirmed');
create index sync_meter_by_identifier on stripe.sync_meter (identifier);
