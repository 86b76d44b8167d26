-- is_compatible and migrate_state speak for the handler and the upcasters that
-- there were when they were given: what comes later makes other states.

create function vouched_one(s jsonb, e evsource.event) returns jsonb language sql immutable as
    $$ select s || (e).data || '{"by": 1}' $$;
create function vouched_two(s jsonb, e evsource.event) returns jsonb language sql immutable as
    $$ select s || (e).data || '{"by": 2}' $$;
create function vouched_yes(saved int, now int) returns bool language sql immutable as $$ select true $$;
create function vouched_up(d jsonb) returns jsonb language sql immutable as $$ select d || '{"up": true}' $$;

select evsource.create_projection('vouched', 'vouched_one', categories => '{vouched}');
select version from evsource.append('vouched-1', 'VouchedT', '{"a": 1}');
select evsource.save_snapshot('vouched');
select evsource.alter_projection('vouched', state_version => 2, is_compatible => 'vouched_yes');
select evsource.state('vouched', 'vouched-1');
select outdated, rejection from evsource.snapshot_status where projection = 'vouched';

-- an upcaster that comes later
select evsource.define_event_type('VouchedT', 2, upcaster => 'vouched_up');
select evsource.state('vouched', 'vouched-1');
select evsource.state_at_version('vouched', 'vouched-1', 1);
select outdated, rejection from evsource.snapshot_status where projection = 'vouched';
-- is spoken for when the next state version is given: of what is saved from then on
select evsource.alter_projection('vouched', state_version => 3);
select evsource.state('vouched', 'vouched-1');
select evsource.save_snapshot('vouched');
select evsource.alter_projection('vouched', state_version => 4);
select evsource.state('vouched', 'vouched-1');

-- and a handler
select evsource.alter_projection('vouched', handler => 'vouched_two');
select evsource.state('vouched', 'vouched-1');
select evsource.state_at_version('vouched', 'vouched-1', 1);

-- States that stand for truncated events. Nobody can upcast these again: what
-- they made goes on being what it is.
select evsource.save_snapshot('vouched');
select version from evsource.append('vouched-1', 'VouchedT', '{"b": 2}', schema_version => 2);
select version from evsource.append('vouched-1', 'VouchedT', '{"c": 3}', schema_version => 2);
select evsource.truncate_stream('vouched-1', 2, force => true);
select evsource.clear_snapshots('vouched');
select evsource.state('vouched', 'vouched-1');
create function vouched_up3(d jsonb) returns jsonb language sql immutable as $$ select d || '{"three": true}' $$;
select evsource.define_event_type('VouchedT', 3, upcaster => 'vouched_up3');
select evsource.state('vouched', 'vouched-1');
select version from evsource.append('vouched-1', 'VouchedT', '{"d": 4}', schema_version => 3);

-- another handler, filter or state version would make them useless: it is refused ...
\set VERBOSITY terse
select evsource.alter_projection('vouched', is_compatible => 'vouched_yes', handler => 'vouched_one');
select evsource.alter_projection('vouched', categories => '{vouched,more}');
\set VERBOSITY default
select evsource.create_projection('vouched', 'vouched_two', categories => '{vouched}', state_version => 5, if_exists => 'alter');
-- ... but with a function that says what becomes of them
select evsource.alter_projection('vouched', state_version => 5, handler => 'vouched_one');
select evsource.state('vouched', 'vouched-1');
select state, event_count from evsource.load_state('vouched', 'vouched-1');

select evsource.drop_projection('vouched', force => true);
drop function vouched_one, vouched_two, vouched_yes;
