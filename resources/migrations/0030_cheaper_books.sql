-- Booking: what the database checks of each row, at a fraction of its cost. Of 41 us of a server's time for a charge and its two
-- postings, a third was spent in regular expressions over digests and in one look-up for each foreign key (docs/benchmarks.md).

-- A digest is 64 characters, made by hashlib alone.
alter table billing.charge_revision drop constraint charge_revision_rating_digest_check;
alter table billing.charge_revision add constraint charge_revision_rating_digest_check check (octet_length(rating_digest) = 64);

-- Revisions name a release that is there, and postings a revision: once for each statement instead of once for each row. Both tables,
-- and the release, are append-only: nothing that is named can go away.
alter table billing.charge_revision drop constraint charge_revision_catalog_sha256_fkey;
create function billing.refuse_unknown_release() returns trigger language plpgsql as $$
declare
    unknown text;
begin
    select named.catalog_sha256 into unknown
    from (select distinct catalog_sha256 from added) as named
    where not exists (select from catalog.release where release.catalog_sha256 = named.catalog_sha256)
    limit 1;
    if found then
        raise exception 'charge revision of the unknown catalog release %', unknown using errcode = 'foreign_key_violation';
    end if;
    return null;
end $$;
create trigger charge_revision_has_release after insert on billing.charge_revision
    referencing new table as added for each statement execute function billing.refuse_unknown_release();

alter table billing.ledger_posting drop constraint ledger_posting_charge_id_revision_fkey;
create function billing.refuse_posting_of_nothing() returns trigger language plpgsql as $$
declare
    orphan record;
begin
    select named.charge_id, named.revision into orphan
    from (select distinct charge_id, revision from added where charge_id is not null) as named
    left join billing.charge_revision as booked
        on booked.charge_id = named.charge_id and booked.revision = named.revision
    where booked.charge_id is null
    limit 1;
    if found then
        raise exception 'ledger posting of charge % revision %, which is not booked', orphan.charge_id, orphan.revision
            using errcode = 'foreign_key_violation';
    end if;
    return null;
end $$;
create trigger ledger_posting_has_revision after insert on billing.ledger_posting
    referencing new table as added for each statement execute function billing.refuse_posting_of_nothing();
