-- What no program may do by mistake: compile an invoice that is final, give back more than an invoice was.
create function invoicing.refuse_draft_of_final() returns trigger language plpgsql as $$
declare
    taken record;
begin
    select final.invoice_id, final.number into taken
    from added
    join invoicing.final_invoice as final using (invoice_id)
    limit 1;
    if found then
        raise exception 'invoice % is final as % and is not compiled again', taken.invoice_id, taken.number;
    end if;
    return null;
end $$;
create trigger draft_invoice_is_open after insert on invoicing.draft_invoice
    referencing new table as added for each statement execute function invoicing.refuse_draft_of_final();

create function invoicing.refuse_credit_beyond_invoice() returns trigger language plpgsql as $$
declare
    beyond record;
begin
    select final.number, final.total_minor, sum(note.amount_minor) as credited_minor into beyond
    from (select distinct invoice_id from added) as touched
    join invoicing.final_invoice as final using (invoice_id)
    join invoicing.credit_note as note using (invoice_id)
    group by final.number, final.total_minor, final.currency
    having sum(note.amount_minor) > final.total_minor or bool_or(note.currency <> final.currency)
    limit 1;
    if found then
        raise exception 'credit notes of % come to %, the invoice to %', beyond.number, beyond.credited_minor,
            beyond.total_minor;
    end if;
    return null;
end $$;
create trigger credit_note_within_invoice after insert on invoicing.credit_note
    referencing new table as added for each statement execute function invoicing.refuse_credit_beyond_invoice();
