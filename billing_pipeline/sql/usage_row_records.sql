-- Grain: source, event_id; its earliest (file_id, line_number). From: core/request_records, the files in $files.
-- The records that one row of usage.api_requests counts: window [$period_start, $period_end), billable, known dimensions.
with
records_of_row as (
    select
        source,
        event_id,
        file_id,
        line_number,
    from read_parquet($files)
    where
        event_at >= $period_start
        and event_at < $period_end
        and client_id = $client_id
        and method = $method
        and endpoint = $endpoint
        and not is_simulated
        and list_contains($statuses, status_code)
),
uncounted as (
    select
        unnest($uncounted_files::bigint[]) as file_id,
        unnest($uncounted_lines::bigint[]) as line_number,
),
first_deliveries as (
    select
        records_of_row.source,
        records_of_row.event_id,
        min((records_of_row.file_id, records_of_row.line_number)) as position,
    from records_of_row
    anti join uncounted using (file_id, line_number)
    group by records_of_row.source, records_of_row.event_id
)
select
    position[1] as file_id,
    position[2] as line_number,
    count(*) over () as records,
from first_deliveries
order by file_id, line_number
limit $limit
