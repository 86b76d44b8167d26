-- log.sql: what every file says of its events, streams and their order.

-- The log.
create temp view log as
    select row_number() over (order by position) as n, * from evsource.events;

select compare('events', (select count(*) from evsource.events));
select compare('streams', (select count(*) from evsource.streams));
select compare('types', (select count(distinct type) from evsource.events));
select compare('first_time', (select to_char(min(occurred_at), 'YYYY-MM-DD"T"HH24:MI:SS"Z"') from evsource.events));
select compare('last_time', (select to_char(max(occurred_at), 'YYYY-MM-DD"T"HH24:MI:SS"Z"') from evsource.events));
select compare('events_per_type', (select jsonb_object_agg(type, c)
    from (select type, count(*) as c from evsource.read_all(0, 10000000) group by type) as t));
select compare('events_per_year', (select jsonb_object_agg(year, c)
    from (select extract(year from occurred_at)::text as year, count(*) as c from evsource.events group by 1) as t));
select compare('events_without_id', (select count(*) from evsource.events where id is null));

-- Streams.
select compare('longest_streams', (select jsonb_agg(jsonb_build_array(stream, version) order by version desc, stream)
    from (select stream, version from evsource.streams order by version desc, stream limit 5) as s));
select compare('shortest_stream_length', (select min(version) from evsource.streams));
select compare('median_stream_length', (select percentile_disc(0.5) within group (order by version) from evsource.streams));
select compare('streams_of_one_event', (select count(*) from evsource.streams where version = 1));
select expect('a stream''s version is its number of events', (
    select count(*) from evsource.streams as s
    where s.version <> (select count(*) from evsource.events as e where e.stream = s.stream)), 0::bigint);

-- Order: the log is the file, line by line.
select compare('sha256_of_stream_tab_type_newline_in_file_order', (
    select encode(sha256(convert_to(string_agg(stream || e'\t' || type || e'\n', '' order by position), 'UTF8')), 'hex')
    from evsource.read_all(0, 10000000)));
select expect('a category of all streams reads as the log', (
    select count(*) from (select row_number() over () as n, * from evsource.read_category(:'category', 0, 10000000)) as c
    full join log on log.position = c.position where log.n is distinct from c.n), 0::bigint);
select compare('events_earlier_than_a_previous_event_of_the_file', (
    select count(*) from (select occurred_at < max(occurred_at) over (order by position) as earlier from evsource.events) as e
    where earlier));
create temp view earlier as
    select stream from (
        select stream, occurred_at < max(occurred_at) over (partition by stream order by version) as earlier
        from evsource.events) as e
    where earlier;
select compare('events_earlier_than_a_previous_event_of_their_stream', (select count(*) from earlier));
select compare('streams_with_such_events', (select count(distinct stream) from earlier));
