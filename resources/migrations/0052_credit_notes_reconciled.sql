-- Of what is compared: what is given back by credit notes, 0 or below, on both sides. The amounts beside are less it.
alter table invoicing.reconciliation add column ours_credited_stripe_minor bigint not null default 0
    check (ours_credited_stripe_minor <= 0);
alter table invoicing.reconciliation add column held_credited_stripe_minor bigint not null default 0;
