-- dispatch_nested: handlers that append. What they append is dispatched when all
-- projections are through with the batch, in order, to a limited depth.

-- A log of its own: positions are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_dispatch_nested;
create database evsource_dispatch_nested;
\c evsource_dispatch_nested
create extension evsource;

create schema shop;
set search_path = shop;
create table seen (id bigint generated always as identity, what text);

-- An order that is placed is invoiced; an invoice is posted twice. The handler
-- that acts comes first by name: others must not see an event before its cause.
create function act(e evsource.event) returns void language plpgsql as $$
begin
    insert into seen (what) values ('acts on ' || e.type || ' ' || e.stream);
    if e.type = 'Placed' then
        perform evsource.append('invoice-' || split_part(e.stream, '-', 2), 'Invoiced', expected_version => 0);
        insert into seen (what) values ('has appended an invoice');
    elsif e.type = 'Invoiced' then
        insert into evsource.events (stream, type)
            values ('ledger', 'Posted'), (e.stream, 'Filed'), ('ledger', 'Posted');
        insert into seen (what) values ('has inserted three');
    end if;
end
$$;
create function watch(e evsource.event[]) returns void language plpgsql as $$
begin
    insert into seen (what)
        select 'watches ' || string_agg(type || ' ' || stream, ', ' order by n)
        from unnest(e) with ordinality as x (p, stream, version, type, data, metadata, id, occurred_at, recorded_at, n);
end
$$;
select evsource.create_projection('a', 'act'), evsource.create_projection('b', 'watch');
select version from evsource.append('order-1', 'Placed');
select what from seen order by id;
select stream, version, type from evsource.events order by position;

-- What the handlers of one batch append makes one batch.
truncate seen;
insert into evsource.events (stream, type) values ('order-2', 'Placed'), ('order-3', 'Placed');
select what from seen order by id;

-- An error at any depth takes everything with it, the first append included.
create function refuse(e evsource.event) returns void language plpgsql as $$
begin
    raise exception 'ledger is closed';
end
$$;
select evsource.create_projection('c', 'refuse', categories => '{ledger}', start => 'now');
truncate seen;
select version from evsource.append('order-4', 'Placed');
do $$
begin
    begin
        perform evsource.append('order-4', 'Placed');
    exception when raise_exception then
        raise warning 'caught: %', sqlerrm;
    end;
    perform evsource.append('order-5', 'Returned');
end
$$;
select what from seen order by id;
select stream, version, type from evsource.events where stream in ('order-4', 'invoice-4', 'order-5');
select evsource.drop_projection(p) from unnest('{a,b,c}'::text[]) p;

-- What a handler takes back is not dispatched; what it keeps is.
create function hesitate(e evsource.event) returns void language plpgsql as $$
begin
    perform evsource.append('note-1', 'First');
    begin
        perform evsource.append('note-1', 'Taken back');
        begin
            perform evsource.append('note-1', 'Taken back too');
        exception when division_by_zero then
            null;
        end;
        perform 1 / 0;
    exception when division_by_zero then
        null;
    end;
    begin
        begin
            perform evsource.append('note-1', 'Kept');
        exception when division_by_zero then
            null;
        end;
        begin
            perform evsource.append('note-1', 'Never');
            perform 1 / 0;
        exception when division_by_zero then
            null;
        end;
    exception when division_by_zero then
        null;
    end;
    perform evsource.append('note-1', 'Last');
end
$$;
truncate seen;
select evsource.create_projection('hesitate', 'hesitate', categories => '{thought}'),
       evsource.create_projection('watch', 'watch', categories => '{note}');
select version from evsource.append('thought-1', 'T');
select what from seen order by id;
select version, type from evsource.events where stream = 'note-1' order by version;

-- The same append again, after one that failed half way.
create function falter(e evsource.event) returns void language plpgsql as $$
begin
    perform evsource.append('note-1', 'Before the fall');
    perform 1 / 0;
end
$$;
select evsource.create_projection('z', 'falter', categories => '{thought}', types => '{Bad}', start => 'now');
truncate seen;
begin;
select version from evsource.append('note-1', 'By the client');
savepoint s;
select version from evsource.append('thought-1', 'Bad');
rollback to s;
select version from evsource.append('thought-1', 'Good');
commit;
select what from seen order by id;
select evsource.drop_projection(p) from unnest('{hesitate,watch,z}'::text[]) p;

-- A circle of handlers ends at the limit, with an error and without a trace.
create function ping(e evsource.event) returns void language sql as
$$select evsource.append('pong', 'Pong', jsonb_build_object('n', ((e).data ->> 'n')::int + 1))$$;
create function pong(e evsource.event) returns void language sql as
$$select evsource.append('ping', 'Ping', jsonb_build_object('n', ((e).data ->> 'n')::int + 1))$$;
create function ping_until_7(e evsource.event) returns void language sql as
$$select evsource.append('pong', 'Pong', jsonb_build_object('n', ((e).data ->> 'n')::int + 1)) where ((e).data ->> 'n')::int < 7$$;
select evsource.create_projection('ping', 'ping', categories => '{ping}'),
       evsource.create_projection('pong', 'pong', categories => '{pong}');
show evsource.max_dispatch_depth;
select version from evsource.append('ping', 'Ping', '{"n": 0}');
\echo :LAST_ERROR_SQLSTATE
set evsource.max_dispatch_depth = 2;
select version from evsource.append('ping', 'Ping', '{"n": 0}');
select count(*) from evsource.events where type in ('Ping', 'Pong');
-- a circle that ends by itself needs its depth
select evsource.alter_projection('ping', 'ping_until_7');
set evsource.max_dispatch_depth = 7;
select version from evsource.append('ping', 'Ping', '{"n": 0}');
set evsource.max_dispatch_depth = 8;
select version from evsource.append('ping', 'Ping', '{"n": 0}');
select stream, version, data from evsource.events where type in ('Ping', 'Pong') order by position;
-- the limit of the client counts, and can be caught by a handler
create function ping_if_allowed(e evsource.event) returns void language plpgsql as $$
begin
    perform evsource.append('pong', 'Pong', '{"n": 0}');
exception when statement_too_complex then
    insert into seen (what) values ('not allowed');
end
$$;
select evsource.alter_projection('ping', 'ping_if_allowed');
truncate seen;
set evsource.max_dispatch_depth = 0;
select version from evsource.append('ping', 'Ping', '{"n": 0}');
select what from seen;
-- where nobody listens, nothing deepens
select evsource.drop_projection('pong');
truncate seen;
select version from evsource.append('ping', 'Ping', '{"n": 0}');
select count(*) from seen;
reset evsource.max_dispatch_depth;
select evsource.drop_projection('ping');

-- run_projection: what an async handler appends reaches the inline projections.
create function echo(e evsource.event) returns void language plpgsql as $$
begin
    insert into seen (what) values ('echoes ' || e.type);
    perform evsource.append('echo-1', 'Echo of ' || e.type);
end
$$;
select evsource.create_projection('echo', 'echo', mode => 'async', categories => '{call}'),
       evsource.create_projection('watch', 'watch', categories => '{echo}');
insert into evsource.events (stream, type) values ('call-1', 'Hello'), ('call-1', 'World');
truncate seen;
select evsource.run_projection('echo');
select what from seen order by id;
select evsource.drop_projection('echo'), evsource.drop_projection('watch');

-- Many events from many handlers, with a long wait in between: order holds.
create table positions (id bigint generated always as identity, n bigint);
create function many(e evsource.event) returns void language plpgsql as $$
begin
    perform evsource.append_batch('many-' || e.version % 7, array_fill('T'::text, array[3]), array_fill('{}'::jsonb, array[3]));
end
$$;
select evsource.create_projection('many', 'many', categories => '{seed}'),
       evsource.create_projection('positions', query => 'insert into positions (n) select position from new_events', categories => '{many}');
select version from evsource.append_batch('seed-1', array_fill('T'::text, array[2000]), array_fill('{}'::jsonb, array[2000]));
select count(*), count(distinct n) from positions;
select count(*) as out_of_order from (select n < lag(n) over (order by id) as wrong from positions) s where wrong;

-- A handler may change what is not ours: tables, functions, itself.
create function restless(e evsource.event) returns void language plpgsql as $$
begin
    create table shop.made_by_handler (n int);
    insert into shop.made_by_handler values (1);
    drop table shop.made_by_handler;
    create or replace function shop.restless(e evsource.event) returns void language plpgsql as
        'begin insert into shop.seen (what) values (''calm''); end';
    insert into seen (what) values ('restless');
end
$$;
truncate seen;
select evsource.create_projection('restless', 'restless', categories => '{restless}');
select count(*) from evsource.append('restless-1', 'T');
select count(*) from evsource.append('restless-1', 'T');
select what from seen order by id;
-- ... but not which projections there are.
create function ambitious(e evsource.event) returns void language plpgsql as $$
begin
    perform evsource.create_projection('another', 'shop.ambitious');
end
$$;
select evsource.create_projection('ambitious', 'ambitious', categories => '{restless}', start => 'now');
select count(*) from evsource.append('restless-1', 'T');
\echo :LAST_ERROR_SQLSTATE

\c :home
drop database evsource_dispatch_nested;
