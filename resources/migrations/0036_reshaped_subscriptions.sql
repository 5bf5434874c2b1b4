-- Subscriptions whose phases another catalog changed since they were booked: their charges from `since` on are rated and booked by
-- the next booking, of whatever day, so that a period that was cut, or made whole, is never charged twice or left out. Written with
-- the phases, removed with the booking.
create table billing.reshaped_subscription (
    subscription_id text primary key,
    account_id text not null,
    since timestamptz not null,
    noticed_at timestamptz not null default now()
);
