-- Accounts of which something became final, void or deleted at Stripe since they were last looked at for it, or of which an invoice
-- in mid-period took pending items along. Written by settling, taken by the sync. Grain: account.
create table stripe.changed_account (
    account_id text primary key,
    -- the newest of the invoices that it is about
    invoice_id text not null,
    -- a higher one with every change, so that whoever has looked takes out no later change
    change_number bigint not null,
    changed_at timestamptz not null
);

-- Up to when the mirror was whole when the reason to list everything anew was found; null: it never was.
alter table stripe.event_feed add column relist_from timestamptz;
