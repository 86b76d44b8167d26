-- dispatch: how each kind of handler is called, with what, in which order, and
-- what becomes of an append when it fails.

-- A log of its own: positions are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_dispatch;
create database evsource_dispatch;
\c evsource_dispatch
create extension evsource;

create schema shop;
set search_path = shop;
create table seen (id bigint generated always as identity, what text);

-- All kinds, by name; every one is through with the batch before the next.
create function by_event(e evsource.event) returns void language plpgsql as $$
begin
    insert into seen (what) values (format('event %s@%s %s', e.stream, e.version, e.type));
end
$$;
create function by_event_sql(e evsource.event) returns void language sql as
$$insert into seen (what) values (format('sql %s@%s %s', (e).stream, (e).version, (e).type))$$;
create function by_batch(e evsource.event[]) returns void language plpgsql as $$
begin
    insert into seen (what) values (format('batch of %s, %s to %s, %s', cardinality(e),
        e[1].position, e[cardinality(e)].position, array_ndims(e)));
end
$$;
select evsource.create_projection('c_batch', 'by_batch');
select evsource.create_projection('a_event', 'by_event');
select evsource.create_projection('d_query',
    query => $$insert into seen (what)
        select 'query ' || string_agg(stream || '@' || version, ' ' order by position) from new_events$$);
select evsource.create_projection('b_event', 'by_event_sql');
select evsource.create_projection('e_fold', 'evsource.fold_count');
select evsource.create_projection('f_nothing', 'evsource._noop');

select version from evsource.append('order-1', 'Placed');
select what from seen order by id;
truncate seen;
select version from evsource.append_batch('order-1', '{Paid,Shipped}', '{"{}","{}"}');
select what from seen order by id;

-- INSERT and COPY are appends: a statement is a batch.
truncate seen;
insert into evsource.events (stream, type) values ('order-2', 'Placed'), ('order-3', 'Placed'), ('order-2', 'Paid');
select what from seen order by id;
truncate seen;
copy evsource.events (stream, type) from stdin;
order-3	Paid
order-4	Placed
\.
select what from seen order by id;
select state, event_count from evsource.load_state('e_fold', 'order-2');

-- The filter decides who gets what; a batch of which nothing passes calls nobody.
select evsource.drop_projection(projection) from evsource.projections where projection <> 'a_event';
select evsource.create_projection('some', query =>
    $$insert into seen (what) select 'some ' || string_agg(stream || ' ' || type, ', ' order by position) from new_events$$,
    categories => '{order,refund}', types => '{Paid,Repaid}', start => 'now');
truncate seen;
insert into evsource.events (stream, type) values ('order-1', 'Paid'), ('account-1', 'Paid'), ('refund', 'Repaid'), ('order-1', 'Placed');
insert into evsource.events (stream, type) values ('order-1', 'Placed'), ('orders-1', 'Paid');
select what from seen where what like 'some%' order by id;
select evsource.drop_projection('some'), evsource.drop_projection('a_event');

-- A handler gets what a reader gets: no nulls, computed ids, whatever its kind.
create table got (via text, event evsource.event);
create function get_event(e evsource.event) returns void language plpgsql as
$$begin insert into got values ('event', e); end$$;
create function get_batch(e evsource.event[]) returns void language sql as
$$insert into got select 'batch', x from unnest(e) x$$;
select evsource.create_projection('e', 'get_event', start => 'now'),
       evsource.create_projection('b', 'get_batch', start => 'now'),
       evsource.create_projection('q', query => $$insert into got select 'query', row(x.*)::evsource.event from new_events x$$, start => 'now');
select count(*) from evsource.append('order-5', 'Placed');
select count(*) from evsource.append('order-5', 'Paid', '[1, "two", null]', '{"by": "me"}',
    id => '018f0000-0000-4000-8000-000000000001', occurred_at => '2020-02-20');
-- a name and data that need headers of four bytes, beside an empty text
select count(*) from evsource.append('order-' || repeat('x', 500), 'T', jsonb_build_object('long', repeat('long ', 5000)));
select count(*) from evsource.append('x', 'T', to_jsonb(''::text));
insert into evsource.events (stream, type, data, metadata)
    select 'order-6', 'T', to_jsonb(repeat('d', i)), jsonb_build_object('m', repeat('m', 140 - i))
    from generate_series(1, 140) i;
select via, count(*) from got group by via order by via;
select count(*) from got g, evsource.read_all() r where r = g.event and r::text = g.event::text;
select (event).data, (event).metadata, (event).id, (event).occurred_at at time zone 'UTC' as occurred_at
    from got where (event).type = 'Paid' group by event;
select evsource.drop_projection(p) from unnest('{e,b,q}'::text[]) p;
drop table got;

-- A batch handler is given at most 1000 events at once; a query all of them.
create table sizes (via text, n bigint, ascending boolean);
create function batch_size(e evsource.event[]) returns void language sql as
$$insert into sizes select 'batch', count(*), bool_and(p >= i) from (select (x).position as p, row_number() over (order by (x).position) as i from unnest(e) x) s$$;
create function event_order(e evsource.event) returns void language plpgsql as $$
begin
    update sizes set n = e.position, ascending = ascending and n < e.position where via = 'event';
end
$$;
insert into sizes values ('event', 0, true);
select evsource.create_projection('batch', 'batch_size', start => 'now'),
       evsource.create_projection('event', 'event_order', start => 'now'),
       evsource.create_projection('query', query => $$insert into sizes select 'query', count(*), true from new_events$$, start => 'now');
select first_version, version from evsource.append_batch('big-1', array_fill('T'::text, array[2500]),
    array(select to_jsonb(i) from generate_series(1, 2500) i));
select via, n from sizes where via <> 'event' order by via, n;
select ascending from sizes where via = 'event';
select evsource.drop_projection(p) from unnest('{batch,event,query}'::text[]) p;

-- An error in a handler aborts the append, and says where it happened.
create function picky(e evsource.event) returns void language plpgsql as $$
begin
    if e.data ->> 'amount' = 'bad' then
        raise exception 'no such amount' using errcode = '22023';
    end if;
    insert into seen (what) values ('picky ' || (e.data ->> 'amount'));
end
$$;
create function picky_batch(e evsource.event[]) returns void language plpgsql as $$
begin
    perform picky(x) from unnest(e) x;
end
$$;
truncate seen;
select evsource.create_projection('picky', 'picky', categories => '{pay}');
select version from evsource.append('pay-1', 'Paid', '{"amount": 1}');
select version from evsource.append_batch('pay-1', '{Paid,Paid,Paid}', '{"{\"amount\": 2}","{\"amount\": \"bad\"}","{\"amount\": 3}"}');
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (stream, type, data) values ('pay-1', 'Paid', '{"amount": 2}'), ('pay-1', 'Paid', '{"amount": "bad"}');
select evsource.drop_projection('picky');
select evsource.create_projection('picky', 'picky_batch', categories => '{pay}', start => 'now');
select version from evsource.append_batch('pay-1', '{Paid,Paid}', '{"{\"amount\": 2}","{\"amount\": \"bad\"}"}');
select evsource.drop_projection('picky');
select evsource.create_projection('picky', query => $$insert into seen (what) select 1 / (data ->> 'amount')::int from new_events$$,
    categories => '{pay}', start => 'now');
select version from evsource.append_batch('pay-1', '{Paid,Paid}', '{"{\"amount\": 1}","{\"amount\": 0}"}');
select version from evsource.append('pay-1', 'Paid', '{"amount": 0}');
select evsource.drop_projection('picky');
-- ... and leaves nothing.
select stream, version, data from evsource.events where stream like 'pay-%';
select what from seen order by id;

-- The same inside a savepoint, and inside a block that catches the error.
select evsource.create_projection('picky', 'picky', categories => '{pay}', start => 'now');
begin;
select version from evsource.append('pay-1', 'Paid', '{"amount": 2}');
savepoint s;
select version from evsource.append('pay-1', 'Paid', '{"amount": "bad"}');
rollback to s;
select version from evsource.append('pay-1', 'Paid', '{"amount": 3}');
savepoint t;
select version from evsource.append('pay-1', 'Paid', '{"amount": 4}');
rollback to t;
select version from evsource.append('pay-1', 'Paid', '{"amount": 5}');
commit;
do $$
begin
    for i in 6 .. 9 loop
        begin
            perform evsource.append('pay-1', 'Paid', jsonb_build_object('amount', i));
            if i % 2 = 0 then
                perform evsource.append('pay-1', 'Paid', '{"amount": "bad"}');
            end if;
        exception when invalid_parameter_value then
            null;
        end;
    end loop;
end
$$;
select version, data -> 'amount' as amount from evsource.events where stream = 'pay-1' order by version;
select what from seen order by id;
select evsource.drop_projection('picky');

-- Handlers see what their transaction has done, the batch's events included.
create function look(e evsource.event) returns void language plpgsql as $$
begin
    insert into seen (what) values (format('%s events of %s are stored, %s rows of seen',
        (select count(*) from evsource.events where stream = e.stream), e.stream, (select count(*) from seen)));
end
$$;
truncate seen;
select evsource.create_projection('look', 'look', start => 'now');
begin;
insert into seen (what) values ('by the transaction');
insert into evsource.events (stream, type) values ('look-1', 'T'), ('look-1', 'T');
select version from evsource.append('look-1', 'T');
commit;
select what from seen order by id;
select evsource.drop_projection('look');

-- A projection is there for the next append of the transaction that makes it,
-- and gone with the transaction or savepoint that made it.
truncate seen;
begin;
select evsource.create_projection('mine', 'by_event', start => 'now');
select version from evsource.append('mine-1', 'T1');
savepoint s;
select evsource.drop_projection('mine');
select version from evsource.append('mine-1', 'T2');
rollback to s;
select version from evsource.append('mine-1', 'T3');
savepoint s;
select evsource.create_projection('mine_too', 'by_event_sql', start => 'now');
select version from evsource.append('mine-1', 'T4');
release s;
select version from evsource.append('mine-1', 'T5');
select what from seen order by id;
rollback;
select count(*) from evsource.projections;
select version from evsource.append('mine-1', 'T6');
select what from seen order by id;
do $$
begin
    begin
        perform evsource.create_projection('mine', 'by_event', start => 'now');
        perform evsource.append('mine-1', 'T7');
        raise exception 'never mind';
    exception when raise_exception then
        null;
    end;
    perform evsource.append('mine-1', 'T8');
end
$$;
select what from seen order by id;

-- Whoever changes the table of projections, the next append knows.
select evsource.create_projection('mine', 'by_event', start => 'now');
select version from evsource.append('mine-1', 'T9');
update evsource.projections set state = 'paused';
select version from evsource.append('mine-1', 'T10');
update evsource.projections set state = 'active';
select version from evsource.append('mine-1', 'T11');
begin;
truncate evsource.projections;
select version from evsource.append('mine-1', 'T12');
rollback;
select version from evsource.append('mine-1', 'T13');
select what from seen order by id;

-- A new body of the handler is what runs next.
create or replace function by_event(e evsource.event) returns void language plpgsql as
$$begin insert into seen (what) values ('anew'); end$$;
truncate seen;
select version from evsource.append('mine-1', 'T14');
begin;
create or replace function by_event(e evsource.event) returns void language sql as
$$insert into seen (what) values ('not for long')$$;
select version from evsource.append('mine-1', 'T15');
select what from seen order by id;
rollback;
select version from evsource.append('mine-1', 'T16');
select what from seen order by id;
select evsource.drop_projection('mine');

-- A query's plan follows the table that it fills, and the size of the batch.
create table totals (stream text primary key, n bigint);
select evsource.create_projection('totals', query => $$
    insert into totals as t select stream, count(*) from new_events group by stream
    on conflict (stream) do update set n = t.n + excluded.n$$, categories => '{total}');
insert into evsource.events (stream, type) select 'total-' || i % 3, 'T' from generate_series(1, 7) i;
insert into evsource.events (stream, type) select 'total-' || i % 3, 'T' from generate_series(1, 700) i;
alter table totals add column note text default 'added';
select count(*) from evsource.append('total-1', 'T');
select * from totals order by stream;
drop table totals;
select count(*) from evsource.append('total-1', 'T');
\echo :LAST_ERROR_SQLSTATE
create table totals (n numeric, stream text unique, comment text);
alter table totals rename to totals_2;
create table totals (n numeric, extra int, stream varchar unique);
\set VERBOSITY sqlstate
select count(*) from evsource.append('total-1', 'T');
\set VERBOSITY default
drop table totals, totals_2;
create table totals (stream text primary key, n bigint, extra int default 7);
select count(*) from evsource.append('total-1', 'T');
select * from totals order by stream;
select evsource.drop_projection('totals');

-- What a statement leaves as its result is nobody's business; a query of several
-- parts is one statement.
create table parts (what text);
create function put_part(what text) returns text language sql as
$$insert into parts values (what) returning what$$;
select evsource.create_projection('parts', query => $$
    with moved as (insert into parts select type from new_events returning what)
    select put_part('again ' || what) from moved$$, start => 'now');
select count(*) from evsource.append('part-1', 'T');
select what from parts order by what;
select evsource.drop_projection('parts');

-- A handler that is gone all the same is named, and so is one that has changed.
create function fleeting(e evsource.event) returns void language sql as '';
create function fleeting_batch(e evsource.event[]) returns void language sql as '';
select evsource.create_projection('fleeting', 'fleeting', start => 'now');
select count(*) from evsource.append('gone-1', 'T');
update evsource.projections set handler = 'shop.nowhere(evsource.event)';
select count(*) from evsource.append('gone-1', 'T');
\echo :LAST_ERROR_SQLSTATE
update evsource.projections set handler = 'nowhere.fleeting(evsource.event)';
select count(*) from evsource.append('gone-1', 'T');
update evsource.projections set kind = 'batch', handler = 'shop.fleeting(evsource.event)';
select count(*) from evsource.append('gone-1', 'T');
update evsource.projections set kind = 'batch', handler = 'shop.fleeting_batch(evsource.event[])';
select count(*) from evsource.append('gone-1', 'T');
create function returns_a_set(e evsource.event) returns setof void language sql as '';
create function returns_text(e evsource.event) returns text language sql as $$select ''$$;
update evsource.projections set kind = 'event', handler = 'shop.returns_a_set(evsource.event)';
select count(*) from evsource.append('gone-1', 'T');
update evsource.projections set handler = 'shop.returns_text(evsource.event)';
select count(*) from evsource.append('gone-1', 'T');
\echo :LAST_ERROR_SQLSTATE
-- quoted names are names, whatever is in them
create schema "Shop (old)";
create function "Shop (old)"."handle; drop (it).x"(e evsource.event) returns void language sql as
$$insert into shop.seen (what) values ('quoted')$$;
truncate seen;
update evsource.projections set handler = format('%s', '"Shop (old)"."handle; drop (it).x"(evsource.event)'::regprocedure);
select handler from evsource.projections;
select count(*) from evsource.append('gone-1', 'T');
select what from seen;
-- a handler whose schema has got another name is found again when it has its own
alter schema "Shop (old)" rename to "Shop";
select count(*) from evsource.append('gone-1', 'T');
alter schema "Shop" rename to "Shop (old)";
select count(*) from evsource.append('gone-1', 'T');

-- A row that no registration would have written stops the appends, not the server.
update evsource.projections set handler = null;
select count(*) from evsource.append('gone-1', 'T');
update evsource.projections set kind = 'sketch';
select count(*) from evsource.append('gone-1', 'T');
select count(*) from evsource.events where stream = 'gone-1';
delete from evsource.projections;
select version from evsource.append('gone-1', 'T');

-- A relation of the reader's own that is called new_events does not get between.
create table new_events (stream text);
create temporary table new_events (stream text);
insert into shop.new_events values ('wrong');
insert into pg_temp.new_events values ('wrong');
truncate seen;
select evsource.create_projection('new', query => $$insert into seen (what) select stream from new_events$$, start => 'now');
select count(*) from evsource.append('right-1', 'T');
select what from seen;
select evsource.drop_projection('new');

\c :home
drop database evsource_dispatch;
