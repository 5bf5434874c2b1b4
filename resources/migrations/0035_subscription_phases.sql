-- Phases of subscriptions, as the loaded catalog's dated changes come to: what guards and people join usage with. A mirror of the
-- catalog's files, written with it. Half-open; PostgreSQL refuses two phases of one subscription at one time.
create table catalog.subscription_phase (
    subscription_id text not null,
    phase_number integer not null check (phase_number >= 1),
    account_id text not null,
    plan_id text not null,
    plan_version integer not null check (plan_version >= 1),
    status text not null check (status in ('trial', 'active', 'paused')),
    -- name -> exact number as text: {"seat": "5"}
    quantities jsonb not null default '{}',
    starts_at timestamptz not null,
    ends_at timestamptz,
    primary key (subscription_id, phase_number),
    check (ends_at is null or ends_at > starts_at),
    exclude using gist (subscription_id with =, tstzrange(starts_at, ends_at) with &&)
);
create index subscription_phase_by_account on catalog.subscription_phase (account_id, starts_at);

-- A catalog that was loaded before this file has subscriptions of one phase.
insert into catalog.subscription_phase
    (subscription_id, phase_number, account_id, plan_id, plan_version, status, starts_at, ends_at)
select
    subscription_id, 1, account_id, plan_id,
    coalesce((select max(version) from catalog.current_entry where kind = 'plan' and entry_id = plan_id), 1),
    'active', starts_at, ends_at
from catalog.subscription;
