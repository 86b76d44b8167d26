-- edits.sql: what test/data/edits needs: the documents, a fold, and how they are appended and looked at.

create table work as
    select line ->> 'stream' as stream, row_number() over (partition by line ->> 'stream' order by n) as version, n,
        line ->> 'type' as type, line -> 'data' as data, line -> 'metadata' as metadata,
        (line ->> 'time')::timestamptz as occurred_at
    from lines;
alter table work add primary key (stream, version);
create table documents as
    select stream, min(n) as first, count(*) as length from work group by stream;
analyze work;

-- The text is kept in pieces, and the one of the last edit apart: most edits are in
-- it, and leave the others alone. An edit elsewhere puts it back (at i, where its
-- place is kept) and takes out another. An edit must not cost what the whole text
-- does: what is left to fold when a state is loaded are up to a hundred of them.
create function edit(state jsonb, e evsource.event) returns jsonb
    language plpgsql immutable
    as $$
declare
    pos constant int := e.data ->> 'pos';
    len constant int := coalesce(e.data ->> 'len', '0');
    more constant text := coalesce(e.data ->> 'text', '');
    before constant int := coalesce(state ->> 'before', '0');
    near text := coalesce(state ->> 'near', '');
begin
    if pos >= before and pos - before + len <= length(near) and length(near) + length(more) <= 1500 then
        near := left(near, pos - before) || more || substr(near, pos - before + len + 1);
        return state || jsonb_build_object('near', near);
    end if;
    return public.edit_elsewhere(state, pos, len, more);
end
$$;
create function edit_elsewhere(state jsonb, pos int, len int, more text) returns jsonb
    language plpgsql immutable
    as $$
declare
    i int := coalesce(state ->> 'i', '0');
    near text := coalesce(state ->> 'near', '');
    before int := 0;
    length int;
begin
    state := '{"pieces": [""], "lengths": [0]}' || state;
    state := jsonb_set(jsonb_set(state, array['pieces', i::text], to_jsonb(near)), array['lengths', i::text], to_jsonb(length(near)));

    -- the piece in which it begins, and those over which it goes on
    i := 0;
    loop
        length := state #>> array['lengths', i::text];
        exit when pos <= before + length;
        before := before + length;
        i := i + 1;
    end loop;
    near := state #>> array['pieces', i::text];
    while pos + len > before + length(near) loop
        near := near || (state #>> array['pieces', (i + 1)::text]);
        state := state #- array['pieces', (i + 1)::text] #- array['lengths', (i + 1)::text];
    end loop;
    near := left(near, pos - before) || more || substr(near, pos - before + len + 1);

    -- what is too long is cut, from its end on
    while length(near) > 1000 loop
        state := jsonb_insert(jsonb_insert(state, array['pieces', i::text], to_jsonb(right(near, 500)), true),
            array['lengths', i::text], '500', true);
        near := left(near, -500);
    end loop;
    return jsonb_set(jsonb_set(state, array['pieces', i::text], '""'), array['lengths', i::text], '0')
        || jsonb_build_object('i', i, 'before', before, 'near', near);
end
$$;
create function document(state jsonb) returns text
    language sql immutable
    as $$
select coalesce((
    select string_agg(case n - 1 when (state ->> 'i')::int then state ->> 'near' else piece end, '' order by n)
    from jsonb_array_elements_text(state -> 'pieces') with ordinality p (piece, n)), state ->> 'near')
$$;
select evsource.create_projection('document', 'edit');

-- Edits of one txn are one transaction, as they were when they were made.
create procedure append_upto(stream text, upto bigint)
    language plpgsql
    as $$
declare
    edits record;
begin
    for edits in
        select array_agg(w.type order by w.version) as types, array_agg(w.data order by w.version) as data,
            array_agg(w.metadata order by w.version) as metadata, array_agg(w.occurred_at order by w.version) as occurred_at,
            min(w.version) as first
        from public.work w
        where w.stream = append_upto.stream and w.version <= upto
            and w.version > evsource.stream_version(append_upto.stream)
        group by w.metadata ->> 'txn'
        order by min(w.version)
    loop
        perform evsource.append_batch(append_upto.stream, edits.types, edits.data, edits.metadata,
            edits.first - 1, occurred_at => edits.occurred_at);
        commit;
    end loop;
end
$$;

-- A session that has done nothing else asks for the state, and once more.
create table looks (
    version    bigint not null,
    attempt    int not null,
    fresh      double precision not null,   -- milliseconds
    again      double precision not null,
    snapshot   bigint not null,             -- its version
    live       bigint not null,             -- bytes of the states
    compressed bigint not null,             -- as they are saved
    stored     bigint not null              -- bytes that the snapshots take
);
-- Milliseconds that this session did not wait for a processor: what it waits when the
-- machine has other things to do, is not the state's (Linux tells; elsewhere it counts).
create function busy() returns double precision
    language sql
    as $$
select extract(epoch from clock_timestamp()) * 1000
    - coalesce(split_part(pg_read_file('/proc/self/schedstat', 0, 100, true), ' ', 2)::double precision, 0) / 1000000
$$;
create procedure look(attempt int)
    language plpgsql
    as $$
declare
    stream constant text := 'doc-automerge-paper';
    t0 double precision := busy();
    t1 double precision;
    t2 double precision;
begin
    perform evsource.state('document', stream);
    t1 := busy();
    perform evsource.state('document', stream);
    t2 := busy();
    insert into looks
        select evsource.stream_version(stream), attempt, t1 - t0, t2 - t1,
            (select version from evsource.load_snapshot('document', stream)),
            (select sum(pg_column_size(state)) from evsource.load_states('document')),
            (select sum(bytes) from evsource.snapshot_metadata),
            pg_total_relation_size('evsource.snapshots') + pg_total_relation_size('evsource.snapshot_parts');
end
$$;

-- The answers of the file that the appended versions have.
create procedure ask_answers(how text)
    language plpgsql
    as $$
declare
    document record;
    asked record;
    text text;
begin
    for document in select stream, evsource.stream_version(stream) as version from documents order by first loop
        for asked in
            select key::bigint as version, 'documents/' || document.stream || '/at_version/' || key || '/' as path
            from answers, jsonb_object_keys(answers #> array['documents', document.stream, 'at_version']) as key
            where key::bigint <= document.version
            union all
            select document.version, 'documents/' || document.stream || '/ending/'
            from answers
            where (answers #>> array['documents', document.stream, 'version'])::bigint = document.version
        loop
            text := document(evsource.state_at_version('document', document.stream, asked.version));
            perform compare(asked.path || 'codepoints', length(text));
            perform compare(asked.path || 'utf8_bytes', octet_length(convert_to(text, 'UTF8')));
            perform compare(asked.path || 'sha256', encode(sha256(convert_to(text, 'UTF8')), 'hex'));
        end loop;
        perform expect(document.stream || ', ' || how || ': every event is in its state',
            (select event_count from evsource.load_state('document', document.stream)), document.version);
    end loop;
end
$$;

-- What an older version of the fold had made: the text under another name.
create function rename_parts(state jsonb, saved int) returns jsonb
    language sql immutable
    as $$ select state || jsonb_build_object('migrated_from', saved) $$;

create procedure ask_other_ways()
    language plpgsql
    as $$
declare
    restores bigint := (select restores from evsource.snapshot_stats where projection = 'document');
begin
    -- without the snapshots that are there
    perform evsource.alter_projection('document', restore_from_snapshot => false);
    call ask_answers('without snapshots');
    -- another state version: they cannot be used ...
    perform evsource.alter_projection('document', restore_from_snapshot => true, state_version => 2);
    call ask_answers('of another state version');
    perform expect('what was rejected shows', (select rejection from evsource.snapshot_status where projection = 'document'),
        'has state version 1, not 2');
    -- ... unless they are brought up
    perform evsource.save_snapshot('document');
    perform evsource.alter_projection('document', state_version => 3, migrate_state => 'rename_parts');
    perform expect('states were migrated', (select count(*) from documents
        where evsource.state('document', stream) ->> 'migrated_from' = '2'), (select count(*) from documents));
    call ask_answers('migrated');
end
$$;
