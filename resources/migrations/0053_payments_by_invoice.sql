-- Which invoice a payment event is about: paying one does not end the arrears of another. Empty: nobody said. Of events that came
-- from Stripe it is known, by the id that they were kept under or by the inbox.
alter table billing.payment_event add column invoice_id text not null default '';
update billing.payment_event set invoice_id = split_part(event_id, ':', 1) where event_id like 'in\_%:%';
update billing.payment_event set invoice_id = event.object_id
from stripe.event
where event.event_id = payment_event.event_id and event.object_kind = 'invoice' and payment_event.invoice_id = '';
