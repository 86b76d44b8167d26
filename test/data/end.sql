-- end.sql: the verdict.

do $$
declare
    wrong text;
begin
    select string_agg(format(E'\n  %s: %s, but the answer is %s', question, ours, given), '' order by n)
        into wrong from compared where ours is distinct from given or given is null;
    if wrong is not null then
        raise exception 'evsource gives other answers:%', wrong;
    end if;
end
$$;

-- Every key of the file was asked for, or is on the list of what no store can tell
-- (unless only a part of them was to be).
\if :{?part}
\else
do $$
declare
    unasked text;
begin
    select string_agg(key, ', ') into unasked
        from answers, jsonb_object_keys(answers) as key
        where not exists (select from compared where split_part(question, '/', 1) = key)
            and key not in ('fold');
    if unasked is not null then
        raise exception 'not asked: %', unasked;
    end if;
end
$$;
\endif

select format('%s answers equal, from %s events', (select count(*) from compared), (select count(*) from evsource.events)) as said \gset
\o
\echo :said
