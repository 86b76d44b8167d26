-- async_upcast: an event that its upcaster cannot take is isolated like one that
-- a handler cannot take.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_async_upcast;
create database evsource_async_upcast;
\c evsource_async_upcast
set client_min_messages = warning;
create extension evsource;
set evsource.async_attempts = 1;

create function to_cents(data jsonb) returns jsonb language plpgsql as $$
begin
    if data ->> 'amount' = 'much' then
        raise exception 'no number: %', data ->> 'amount' using errcode = 'VX001', detail = 'It is a word.', hint = 'Count.';
    end if;
    return jsonb_build_object('cents', (data ->> 'amount')::int * 100);
end
$$;
create table applied (projection text, stream text, version bigint, cents int, n bigserial, primary key (projection, stream, version));
create function by_event(e evsource.event) returns void language plpgsql as $$
begin insert into applied values ('event', e.stream, e.version, (e.data ->> 'cents')::int); end $$;
create function forget() returns void language sql as $$ delete from applied where projection = 'event' $$;
create function by_batch(es evsource.event[]) returns void language plpgsql as $$
begin insert into applied select 'batch', e.stream, e.version, (e.data ->> 'cents')::int from unnest(es) e; end $$;
create function by_fold(state jsonb, e evsource.event) returns jsonb language sql as
$$ select coalesce(state, '[]') || jsonb_build_array(e.data -> 'cents') $$;
create function by_amount(e evsource.event) returns text language sql immutable as $$ select e.data ->> 'cents' $$;

select evsource.create_projection('event', 'by_event', mode => 'async', on_error => 'dead_letter', on_reset => 'forget');
select evsource.create_projection('batch', 'by_batch', mode => 'async', on_error => 'dead_letter');
select evsource.create_projection('fold', 'by_fold', mode => 'async', on_error => 'dead_letter');
select evsource.create_projection('amount', 'by_fold', key => 'by_amount', mode => 'async', on_error => 'dead_letter');
select evsource.create_projection('stop', 'by_fold', mode => 'async');
select evsource.create_projection('query', mode => 'async', on_error => 'dead_letter',
    query => $$insert into applied select 'query', stream, version, (data ->> 'cents')::int from new_events$$);
select count(*) from generate_series(1, 40) i, lateral evsource.append('account-' || i % 4, 'Paid',
    jsonb_build_object('amount', case when i in (17, 33) then to_jsonb('much'::text) else to_jsonb(i) end));
select evsource.define_event_type('Paid', 2, upcaster => 'to_cents');

-- What comes before it is applied; it is parked, with what follows in its stream,
-- also another that cannot be read; the rest goes on. Whose key cannot be known, or
-- who wants to stop, stops there.
\set VERBOSITY default
select evsource.run_projection('event');
\set VERBOSITY terse
select evsource.run_projection();
select projection, state, position, lag, event_count, last_error, last_error_position from evsource.projection_status order by 1;
select position, stream, version, attempts, sqlstate, message, detail, hint from evsource.dead_letters where projection = 'event' order by 1;
select context from evsource.dead_letters where projection = 'event' and attempts > 0;
select projection, count(*), min(position), count(*) filter (where attempts > 0) as failed from evsource.dead_letters group by 1 order by 1;
select projection, stream, count(*), sum(cents), array_agg(version order by n) = array_agg(version order by version) as in_order
from applied group by 1, 2 order by 1, 2;
select projection, position, attempts, sqlstate, message, detail from evsource.projection_failures order by 1;

-- Tried again they keep their places as long as they cannot be read.
select * from evsource.retry_dead_letters('event');
select position, stream, attempts, message from evsource.dead_letters where projection = 'event' and attempts > 0 order by 1;
-- A rebuild parks the same again.
create table before as select projection, position, stream, keys from evsource.dead_letters where projection = 'event';
call evsource.rebuild_projection('event', online => false);
select count(*) from (table before except select projection, position, stream, keys from evsource.dead_letters) d;
select state, position, lag, event_count from evsource.projection_status where projection = 'event';

-- A mended upcaster lets them through, in order.
create or replace function to_cents(data jsonb) returns jsonb language sql as
$$ select jsonb_build_object('cents', case data ->> 'amount' when 'much' then 1 else (data ->> 'amount')::int * 100 end) $$;
select projection, applied, remaining
from (select distinct projection from evsource.dead_letters) p, lateral evsource.retry_dead_letters(projection) order by 1;
select evsource.resume_projection(projection) from evsource.projection_status where state = 'failed';
select count(*) > 0 from (select evsource.run_projection()) r;
select projection, state, lag, event_count, last_error from evsource.projection_status order by 1;
select projection, count(*), sum(cents) from applied group by 1 order by 1;
select stream, bool_and(ok) as in_order
from (select stream, version > lag(version, 1, 0::bigint) over (partition by stream order by n) as ok from applied where projection = 'event') a
group by 1 order by 1;
select count(*) from evsource.dead_letters;

-- An upcaster that fails now and then is no reason to give up, whichever of its calls that is.
create sequence calls;
create function now_and_then(data jsonb) returns jsonb language plpgsql as $$
begin
    if data ? 'never' or nextval('calls') = current_setting('upcast.fails_at')::int then
        raise exception 'not this time';
    end if;
    return data || '{"seen": true}';
end $$;
create table kept (stream text, version bigint, primary key (stream, version));
select count(*) from evsource.append_batch('moody-1', array['Moody', 'Moody', 'Moody'], array['{}', '{"never": true}', '{}']::jsonb[]);
select evsource.create_projection('moody', mode => 'manual', categories => '{moody}', on_error => 'dead_letter', tables => '{kept}',
    query => 'insert into kept select stream, version from new_events');
select evsource.define_event_type('Moody', 2, upcaster => 'now_and_then');
set evsource.async_attempts = 2;
set evsource.async_retry_delay = 0;
create function run_moody(fails_at int) returns text language plpgsql as $$
begin
    perform set_config('upcast.fails_at', fails_at::text, false), setval('calls', 1, false);
    perform evsource.reset_projection('moody');
    delete from kept;
    for i in 1..20 loop
        perform evsource.run_projection('moody');
    end loop;
    return concat_ws(' ', (select string_agg(version::text, ',' order by version) from kept),
        (select string_agg(version || ' ' || sqlstate, ',' order by version) from evsource.dead_letters where projection = 'moody' and attempts > 0),
        (select state from evsource.projection_status where projection = 'moody'));
end $$;
set client_min_messages = error;
select run_moody(n) as outcome, count(*), min(n) from generate_series(0, 30) n group by 1 order by 3;
reset client_min_messages;

\c :home
drop database evsource_async_upcast;
