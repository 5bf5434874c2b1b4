-- PostgreSQL. Grain: env, node. The first snapshot ever of each node, and the streams that contradict themselves in it.
-- From: core.traffic_snapshot by its key, one step per node; core.traffic_conflict.
with recursive
nodes as (
    (
        select env, node, collected_at
        from core.traffic_snapshot
        order by env, node, collected_at
        limit 1
    )
    union all
    select following.env, following.node, following.collected_at
    from nodes
    cross join lateral (
        select env, node, collected_at
        from core.traffic_snapshot as snapshot
        where (snapshot.env, snapshot.node) > (nodes.env, nodes.node)
        order by env, node, collected_at
        limit 1
    ) as following
)
select
    nodes.env,
    nodes.node,
    nodes.collected_at,
    coalesce(
        (
            select jsonb_agg(distinct jsonb_build_array(conflict.account_uuid, conflict.inbound_tag))
            from core.traffic_conflict as conflict
            where
                conflict.env = nodes.env
                and conflict.node = nodes.node
                and conflict.collected_at = nodes.collected_at
        ),
        '[]'
    ) as conflicting_streams
from nodes
order by nodes.env, nodes.node
