-- lake_records (view). Grain: source, event_id, file_id, line_number. From: core/request_records, the files in $lake_files.
-- What every query over the lake reads; DuckDB takes only the columns that a query names.
create or replace temp view lake_records as
select
    source,
    event_id,
    event_at,
    event_at::date as event_day,
    client_id,
    method,
    endpoint,
    status_code,
    response_time_us,
    response_bytes,
    is_simulated,
    file_id,
    line_number,
    filename as lake_file,
from read_parquet(getvariable('lake_files'), filename = true, hive_partitioning = false)
