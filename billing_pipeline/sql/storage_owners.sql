-- owner_windows. Grain: owner, part of the day in which one account, or none, has the owner as client. From: client_accounts.
create or replace temp table owner_windows as
with
links as (
    select *
    from client_accounts
    where valid_from < getvariable('day_end') and valid_to > getvariable('day_start')
),
bounds as (
    select client_id, getvariable('day_start') as step_at from links
    union
    select client_id, valid_from as step_at from links where valid_from > getvariable('day_start')
    union
    select client_id, valid_to as step_at from links where valid_to < getvariable('day_end')
),
windows as (
    select
        client_id,
        step_at as window_start,
        lead(step_at, 1, getvariable('day_end')) over (partition by client_id order by step_at) as window_end,
    from bounds
)
select windows.client_id as owner, windows.window_start, windows.window_end, links.account_id
from windows
left join links
    on
        windows.client_id = links.client_id
        and windows.window_start >= links.valid_from
        and windows.window_start < links.valid_to
