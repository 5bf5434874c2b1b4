-- Usage that cannot be added (max, min, mean, unique, latest, percentile), merged over whole event days: what a booking reads of a
-- period instead of its hours. Grain: account, meter, dimensions told apart, block of 1, 2, 4, .. days. Made and replaced by bookings
-- alone; may be emptied at any time, and is made again.
create table usage.merged_block (
    account_id text not null,
    meter_id text not null,
    -- names of the dimensions that groups are told by, joined by commas; '': all together
    grouping text not null,
    block_start date not null,
    block_days smallint not null check (block_days > 0 and block_days & (block_days - 1) = 0),
    -- which builds of its days (usage.build) it was made from; a block whose days were built anew counts no more
    builds_digest text not null,
    -- [[values of the dimensions], records, quantity as text, state] per group; [] where nothing was used
    groups json not null,
    primary key (account_id, meter_id, grouping, block_start, block_days)
);
