-- What a session keeps of the states that it has computed: the last ones, and none
-- that would leave no room for others.

select evsource.create_projection('cached', 'evsource.fold_merge', categories => '{cached}', snapshots => 'disabled');
select version from evsource.append_batch('cached-1', '{T,T}', array['{"a": 1}', '{"b": 2}']::jsonb[]);
select count(evsource.append('cached-large', 'T', jsonb_build_object('a', repeat('x', 80000))));
select count(evsource.append('cached-middle', 'T', jsonb_build_object('a', repeat('x', 20000))));
\c
set evsource.state_cache_size = 100;
select evsource.state('cached', 'cached-1');
set client_min_messages = debug1;
select evsource.state('cached', 'cached-1');

-- one that is large is not kept
select length(evsource.state('cached', 'cached-large')::text);
select length(evsource.state('cached', 'cached-large')::text);
select evsource.state('cached', 'cached-1');
-- one that is not so large is kept, too
select length(evsource.state('cached', 'cached-middle')::text);
select length(evsource.state('cached', 'cached-middle')::text);
select evsource.state('cached', 'cached-1');
-- what was kept and has grown goes
set client_min_messages = notice;
select version from evsource.append('cached-middle', 'T', jsonb_build_object('b', repeat('x', 60000)));
set client_min_messages = debug1;
select length(evsource.state('cached', 'cached-middle')::text);
select evsource.state('cached', 'cached-1');

-- streams that do not exist take no room
set client_min_messages = notice;
select count(*) from generate_series(1, 2000) i, lateral evsource.load_state('cached', 'cached-none-' || i) l where l.event_count = 0;
set client_min_messages = debug1;
select evsource.state('cached', 'cached-1');
set client_min_messages = notice;

select evsource.drop_projection('cached');
