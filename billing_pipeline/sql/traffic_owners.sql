-- traffic_owners. Grain: stream, [valid_from, valid_to). From: traffic_streams, client_accounts. Whose a stream is, and when.
create or replace temp table traffic_owners as
select streams.stream_key, clients.account_id, clients.valid_from, clients.valid_to
from traffic_streams as streams
join client_accounts as clients on streams.account_uuid = clients.client_id
