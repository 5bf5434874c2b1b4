-- request_identities. Grain: source, event_id, file_id, line_number of the records whose identity occurs more than once.
-- From: lake_records, repeated_identities, requested_days, lake_parts, counted_files (file_id, event_day: what the day's last
-- build counted), open_versions (file_id, line_number, content_sha256: what builds left out of them), identity_decisions (source,
-- event_id, content_sha256; null: no version counts).
--
-- The one place of the rule of identity. Same content: a duplicate, the earliest (file_id, line_number) is kept. Other content, on
-- the same event day or in the same lake file: a conflict; no version counts until one is decided for. A version that alone
-- was counted by the last build is decided for by itself (is_billed_already).
-- outcome: kept, duplicate or conflict. is_open: in conflict, and nobody has decided.
create or replace temp table request_identities as
with
candidates as (
    select
        source,
        event_id,
        event_day,
        file_id,
        line_number,
        lake_file,
        sha256(
            json_array(
                epoch_us(event_at),
                client_id,
                method,
                endpoint,
                status_code,
                response_time_us,
                response_bytes,
                is_simulated
            )::varchar
        ) as content_sha256,
    from lake_records
    where
        hash(source, event_id) in (select identity_hash from repeated_identities)
        and (
            event_day in (select event_day from requested_days)
            or lake_file in (select lake_file from lake_parts where has_conflicts)
        )
),
contents_in_day as (
    select source, event_id, event_day, count(distinct content_sha256) > 1 as is_conflict
    from candidates
    group by source, event_id, event_day
),
contents_in_file as (
    select source, event_id, lake_file, count(distinct content_sha256) > 1 as is_conflict
    from candidates
    group by source, event_id, lake_file
),
conflicts as (
    select
        candidates.source,
        candidates.event_id,
        candidates.event_day,
        bool_or(contents_in_day.is_conflict or contents_in_file.is_conflict) as is_conflict,
    from candidates
    join contents_in_day using (source, event_id, event_day)
    join contents_in_file using (source, event_id, lake_file)
    group by candidates.source, candidates.event_id, candidates.event_day
),
billed_already as (
    select candidates.source, candidates.event_id, min(candidates.content_sha256) as content_sha256
    from candidates
    join counted_files using (file_id, event_day)
    anti join open_versions using (file_id, line_number, content_sha256)
    group by candidates.source, candidates.event_id
    having count(distinct candidates.content_sha256) = 1
),
decided as (
    select source, event_id, content_sha256, false as is_billed_already
    from identity_decisions
    union all
    select source, event_id, content_sha256, true as is_billed_already
    from billed_already
    anti join identity_decisions using (source, event_id)
),
-- A decision for a content that is no longer delivered, say after a new profile version, decides nothing.
standing_decisions as (
    select decided.source, decided.event_id, decided.content_sha256, decided.is_billed_already
    from decided
    where
        decided.content_sha256 is null
        or exists (
            select 1
            from candidates
            where
                candidates.source = decided.source
                and candidates.event_id = decided.event_id
                and candidates.content_sha256 = decided.content_sha256
        )
),
versions as (
    select
        candidates.source,
        candidates.event_id,
        candidates.event_day,
        candidates.file_id,
        candidates.line_number,
        candidates.content_sha256,
        conflicts.is_conflict,
        conflicts.is_conflict and standing_decisions.source is null as is_open,
        conflicts.is_conflict and coalesce(standing_decisions.is_billed_already, false) as is_billed_already,
        standing_decisions.content_sha256 as decided_sha256,
        row_number() over (
            partition by candidates.source, candidates.event_id, candidates.event_day, candidates.content_sha256
            order by candidates.file_id, candidates.line_number
        ) as copy_number,
    from candidates
    join conflicts using (source, event_id, event_day)
    left join standing_decisions using (source, event_id)
    where candidates.event_day in (select event_day from requested_days)
)
select
    source,
    event_id,
    event_day,
    file_id,
    line_number,
    content_sha256,
    decided_sha256,
    is_conflict,
    is_open,
    is_billed_already,
    case
        when is_conflict and content_sha256 is distinct from decided_sha256 then 'conflict'
        when copy_number > 1 then 'duplicate'
        else 'kept'
    end as outcome,
from versions
