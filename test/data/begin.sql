-- begin.sql: the file's events in a table of lines, its answers, and a way to compare.
--
-- Standard input is the data file. An answer is compared as jsonb; money stands
-- there as strings, and is compared as a number.

create extension evsource;

create table lines (
    n    bigint generated always as identity primary key,
    line jsonb not null
);
\copy lines (line) from pstdin with (format csv, quote e'\x01', delimiter e'\x02')
analyze lines;

create table answers (answers jsonb not null);
\set text `cat "$ANSWERS"`
insert into answers values (:'text');

-- Strings that spell a number become that number, at every depth.
create function normal(value jsonb) returns jsonb
    language sql immutable strict
    as $$
select case jsonb_typeof(value)
    when 'string' then
        case when value #>> '{}' ~ '^-?[0-9]+(\.[0-9]+)?$' then to_jsonb((value #>> '{}')::numeric) else value end
    when 'array' then
        (select coalesce(jsonb_agg(normal(e) order by n), '[]') from jsonb_array_elements(value) with ordinality as a (e, n))
    when 'object' then
        (select coalesce(jsonb_object_agg(k, normal(v)), '{}') from jsonb_each(value) as o (k, v))
    else value
end
$$;

create table compared (
    n        bigint generated always as identity,
    question text not null,
    ours     jsonb,
    given    jsonb
);

-- A question of the answers file (a path in it), and what evsource says.
create function compare(path text, ours anyelement) returns void
    language sql
    as $$
insert into compared (question, ours, given)
    select path, normal(to_jsonb(ours)), normal(answers #> string_to_array(path, '/')) from answers
$$;

-- What must hold apart from the file's answers.
create function expect(claim text, ours anyelement, expected anyelement) returns void
    language sql
    as $$
insert into compared (question, ours, given) values (claim, to_jsonb(ours), to_jsonb(expected))
$$;

\o /dev/null
