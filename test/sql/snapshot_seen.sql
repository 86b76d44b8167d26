-- A snapshot knows how far its stream was looked at: events of types that are not
-- the projection's are not read again and again.

create function seen_last(s jsonb, e evsource.event) returns jsonb language sql immutable as $$ select s || (e).data $$;
create function seen_other(stream text, count int) returns bigint language sql as
    $$ select version from evsource.append_batch(stream, array_fill('Other'::text, array[count]), array_fill('{}'::jsonb, array[count])) $$;
select evsource.create_projection('seen', 'seen_last', categories => '{seen}', types => '{Rare}', snapshot_every => 10, keep_snapshots => 2);
create view seen_rows as
    select key, version, event_count, seen_version,
        seen_position = (select position from evsource.events e where e.stream = key and e.version = seen_version) as at_it
    from evsource.snapshots where projection = 'seen' order by key;

-- an event of the projection's in a long stream
select seen_other('seen-1', 25);
select version from evsource.append('seen-1', 'Rare', '{"a": 1}');
select * from seen_rows;
-- none for long: whoever asks for the state saves how far it is good
select seen_other('seen-1', 9);
select state, version, event_count from evsource.load_state('seen', 'seen-1');
select * from seen_rows;
select seen_other('seen-1', 30);
select state, version, event_count from evsource.load_state('seen', 'seen-1');
select * from seen_rows;
select state, version, event_count from evsource.load_state('seen', 'seen-1');
-- the next one is not far from there
select version from evsource.append('seen-1', 'Rare', '{"b": 2}');
select * from seen_rows;
select evsource.save_snapshot('seen', 'seen-1'), evsource.save_snapshot('seen', 'seen-1');
select * from seen_rows;
select evsource.has_snapshot('seen', 'seen-1');
select seen_version from evsource.snapshot_metadata where projection = 'seen';

-- of the past: before the last event, between it and what was seen, after that
select seen_other('seen-1', 20);
select evsource.save_snapshot('seen');
select seen_version, seen_position is not null as at from evsource.load_snapshot('seen', 'seen-1');
select v, evsource.state_at_version('seen', 'seen-1', v) from unnest('{25,26,65,66,67,70,86}'::bigint[]) v;
select evsource.state_at_version('seen', 'seen-1', 87);
select evsource.state_at_time('seen', 'seen-1', 'infinity');

-- what is not true of its last event is not believed for what it has seen after that
update evsource.snapshots set version = version + 1, state = '{}' where projection = 'seen' and key = 'seen-1';
\c
set client_min_messages = error;
select state, version, event_count from evsource.load_state('seen', 'seen-1');
select reason, key from evsource.snapshot_rejections where projection = 'seen';
select evsource.restore_projection('seen');
select * from seen_rows;

-- by what others know: a new session, and events that are gone
\c
select evsource.state('seen', 'seen-1');
select seen_other('seen-1', 3);
select state, version from evsource.load_state('seen', 'seen-1');
select evsource.truncate_stream('seen-1', 70);
select state, version, event_count from evsource.load_state('seen', 'seen-1');
select version from evsource.append('seen-1', 'Rare', '{"c": 3}');
select state, version, event_count from evsource.load_state('seen', 'seen-1');
select evsource.save_snapshot('seen', 'seen-1') is not null as saved;
select * from seen_rows;
\c
select state, version, event_count from evsource.load_state('seen', 'seen-1');
-- all but the last, and what is left then is not the projection's
select seen_other('seen-1', 1);
select evsource.truncate_stream('seen-1', 91, force => true);
select state, version, event_count from evsource.load_state('seen', 'seen-1');
select evsource.save_snapshot('seen', 'seen-1') is not null as saved;
select seen_other('seen-1', 15);
select state, version, event_count from evsource.load_state('seen', 'seen-1');
\c
select state, version, event_count from evsource.load_state('seen', 'seen-1');

-- a stream of nothing but other events has no state to save
select seen_other('seen-2', 30);
select state, version, event_count from evsource.load_state('seen', 'seen-2');
select evsource.save_snapshot('seen', 'seen-2');

select evsource.drop_projection('seen', force => true);
drop view seen_rows;
drop function seen_last, seen_other;
