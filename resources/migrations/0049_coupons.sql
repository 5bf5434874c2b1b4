-- Coupons are catalog entries. Which kinds there are the code says: a list here would have to be made anew for each.
alter table catalog.entry drop constraint entry_kind_check;
alter table catalog.entry add constraint entry_kind_check check (kind ~ '^[a-z]+(_[a-z]+)*$');
