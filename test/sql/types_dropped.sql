-- A version that is dropped has made states and read models of events of the
-- versions before: these are no longer what a replay gives, and say so.

create function dropped_last(s jsonb, e evsource.event) returns jsonb language sql immutable as $$ select s || (e).data $$;
create function dropped_up(d jsonb) returns jsonb language sql immutable as $$ select d || '{"up": true}' $$;
create table dropped_data (data jsonb);
select evsource.create_projection('dropped', 'dropped_last', categories => '{dropped}');
select evsource.create_projection('dropped_rows', query => 'insert into dropped_data select data from new_events', categories => '{dropped}', tables => '{dropped_data}');
select evsource.create_projection('dropped_not', 'dropped_last', categories => '{other}');
-- nothing is stored yet when the upcaster comes
select evsource.define_event_type('DroppedT', 1);
select evsource.define_event_type('DroppedT', 2, upcaster => 'dropped_up');
select version from evsource.append('dropped-1', 'DroppedT', '{"a": 1}', schema_version => 1);
select evsource.save_snapshot('dropped');
select evsource.state('dropped', 'dropped-1'), (select data from dropped_data);

select evsource.drop_event_type('DroppedT', 2);
select data from evsource.read_stream('dropped-1');
select evsource.state('dropped', 'dropped-1');
select projection, stale from evsource.projections where projection like 'dropped%' order by 1;
call evsource.rebuild_projection('dropped_rows');
select data from dropped_data;

-- all at once
select evsource.define_event_type('DroppedT', 2, upcaster => 'dropped_up');
select evsource.state('dropped', 'dropped-1');
call evsource.rebuild_projection('dropped_rows');
select data from dropped_data;
select evsource.drop_event_type('DroppedT');
select evsource.state('dropped', 'dropped-1');
select projection, stale from evsource.projections where projection like 'dropped%' order by 1;

select evsource.drop_projection(projection) from evsource.projections where projection like 'dropped%';
drop table dropped_data;
drop function dropped_last, dropped_up;
