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
    folded     bigint not null,             -- events, by the first
    folded_again bigint not null,
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
-- Events that this transaction has folded so far.
create function folded() returns bigint
    language sql
    as $$ select coalesce(pg_stat_get_xact_function_calls('edit(jsonb, evsource.event)'::regprocedure), 0) $$;
create procedure look(attempt int)
    language plpgsql
    as $$
declare
    stream constant text := 'doc-automerge-paper';
    t0 double precision;
    t1 double precision;
    t2 double precision;
    snapshot constant bigint := (select version from evsource.load_snapshot('document', stream));
    n1 bigint;
    n2 bigint;
begin
    t0 := busy();
    perform evsource.state('document', stream);
    t1 := busy();
    n1 := folded();
    perform evsource.state('document', stream);
    t2 := busy();
    n2 := folded() - n1;
    insert into looks
        select evsource.stream_version(stream), attempt, t1 - t0, t2 - t1, n1, n2, snapshot,
            (select sum(pg_column_size(state)) from evsource.load_states('document')),
            (select sum(bytes) from evsource.snapshot_metadata),
            pg_total_relation_size('evsource.snapshots') + pg_total_relation_size('evsource.snapshot_parts');
end
$$;

-- The versions that the file has answers of, and where they are in it.
create view answered as
    select d.stream, key::bigint as version, 'documents/' || d.stream || '/at_version/' || key || '/' as path
    from documents d, answers a, jsonb_object_keys(a.answers #> array['documents', d.stream, 'at_version']) as key;

create function compare_text(path text, text text) returns void
    language plpgsql
    as $$
begin
    perform compare(path || 'codepoints', length(text));
    perform compare(path || 'utf8_bytes', octet_length(convert_to(text, 'UTF8')));
    perform compare(path || 'sha256', encode(sha256(convert_to(text, 'UTF8')), 'hex'));
end
$$;

-- The state of a version just behind the end, and some after kept snapshots: from the
-- nearest one and the events after it, which are counted.
create table past (stream text not null, version bigint not null, sha256 bytea not null, primary key (stream, version));
create procedure ask_past(stream text, answered bigint)
    language plpgsql
    as $$
declare
    asked bigint;
    nearest bigint;
    before bigint;
    text text;
begin
    call public.append_upto(stream, answered - 500);
    perform evsource.alter_projection('document', keep_snapshots => 4);
    commit;
    call public.append_upto(stream, answered + 60);
    for asked in
        select answered
        union
        select h.version + 7 from evsource.snapshot_history h where h.projection = 'document' and h.key = ask_past.stream
    loop
        nearest := (select max(version) from (
            select s.version from evsource.snapshots s where s.projection = 'document' and s.key = ask_past.stream
            union all
            select h.version from evsource.snapshot_history h where h.projection = 'document' and h.key = ask_past.stream) v
            where version <= asked);
        before := folded();
        text := document(evsource.state_at_version('document', stream, asked));
        perform expect(format('%s, version %s: only the events after a snapshot are folded', stream, asked),
            folded() - before, asked - nearest);
        insert into past values (stream, asked, sha256(convert_to(text, 'UTF8')));
        if asked = answered then
            perform compare_text((select path from answered a where a.stream = ask_past.stream and a.version = asked), text);
        end if;
    end loop;
    perform expect(format('%s, version %s: several snapshots were kept', stream, answered),
        (select count(*) from past p where p.stream = ask_past.stream and p.version between answered - 500 and answered + 60) >= 3, true);
    perform evsource.alter_projection('document', keep_snapshots => 1);
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
            select a.version, a.path from answered a where a.stream = document.stream and a.version <= document.version
            union all
            select document.version, 'documents/' || document.stream || '/ending/'
            from answers
            where (answers #>> array['documents', document.stream, 'version'])::bigint = document.version
        loop
            text := document(evsource.state_at_version('document', document.stream, asked.version));
            perform compare_text(asked.path, text);
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
    asked record;
    before bigint;
begin
    -- without the snapshots that are there
    perform evsource.alter_projection('document', restore_from_snapshot => false);
    call ask_answers('without snapshots');
    for asked in select * from past loop
        before := folded();
        perform expect(format('%s, version %s: a replay makes what snapshots did', asked.stream, asked.version),
            sha256(convert_to(document(evsource.state_at_version('document', asked.stream, asked.version)), 'UTF8')), asked.sha256);
        perform expect(format('%s, version %s: a replay folds every event', asked.stream, asked.version),
            folded() - before, asked.version);
    end loop;
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
