-- verify_seen: a state says how far its stream was looked at, too. Where the projection
-- takes an event of what was passed over, that event is missing for ever.

-- A log of its own: positions are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_verify_seen;
create database evsource_verify_seen;
\c evsource_verify_seen
set client_min_messages = warning;
create extension evsource;
\set SHOW_CONTEXT never
set evsource.async_attempts = 1;

create table broken ();
create function add(state jsonb, e evsource.event) returns jsonb language plpgsql as
$$begin
    if e.data ? 'bad' and to_regclass('public.broken') is not null then
        raise exception 'bad event';
    end if;
    return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1, 'last', e.version);
end$$;
select evsource.create_projection('inline', 'add', categories => '{a}', types => '{Paid}', keep_snapshots => 3);
select evsource.create_projection('async', 'add', categories => '{a,b}', types => '{Paid}', mode => 'async', partitions => 3, on_error => 'dead_letter');
create function fill(stream text, types text) returns void language sql as
$$select evsource.append_batch(stream, array_agg(case t when 'P' then 'Paid' else 'Noted' end), array_agg('{}'::jsonb))
    from regexp_split_to_table(types, '') t$$;
-- as a bug left it: the snapshot claims to have seen the stream up to this version
create function claim(projection text, key text, version bigint) returns void language sql as
$$update evsource.snapshots s set seen_version = claim.version, seen_position = e.position from evsource.events e
    where s.projection = claim.projection and s.key = claim.key and e.stream = claim.key and e.version = claim.version$$;
create view snapshots as
    select projection, key, version, seen_version, state from evsource.snapshots order by 1, 2;
create view differences as
    select projection, v.* from evsource.projections p,
        lateral evsource.verify_projection(p.projection, max_differences => null) v order by 1, 3;

-- What other projections want may well have been passed over.
select fill(s, 'PPNN') from unnest('{a-1,a-2,a-3,a-4}'::text[]) s;
select evsource.run_projection('async');
select evsource.save_snapshot();
select * from snapshots;
select * from differences;

-- The log goes on, and the snapshots say that they have seen it.
select fill(s, 'NPNPN') from unnest('{a-1,a-2,a-3,a-4}'::text[]) s;
select evsource.run_projection('async');
select * from differences;
select claim(p.projection, s, 9) from evsource.projections p, unnest('{a-2,a-4}'::text[]) s;
select claim('inline', 'a-3', 5);
select * from differences;
select key, position, version, is_missing from evsource.verify_projection('inline');
select key from evsource.verify_projection('inline', sample => 1, max_differences => null);
select count(*) from evsource.verify_projection('inline', sample => 4, max_differences => null);
select count(*) from evsource.verify_projection('inline', max_differences => null, ignore => '{n,last}');
-- so it is for whoever asks
\c
set client_min_messages = warning;
\set SHOW_CONTEXT never
set evsource.async_attempts = 1;
select evsource.state('inline', 'a-1') as right, evsource.state('inline', 'a-2') as wrong;
-- of a state that differs already as of its own last event that is told
update evsource.snapshots set state = '{"n": 0}' where projection = 'inline' and key = 'a-2';
select key, position, version, is_missing, stored, computed from evsource.verify_projection('inline');

-- A restore begins with what is saved, and so does a rebuild from it; one of all events mends it.
select evsource.restore_projection('async');
call evsource.rebuild_projection('async', from_snapshot => true);
select key, position, version, is_missing from evsource.verify_projection('async', max_differences => null);
call evsource.rebuild_projection('async');
call evsource.rebuild_projection('inline');
select * from differences;
select evsource.state(p.projection, 'a-2') from evsource.projections p;

-- One that the log does not confirm is not used: the state is right.
select evsource.save_snapshot();
select fill('a-1', 'PN');
select evsource.run_projection('async');
select claim('inline', 'a-1', 11);
update evsource.snapshots set seen_position = seen_position + 1 where projection = 'inline' and key = 'a-1';
select * from differences;
select evsource.state('inline', 'a-1');
select evsource.save_snapshot('inline');

-- Older snapshots that are kept, and the first one that differs.
select fill('a-1', 'PN');
select evsource.run_projection('async');
select evsource.save_snapshot();
select fill('a-1', 'PN');
select evsource.run_projection('async');
select claim('inline', 'a-1', 15);
select key, version, is_missing from evsource.verify_projection('inline', max_differences => null);
update evsource.snapshot_history set state = '{"n": 0}' where projection = 'inline' and key = 'a-1' and version = 10;
select key, version, is_missing from evsource.verify_projection('inline', max_differences => null);
call evsource.rebuild_projection('inline');

-- By another filter no snapshot is of use, and with the one before it is as it was.
select evsource.alter_projection('async', types => '{Paid,Noted}');
select * from differences;
select evsource.alter_projection('async', types => '{Paid}');
select * from differences;
call evsource.rebuild_projection('async');

-- Parked events have not been passed over: what was seen ends before them.
select fill('b-1', 'PN');
select evsource.run_projection('async');
select evsource.save_snapshot();
select version from evsource.append('b-1', 'Paid', '{"bad": 1}');
select fill('b-1', 'NP');
select evsource.run_projection('async');
select evsource.restore_projection('async');
drop table broken;
select version from evsource.dead_letters order by 1;
select * from differences;
select applied, remaining from evsource.retry_dead_letters('async');
select evsource.save_snapshot();
select * from differences;

-- A truncated stream, and a type whose old events cannot be read any more.
select fill('a-3', 'PNPN');
select evsource.run_projection('async');
select evsource.save_snapshot();
select evsource.truncate_stream('a-3', 11);
create function unreadable(data jsonb) returns jsonb language plpgsql immutable as $$begin raise exception 'unreadable'; end$$;
select evsource.define_event_type('Noted', version => 2, upcaster => 'unreadable');
select * from differences;
select fill('a-3', 'PN');
select evsource.run_projection('async');
select claim(p.projection, 'a-3', 15) from evsource.projections p;
select projection, key, version, is_missing from differences;

\c :home
set client_min_messages = warning;
drop database evsource_verify_seen;
