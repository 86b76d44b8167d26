-- handler_calls: what a handler may call works, or is refused at once: it waits neither for itself
-- nor for the process that runs it.

-- A log of its own: what is registered here is seen by every append.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_handler_calls;
create database evsource_handler_calls;
\c evsource_handler_calls
create extension evsource;
set client_min_messages = error;

create table calls (number int generated always as identity, call text);
create table answers (number int, sqlstate text, message text, detail text, hint text);
create table rows (stream text primary key);
create function count_all(state jsonb, command jsonb) returns evsource.new_event[] language sql as 'select null::evsource.new_event[]';
create function nothing(e evsource.event) returns void language sql as '';
create function tries(e evsource.event) returns void language plpgsql as $$
declare
    c record;
    answer answers;
begin
    for c in select * from public.calls order by number loop
        answer := (c.number, 'ok', null, null, null);
        begin
            execute c.call;
        exception when others then
            get stacked diagnostics answer.message = message_text, answer.detail = pg_exception_detail, answer.hint = pg_exception_hint;
            answer.sqlstate := sqlstate;
        end;
        insert into public.answers select answer.*;
    end loop;
end $$;
select version from evsource.append('x-1', 'Happened');
select evsource.create_projection('other', query => 'insert into rows select stream from new_events on conflict do nothing', tables => '{rows}', categories => '{x}');
select evsource.create_projection('fold', 'evsource.fold_count', categories => '{x}');
select evsource.create_projection('later', 'nothing', mode => 'async', categories => '{x}');
select evsource.define_event_type('Happened', 1);
select evsource.create_subscription('consumer', categories => '{x}');
create function empties_nothing() returns void language sql as '';
select evsource.create_projection('tries', 'tries', categories => '{y}', start => 'now', on_reset => 'empties_nothing');

-- The daemon, who waits, and the extension: a handler that waits is one that may be waited for, and
-- whoever changes the extension waits for the daemon.
insert into calls (call) values
    ('select evsource.stop_daemon()'),
    ('select evsource.start_daemon()'),
    ('select evsource.adopt()'),
    ($$select evsource.wait_for('later')$$),
    ('alter extension evsource update'),
    ('drop extension evsource cascade'),
    ('drop schema evsource cascade'),
    ('drop owned by current_user cascade'),
    ($$set evsource.allow_drop = on; drop extension plpgsql cascade$$);
select version from evsource.append('y-1', 'Happened');
select c.call, a.sqlstate, a.message, a.detail, a.hint from calls c join answers a using (number) order by number \gx

-- So it is in an on_reset function, which the daemon runs as well; after an error there, no longer.
create table emptied (stream text);
create function on_reset() returns void language plpgsql as $$
begin
    perform public.tries(null);
    if exists (select from public.calls where call = 'raise') then raise 'not emptied'; end if;
end $$;
select evsource.create_projection('emptied', query => 'insert into emptied select stream from new_events', categories => '{e}',
    on_reset => 'on_reset', mode => 'async');
truncate answers;
select evsource.reset_projection('emptied');
select a.sqlstate, a.message from answers a order by number;
insert into calls (call) values ('raise');
select evsource.reset_projection('emptied');
truncate calls, answers;
insert into calls (call) values ('select evsource.start_daemon()');
select tries(null);
select message from answers;
select evsource.drop_projection('emptied');

-- Projections are not changed, run or emptied, nor their events removed or read otherwise.
truncate calls, answers;
insert into calls (call) values
    ($$select evsource.create_projection('new', 'public.nothing')$$),
    ($$select evsource.alter_projection('other', state_version => 2)$$),
    ($$select evsource.pause_projection('other')$$),
    ($$select evsource.resume_projection('other')$$),
    ($$select evsource.reset_projection('other')$$),
    ($$select evsource.drop_projection('other')$$),
    ($$call evsource.activate_projection('other')$$),
    ($$call evsource.rebuild_projection('other')$$),
    ($$call evsource.rebuild_projection('tries')$$),
    ($$select evsource.cancel_rebuild('other')$$),
    ($$select evsource.accept_rebuild('other')$$),
    ($$select evsource.revert_rebuild('other')$$),
    ($$select evsource.restore_projection('fold')$$),
    ($$select evsource.run_projection('later')$$),
    ($$select evsource.run_projection()$$),
    ($$select evsource.retry_dead_letters('later')$$),
    ($$select evsource.drop_event_type('Happened')$$),
    ($$select evsource.truncate_stream('x-1', 1)$$),
    ($$select evsource.truncate_stream('x-1', 2)$$),
    ($$select evsource.truncate_stream('x-1', 2, force => true)$$);
select version from evsource.append('y-1', 'Happened');
select c.call, a.sqlstate, a.message from calls c join answers a using (number) order by number;

-- All else works.
truncate calls, answers;
insert into calls (call) values
    ($$select evsource.request_rebuild('other')$$),
    ($$select evsource.define_event_type('Typed', 1)$$),
    ($$select evsource.request_rebuild('tries')$$),
    ($$select evsource.event_count('later')$$),
    ($$select evsource.verify_projection('other')$$),
    ($$select evsource.verify_projection('fold')$$),
    ($$select evsource.try_projection('other', 'public.nothing')$$),
    ($$select evsource.state('fold', 'x-1')$$),
    ($$select evsource.save_snapshot('fold')$$),
    ($$select evsource.load_snapshot('fold', 'x-1')$$),
    ($$select evsource.clear_snapshots('fold')$$),
    ($$select evsource.check_log()$$),
    ($$select evsource.publish_safe_position()$$),
    ($$select evsource.create_decider('decider', 'public.count_all', 'fold')$$),
    ($$select evsource.execute_command('decider', 'x-1', '{}')$$),
    ($$select evsource.forget_commands(now())$$),
    ($$select evsource.drop_decider('decider')$$),
    ($$select evsource.fetch_events('consumer', wait => '10ms')$$),
    ($$select evsource.fetch_events('consumer', wait => '10ms')$$),
    ($$select evsource.alter_subscription('consumer', categories => '{x}')$$),
    ($$select evsource.seek_subscription('consumer', 0)$$),
    ($$select evsource.retry_subscription_dead_letters('consumer')$$),
    ($$select evsource.create_subscription('second')$$),
    ($$select evsource.drop_subscription('second')$$),
    ($$select evsource.capture_table('public.rows')$$),
    ($$select evsource.release_table('public.rows')$$),
    ($$select evsource.grant_access('pg_monitor', 'reader')$$),
    ($$select evsource.revoke_access('pg_monitor')$$),
    ('select * from evsource.projection_status'),
    ('select * from evsource.progress'),
    ('select * from evsource.daemon_status');
select version from evsource.append('y-1', 'Happened');
select c.call, a.sqlstate, a.message from calls c join answers a using (number) where a.sqlstate <> 'ok' order by number;
select count(*) = (select count(*) from calls) as all_work from answers where sqlstate = 'ok';

-- What a handler verifies or tries is history; what it gets itself is that no more, and no less, for it.
create table asked (step text, replaying boolean);
create function fails(e evsource.event) returns void language plpgsql as $$ begin raise 'failed'; end $$;
create function asks(e evsource.event) returns void language plpgsql as $$
begin
    insert into asked values ('called', evsource.replaying());
    perform evsource.verify_projection('other');
    insert into asked values ('after a verification', evsource.replaying());
    begin
        perform evsource.try_projection('other', 'public.fails');
    exception when raise_exception then
        insert into asked values ('after an attempt that failed', evsource.replaying());
    end;
end $$;
select evsource.create_projection('asks', 'asks', categories => '{z}', tables => '{asked}');
select version from evsource.append('z-1', 'Happened');
select * from asked;
call evsource.rebuild_projection('asks', online => false);
select * from asked;
\c :home
drop database evsource_handler_calls;
