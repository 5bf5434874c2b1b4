-- What a day was made of, and what it counted: a later build sees from it which repositories a late event touches, and builds only them.
-- Null: built before there was this; such a day is built whole once more.
alter table usage.storage_tail add column made_of jsonb;
