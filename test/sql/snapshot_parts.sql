-- snapshot_parts: large states are saved in parts, which take each other's place.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_snapshot_parts;
create database evsource_snapshot_parts;
\c evsource_snapshot_parts
create extension evsource;
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- Something that no compression makes short.
create function noise(seed text, kilobytes int) returns text language sql immutable as
$$select string_agg(md5(seed || i), '') from generate_series(1, kilobytes * 32) i$$;
create view parts as select projection, key, count(*) as parts, sum(octet_length(bytes)) as bytes from evsource.snapshot_parts group by 1, 2 order by 1, 2;

select evsource.create_projection('large', 'evsource.fold_merge', categories => '{l}', snapshot_every => 2);
select version from evsource.append('l-1', 'Set', jsonb_build_object('a', noise('a', 20)));
select version from evsource.append('l-1', 'Set', jsonb_build_object('b', noise('b', 20)));
select version from evsource.append_batch('l-2', '{Set,Set}', array['{"a": "short"}', '{"b": "short"}']::jsonb[]);
-- its row says what is in it; the state is apart
select key, version, event_count, state is null as apart from evsource.snapshots order by key;
select key, parts > 10 as many, bytes > 20000 as large from parts;
select key, bytes > 20000 as large from evsource.snapshot_metadata order by key;
select bytes > 20000 as large from evsource.snapshot_stats;
-- whoever loads it sees no difference
\c
\set VERBOSITY terse
set client_min_messages = warning;
select state = evsource.state_at_version('large', 'l-1', 2) as same, length(state ->> 'b') from evsource.load_snapshot('large', 'l-1');
select length(evsource.state('large', 'l-1') ->> 'a');
select version from evsource.append('l-1', 'Set', '{"c": 3}');
\c
\set VERBOSITY terse
set client_min_messages = warning;
select length(state ->> 'a'), state -> 'c' as c, version, event_count from evsource.load_state('large', 'l-1');

-- A part that is the same is not written.
select version from evsource.append('l-1', 'Set', '{"c": 4}');
create temp table before as select part, ctid as place from evsource.snapshot_parts;
select version from evsource.append_batch('l-1', '{Set,Set}', '{"{}","{\"c\": 5}"}'::jsonb[]);
select count(*) > 5 as stayed from evsource.snapshot_parts p join before b using (part) where p.ctid = b.place;

-- A state that becomes short has no parts any more.
select version from evsource.append_batch('l-1', '{Set,Set}', '{"{\"a\": 1}","{\"b\": 2}"}'::jsonb[]);
select * from parts;
select state from evsource.snapshots where key = 'l-1';
-- one that becomes shorter has fewer
select version from evsource.append_batch('l-1', '{Set,Set}', array[jsonb_build_object('a', noise('a', 90)), '{}']);
select parts > 50 as many from parts;
select version from evsource.append_batch('l-1', '{Set,Set}', array[jsonb_build_object('a', noise('a', 9)), '{}']);
select parts < 10 as few from parts;
select length(evsource.state('large', 'l-1') ->> 'a'), (select length(state ->> 'a') from evsource.load_snapshot('large', 'l-1'));

-- Saved 100 times, each in a transaction, it takes little more than it did, whether
-- or not there is a vacuum. (Not while somebody has an old snapshot, before PostgreSQL 14
-- in whatever database: an autovacuum elsewhere, for instance. Then once more.)
alter table evsource.snapshot_parts set (autovacuum_enabled = false);
create procedure save_often() language plpgsql as $$
begin
    for i in 1 .. 100 loop
        perform evsource.append_batch('l-3', '{Set,Set}', array[jsonb_build_object('a', public.noise(i::text, 30)), '{}']);
        commit;
    end loop;
end $$;
do $$
declare
    before bigint;
begin
    for round in 1 .. 20 loop
        before := pg_relation_size('evsource.snapshot_parts');
        call public.save_often();
        exit when pg_relation_size('evsource.snapshot_parts') - before < 15 * 30 * 1024;
        if round = 20 then
            raise 'evsource.snapshot_parts has % bytes', pg_relation_size('evsource.snapshot_parts');
        end if;
    end loop;
end $$;
select evsource.state('large', 'l-3') ->> 'a' = noise('100', 30) as newest;

-- One that cannot be read is not used.
select version from evsource.append('l-1', 'Set', '{"last": true}');
update evsource.snapshot_parts set bytes = overlay(bytes placing '\x00000000'::bytea from 1) where key = 'l-1' and part = 1;
\c
\set VERBOSITY terse
set client_min_messages = log;
select length(state ->> 'a'), version from evsource.load_state('large', 'l-1');
set client_min_messages = warning;
select state is null as unreadable from evsource.load_snapshot('large', 'l-3');
delete from evsource.snapshot_parts where key = 'l-3' and part = 3;
select state is null as unreadable from evsource.load_snapshot('large', 'l-3');
select evsource.state('large', 'l-3') ->> 'a' = noise('100', 30) as newest;
select rejection from evsource.snapshot_status;
-- whoever had to do without it has saved it again
select count(*) from evsource.snapshots s, lateral evsource.load_snapshot('large', s.key) l where l.state is null;

-- Older ones are kept whole.
select evsource.alter_projection('large', keep_snapshots => 3);
select version from evsource.append_batch('l-1', '{Set,Set}', array['{"n": 1}', '{"n": 2}']::jsonb[]);
select version from evsource.append_batch('l-2', '{Set,Set}', array['{"n": 1}', '{"n": 2}']::jsonb[]);
select key, version, length(state ->> 'a') as a from evsource.snapshot_history order by key, version;

-- Where every state is saved to be searched, it stays in its row.
select evsource.create_projection('searched', 'evsource.fold_merge', categories => '{l}', snapshot_every => 1);
select evsource.save_snapshot('searched') >= 0 as saved;
select count(*) as found, count(state) as in_row from evsource.snapshots where projection = 'searched' and length(state ->> 'a') > 0;
select count(*) from parts where projection = 'searched';

-- The states of an async fold are kept so, too.
select evsource.create_projection('all', 'evsource.fold_merge', key => 'global', mode => 'async');
select evsource.run_projection('all') > 0 as applied;
select state is null as apart, (select length(l.state ->> 'a') from evsource.load_states('all') l) from evsource.snapshots where projection = 'all';
select version from evsource.append('l-9', 'Set', '{"z": 1}');
select evsource.run_projection('all'), length(evsource.state('all') ->> 'a'), evsource.state('all') -> 'z' as z;

-- They go with a snapshot that truncated events take with them.
select evsource.alter_projection('large', snapshot_every => 100);
select version from evsource.append('l-5', 'Set', jsonb_build_object('a', noise('5', 40)));
select evsource.save_snapshot('large', 'l-5');
select version from evsource.append('l-5', 'Set', '{"n": 1}');
select evsource.run_projection('all');
select count(*) from parts where key = 'l-5' and projection = 'large';
select evsource.truncate_stream('l-5', 2, force => true);
select count(*) from parts where key = 'l-5' and projection = 'large';
select evsource.state('large', 'l-5') ->> 'a' = noise('5', 40) as same;

-- They go with their projection.
select evsource.clear_snapshots('large') > 0 as cleared;
select count(*) from parts where projection = 'large';
select evsource.state('large', 'l-3') ->> 'a' = noise('100', 30) as newest;
select evsource.drop_projection('all'), evsource.drop_projection('large', force => true), evsource.drop_projection('searched', force => true);
select count(*) from evsource.snapshot_parts;

\c :home
drop database evsource_snapshot_parts;
