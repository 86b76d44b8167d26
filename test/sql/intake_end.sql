-- An INSERT or COPY into evsource.events ends with the dispatch of what it stored, or fails.
-- (test/t/033_intake_stopped.pl: of one that stops early.)

create table intake_end_seen (stream text, version bigint);
select evsource.create_projection('intake_end', query => 'insert into intake_end_seen select stream, version from new_events',
    categories => '{intake_end}', tables => '{intake_end_seen}', start => 'now');

-- Without the trigger that dispatches nothing is stored.
alter table evsource.events disable trigger "00_intake_end";
insert into evsource.events (stream, type) values ('intake_end-a', 'One');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
copy evsource.events (stream, type) from stdin;
intake_end-a	One
\.
\set VERBOSITY default
select evsource.append('intake_end-b', 'One') is not null as appended;
alter table evsource.events enable trigger "00_intake_end";
insert into evsource.events (stream, type) values ('intake_end-a', 'One');
select * from intake_end_seen order by stream, version;

-- It can be disabled while the statement runs: by its last row, which is left out.
create function intake_end_is_kept(type text) returns boolean language plpgsql as $$
begin
    if type = 'Last' then
        perform set_config('session_replication_role', 'replica', true);
    end if;
    return type <> 'Last';
end $$;
-- Then a COPY cannot be committed,
begin;
copy evsource.events (stream, type) from stdin where intake_end_is_kept(type);
intake_end-c	One
intake_end-c	Last
\.
commit;
\echo :LAST_ERROR_SQLSTATE
-- nor a savepoint be released;
begin;
savepoint s;
copy evsource.events (stream, type) from stdin where intake_end_is_kept(type);
intake_end-c	Two
intake_end-c	Last
\.
\set VERBOSITY terse
release s;
\set VERBOSITY default
rollback;
-- where it is rolled back, nothing is left.
begin;
savepoint s;
copy evsource.events (stream, type) from stdin where intake_end_is_kept(type);
intake_end-c	Three
intake_end-c	Last
\.
rollback to s;
select version from evsource.append('intake_end-d', 'One');
insert into evsource.events (stream, type) values ('intake_end-d', 'Two');
commit;
-- One that stored nothing does no harm.
begin;
copy evsource.events (stream, type) from stdin where intake_end_is_kept(type);
intake_end-c	Last
\.
commit;
-- An INSERT ends with its query.
begin;
insert into evsource.events (stream, type)
    select 'intake_end-e', v.type from (values ('One'), ('Two'), ('Last')) v (type) where intake_end_is_kept(v.type);
select * from intake_end_seen where stream = 'intake_end-e' order by version;
commit;
select e.stream, e.version, s.version is not null as applied from evsource.events e left join intake_end_seen s using (stream, version)
    where evsource.category(e.stream) = 'intake_end' order by e.position;

select evsource.drop_projection('intake_end');
drop function intake_end_is_kept;
drop table intake_end_seen;
