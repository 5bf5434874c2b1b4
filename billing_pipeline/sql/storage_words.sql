-- What is said of repositories: visibility and owner. From: day_words, snapshot_words, storage_deltas (whose keys may name an owner),
-- tail_places, storage_steps, later_bases, assumed_visibilities (source, visibility: counts until anybody says one).

-- tail_words. Grain: active repository that was known when the day began.
create or replace temp table tail_words as
select
    repository_id,
    any_value(visibility) as visibility,
    any_value(owner) as owner,
    min(repository_began_on) as began_on,
from tail_places
semi join active_repositories using (repository_id)
group by repository_id;

-- unknown_repositories. Grain: repository of which visibility or owner was unknown when the day began. first_at: of its first evidence
-- of the day.
create or replace temp table unknown_repositories as
with
seen as (
    select places.repository_id, min(steps.step_at) as first_at
    from storage_steps as steps
    join places using (place_id)
    where steps.rank >= 0
    group by places.repository_id
)
select
    coalesce(seen.repository_id, tail_words.repository_id) as repository_id,
    seen.first_at,
    tail_words.repository_id is not null as was_known,
    tail_words.visibility is null as has_no_visibility,
    tail_words.owner is null as has_no_owner,
from seen
full join tail_words using (repository_id)
where tail_words.visibility is null or tail_words.owner is null;

-- first_words. Grain: unknown repository: who says visibility and owner first. A hint counts where nobody says it.
create or replace temp table first_words as
with
said as (
    select repository_id, event_at as step_at, 0 as rank, visibility, null as visibility_hint, owner, null as owner_hint
    from day_words
    semi join unknown_repositories using (repository_id)
    union all by name
    select repository_id, step_at, 1 as rank, visibility, visibility_hint, owner
    from snapshot_words
    semi join unknown_repositories using (repository_id)
    union all by name
    select places.repository_id, deltas.event_at as step_at, 0 as rank, arg_min(deltas.owner, deltas.action_id) as owner_hint
    from storage_deltas as deltas
    join places using (place_id)
    semi join unknown_repositories using (repository_id)
    where deltas.owner is not null
    group by places.repository_id, deltas.event_at
),
visibilities as (
    select repository_id, {'step_at': step_at, 'rank': rank, 'is_hint': false} as place, visibility as value
    from said
    where visibility is not null
    union all
    select repository_id, {'step_at': step_at, 'rank': rank, 'is_hint': true} as place, visibility_hint as value
    from said
    where visibility_hint is not null
),
owners as (
    select repository_id, {'step_at': step_at, 'rank': rank, 'is_hint': false} as place, owner as value
    from said
    where owner is not null
    union all
    select repository_id, {'step_at': step_at, 'rank': rank, 'is_hint': true} as place, owner_hint as value
    from said
    where owner_hint is not null
),
first_visibilities as (
    select repository_id, min(place) as place, arg_min(value, place) as value
    from visibilities
    group by repository_id
),
first_owners as (
    select repository_id, min(place) as place, arg_min(value, place) as value
    from owners
    group by repository_id
)
select
    unknown.repository_id,
    unknown.was_known,
    unknown.first_at,
    case when unknown.has_no_visibility then first_visibilities.place end as visibility_place,
    case when unknown.has_no_visibility then first_visibilities.value end as visibility,
    case when unknown.has_no_owner then first_owners.place end as owner_place,
    case when unknown.has_no_owner then first_owners.value end as owner,
from unknown_repositories as unknown
left join first_visibilities using (repository_id)
left join first_owners using (repository_id);

-- word_bases. Grain: unknown repository: how it was before anything had said so (R5), as found on this day or, where not, later.
create or replace temp table word_bases as
with
found as (
    select
        repository_id,
        case
            when visibility_place.rank = 1 then visibility
            -- an event that nothing precedes says nothing about what was before
            when not was_known and visibility_place.step_at = first_at then null
            when visibility = 'public' then 'private'
            when visibility = 'private' then 'public'
        end as visibility,
        case when owner_place.rank = 1 or owner_place.is_hint then owner end as owner,
    from first_words
),
later as (
    select
        places.repository_id,
        max(later_bases.base_visibility) as visibility,
        max(later_bases.base_owner) as owner,
    from later_bases
    join places using (repository)
    group by places.repository_id
)
select
    found.repository_id,
    coalesce(found.visibility, case when first_words.visibility is null then later.visibility end) as base_visibility,
    coalesce(found.owner, case when first_words.owner is null then later.owner end) as base_owner,
    found.visibility as found_visibility,
    found.owner as found_owner,
from found
join first_words using (repository_id)
left join later using (repository_id)
