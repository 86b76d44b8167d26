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

-- The text is kept in three parts: what is near the last edit is short, and most
-- edits are in it. So an edit does not take the whole text apart.
create function splice(t text, pos int, len int, more text) returns text
    language sql immutable
    as $$ select left(t, pos) || more || substr(t, pos + len + 1) $$;
create function edit(state jsonb, e evsource.event) returns jsonb
    language plpgsql immutable
    as $$
declare
    pos constant int := e.data ->> 'pos';
    len constant int := coalesce(e.data ->> 'len', '0');
    more constant text := coalesce(e.data ->> 'text', '');
    before constant int := coalesce(state ->> 'before', '0');
    near text := coalesce(state ->> 'near', '');
    cut int;
begin
    if pos >= before and pos - before + len <= length(near) and length(near) + length(more) <= 3000 then
        near := left(near, pos - before) || more || substr(near, pos - before + len + 1);
        return state || jsonb_build_object('near', near);
    end if;
    near := public.splice(coalesce(state ->> 'head', '') || near || coalesce(state ->> 'tail', ''), pos, len, more);
    cut := greatest(pos - 750, 0);
    return jsonb_build_object('before', cut, 'head', left(near, cut),
        'near', substr(near, cut + 1, 1500), 'tail', substr(near, cut + 1501));
end
$$;
create function document(state jsonb) returns text
    language sql immutable
    as $$ select concat(state ->> 'head', state ->> 'near', state ->> 'tail') $$;
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
create procedure look(attempt int)
    language plpgsql
    as $$
declare
    stream constant text := 'doc-automerge-paper';
    t0 timestamptz := clock_timestamp();
    t1 timestamptz;
    t2 timestamptz;
begin
    perform evsource.state('document', stream);
    t1 := clock_timestamp();
    perform evsource.state('document', stream);
    t2 := clock_timestamp();
    insert into looks
        select evsource.stream_version(stream), attempt,
            extract(epoch from t1 - t0) * 1000, extract(epoch from t2 - t1) * 1000,
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
