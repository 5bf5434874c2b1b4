-- Which of the rows that may repeat an earlier identity are new. Grain: row that was set aside (position).
-- From: written (identity_hash, content_hash of rows already in the generation whose identity hash is among those set aside),
-- aside (position in order of delivery, identity_hash, content_hash).
-- Same identity and content: a duplicate, left out. Same identity, other content: kept, flagged, judged when its event day is
-- built (request_identities.sql). Two 64-bit hashes must agree for a row to be left out.
with
candidates as (
    select distinct identity_hash, content_hash, -1 as position
    from written
    union all
    select identity_hash, content_hash, position
    from aside
),
first_occurrences as (
    select identity_hash, content_hash, min(position) as position
    from candidates
    group by identity_hash, content_hash
),
judged as (
    select position, count(*) over (partition by identity_hash) > 1 as is_conflicting, identity_hash
    from first_occurrences
)
select * from judged
