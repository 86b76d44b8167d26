-- An upcaster makes snapshots useless that were made of events which it changes,
-- and no others.

create function upcasters_last(s jsonb, e evsource.event) returns jsonb language sql immutable as $$ select s || (e).data $$;
create function upcasters_yes(saved int, now int) returns bool language sql immutable as $$ select true $$;
create function upcasters_up(d jsonb) returns jsonb language sql immutable as $$ select d || '{"up": true}' $$;
create function upcasters_again(d jsonb) returns jsonb language sql immutable as $$ select d || '{"again": true}' $$;
create function upcasters_more(d jsonb) returns jsonb language sql immutable as $$ select d || '{"more": true}' $$;
-- What becomes of the snapshots: what was saved is used, or it is not.
create function upcasters_look() returns table (projection text, key text, state jsonb, used bool) language plpgsql as $$
begin
    perform evsource.restore_projection(p.projection) from evsource.projections p where p.projection like 'upcasters\_%';
    return query
        select l.projection, l.key, l.state, r.rejections = coalesce(o.rejections, 0)
        from evsource.states l
            join evsource.snapshots r using (projection, key)
            left join upcasters_seen o using (projection, key)
        where l.projection like 'upcasters\_%' order by 1, 2;
    delete from upcasters_seen;
    insert into upcasters_seen select s.projection, s.key, s.rejections from evsource.snapshots s;
end $$;
create table upcasters_seen (projection text, key text, rejections bigint);

select evsource.create_projection('upcasters_a', 'upcasters_last', categories => '{upa}');
select evsource.create_projection('upcasters_all', 'upcasters_last', categories => '{upa,upb}');
select evsource.create_projection('upcasters_type', 'upcasters_last', categories => '{upa,upb}', types => '{UpA}');
select count(*) from (values ('upa-1', 'UpA', '{"a": 1}'::jsonb), ('upa-1', 'UpB', '{"b": 1}'), ('upb-1', 'UpA', '{"a": 2}'), ('upb-1', 'UpC', '{"c": 1}')) v (stream, type, data),
    lateral evsource.append(stream, type, data);
select evsource.save_snapshot(p) from unnest('{upcasters_a,upcasters_all,upcasters_type}'::text[]) p;
select * from upcasters_look();

-- a type that nobody has stored, one that was stored elsewhere, one that was stored here
select evsource.define_event_type('UpNew', 2, upcaster => 'upcasters_up');
select * from upcasters_look();
select evsource.define_event_type('UpC', 2, upcaster => 'upcasters_up');
select * from upcasters_look();
select evsource.define_event_type('UpB', 2, upcaster => 'upcasters_up');
select * from upcasters_look();
select * from upcasters_look();
select type, category, change from evsource.event_type_changes where type like 'Up%' order by 1, 2, 3;

-- another rule for it changes nothing
select evsource.define_event_type('UpB', 2, 'strict $.up == true', upcaster => 'upcasters_up');
select * from upcasters_look();

-- Events of an earlier version that come when the upcaster is there are read through
-- it from the begin; when it goes, they change.
select count(*) from evsource.append('upa-1', 'UpNew', '{"new": 1}', schema_version => 1);
select * from upcasters_look();
select evsource.drop_event_type('UpNew', 2);
select * from upcasters_look();

-- while the projection reads something else
select evsource.alter_projection('upcasters_a', categories => '{upb}');
select evsource.define_event_type('UpNew', 2, upcaster => 'upcasters_again');
select evsource.alter_projection('upcasters_a', categories => '{upa}');
select * from upcasters_look() where projection = 'upcasters_a';

-- is_compatible speaks for snapshots of before as long as nothing changes them
select evsource.create_projection('upcasters_v', 'upcasters_last', categories => '{upa}');
select evsource.save_snapshot('upcasters_v');
select evsource.alter_projection('upcasters_v', state_version => 2, is_compatible => 'upcasters_yes');
select evsource.define_event_type('UpNone', 2, upcaster => 'upcasters_again');
select evsource.define_event_type('UpC', 3, upcaster => 'upcasters_again');
select evsource.state('upcasters_v', 'upa-1');
select rejection from evsource.snapshot_status where projection = 'upcasters_v';
select evsource.define_event_type('UpA', 2, upcaster => 'upcasters_again');
select evsource.state('upcasters_v', 'upa-1');
select rejection from evsource.snapshot_status where projection = 'upcasters_v';

-- what rolls back changes nothing, for this session either
begin;
savepoint s;
select evsource.define_event_type('UpA', 3, upcaster => 'upcasters_up');
select evsource.state('upcasters_type', 'upb-1');
rollback to s;
select evsource.state('upcasters_type', 'upb-1');
commit;

select evsource.drop_projection(projection) from evsource.projections where projection like 'upcasters\_%';

-- a state that the session has computed goes, too, also when the projection was stale before
select evsource.create_projection('upcasters_stale', 'upcasters_last', categories => '{upb}');
select evsource.alter_projection('upcasters_stale', state_version => 2);
select evsource.state('upcasters_stale', 'upb-1'), stale from evsource.projections where projection = 'upcasters_stale';
select evsource.define_event_type('UpA', 3, upcaster => 'upcasters_more');
select evsource.state('upcasters_stale', 'upb-1');
select evsource.drop_projection('upcasters_stale');
select evsource.drop_event_type(type) from evsource.event_types where type like 'Up%' group by type;

-- No event of another projection's is upcast: what its upcaster raises is not ours.
create function upcasters_bad(d jsonb) returns jsonb language plpgsql as $$ begin raise 'cannot be brought up'; end $$;
select evsource.create_projection('upcasters_' || name, 'upcasters_last', categories => '{upx}', types => types, snapshots => snapshots)
    from (values ('ours', '{UpOurs}'::text[], 'default'), ('all', null, 'default'), ('never', '{UpOurs}', 'disabled')) v (name, types, snapshots);
select max(a.version) from (values (1, 'UpOther', '{"other": 1}'::jsonb), (2, 'UpOurs', '{"ours": 1}'), (3, 'UpOther', '{"other": 2}'), (4, 'UpOurs', '{"ours": 2}'))
    v (i, type, data), lateral evsource.append('upx-1', type, data, occurred_at => '2024-01-01Z'::timestamptz + i * interval '1 day') a;
select evsource.save_snapshot('upcasters_ours');
select evsource.define_event_type('UpOther', 2, upcaster => 'upcasters_bad');
select state, version, event_count from evsource.load_state('upcasters_ours', 'upx-1');
select state, version, event_count from evsource.load_state('upcasters_never', 'upx-1');
select evsource.state_at_version('upcasters_ours', 'upx-1', 3), evsource.state_at_time('upcasters_ours', 'upx-1', '2024-01-04Z');
-- nor does it hide when ours began
select evsource.state_at_time('upcasters_ours', 'upx-1', '2024-01-02Z');
\set VERBOSITY terse
select evsource.state('upcasters_all', 'upx-1');
\set VERBOSITY default
select evsource.drop_projection(projection) from evsource.projections where projection like 'upcasters\_%';
select evsource.drop_event_type('UpOther', 2);
drop function upcasters_bad;

drop function upcasters_look, upcasters_last, upcasters_yes, upcasters_up, upcasters_again, upcasters_more;
drop table upcasters_seen;
