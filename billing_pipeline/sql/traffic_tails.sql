-- traffic_tails. Grain: stream. From: tail_rows, the last samples before the first day.
create or replace temp table traffic_tails as
select *, hash(env, node, account_uuid, inbound_tag, getvariable('key_salt')) as stream_key
from tail_rows
