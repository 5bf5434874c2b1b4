-- A change of a subscription may move its billing anchor: the phase that begins there says the anchor from then on (null: the one that
-- the subscription began with), so that a move that is written later reshapes what is booked since.
alter table catalog.subscription_phase
    add column anchor_day smallint check (anchor_day between 1 and 31),
    add column anchor_time time,
    add column anchor_month smallint check (anchor_month between 1 and 12),
    add constraint subscription_phase_anchor_check check ((anchor_day is null) = (anchor_time is null));

-- A statement of an application's table may move it too.
alter table catalog.subscription_statement
    drop constraint subscription_statement_check2,
    drop constraint subscription_statement_check4,
    add constraint subscription_statement_anchor_check check (
        statement <> 'withdrawal' or (anchor_day is null and anchor_time is null and anchor_month is null)
    ),
    add constraint subscription_statement_says_something check (
        statement <> 'change'
        or coalesce(plan_id, status) is not null or quantities is not null or trial_until is not null or cancel is not null
        or coalesce(anchor_day, anchor_month) is not null or anchor_time is not null
    );
