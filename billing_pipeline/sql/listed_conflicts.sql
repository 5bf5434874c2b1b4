-- Versions that one inventory lists with different contents, and objects with more than one latest version. From: listed_versions.
select
    (
        select count(*)
        from (select 1 from listed_versions group by object_id, version_id having count(*) > 1)
    ) as conflicting_versions,
    (
        select count(*)
        from (select 1 from listed_versions where is_latest group by object_id having count(*) > 1)
    ) as objects_with_two_latest,
    (select coalesce(sum(copies - 1), 0)::bigint from listed_versions) as repeated_rows,
