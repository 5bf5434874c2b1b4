-- Which fetch found an object gone: an answer that was asked for earlier does not bring it back, a later one does. So a key of
-- another Stripe account, which knows none of our objects, does no lasting harm.
alter table stripe.deleted_object add column fetch_number bigint not null default 0;
