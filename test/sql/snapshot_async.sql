-- The policy of a fold keyed by stream decides when who applies the log saves its
-- states: not with each batch, however small these are.

create function kept(s jsonb, e evsource.event) returns jsonb language plpgsql immutable as $$
begin
    if (e).type = 'Bad' then raise 'bad event'; end if;
    return jsonb_build_object('n', coalesce((s ->> 'n')::bigint, 0) + (e).version);
end $$;
select evsource.create_projection('kept_' || name, 'kept', categories => '{kept}', types => '{Made,Bad}', mode => mode,
        snapshot_every => every, snapshot_after_batch => after_batch)
    from (values ('async', 'async', 20, true), ('later', 'async', 20, false), ('manual', 'manual', 20, true),
        ('each', 'async', 1, true), ('never', 'async', 0, false)) v (name, mode, every, after_batch);
create view kept_now as
    select l.projection, l.event_count as events, (l.state ->> 'n')::bigint = l.event_count * (l.event_count + 1) / 2 as is_right,
        evsource.event_count(l.projection) as applied, s.event_count as saved
    from evsource.states l left join evsource.snapshots s using (projection, key)
    where l.projection like 'kept\_%' and l.key = 'kept-1';
create procedure kept_go(times int) language plpgsql as $$
begin
    for i in 1 .. times loop
        perform evsource.append('kept-1', 'Made');
        commit;
        perform evsource.run_projection(p.projection) from evsource.projections p where p.projection like 'kept\_%' order by 1;
        commit;
    end loop;
end $$;

call kept_go(19);
select * from kept_now order by 1;
call kept_go(31);
select * from kept_now order by 1;

-- what rolls back is neither counted nor saved
begin;
select count(*) from generate_series(1, 30), evsource.append('kept-2', 'Made');
select evsource.run_projection('kept_async', include_own => true);
rollback;
select * from kept_now where projection = 'kept_async';
select key from evsource.snapshots where projection = 'kept_async';

-- A state that cannot be used is replaced at once, whatever the policy.
select evsource.alter_projection('kept_manual', state_version => 2);
call kept_go(1);
select * from kept_now where projection = 'kept_manual';
call kept_go(18);
select * from kept_now where projection = 'kept_manual';

-- An event that it fails on takes nothing with it that was saved.
set client_min_messages = error;
select count(*) from evsource.append_batch('kept-3', array_fill('Made'::text, array[15]), array_fill('{}'::jsonb, array[15]));
select evsource.run_projection('kept_later');
select count(*) from evsource.append_batch('kept-3', '{Made,Bad,Made}', '{"{}","{}","{}"}');
select evsource.run_projection('kept_later');
create or replace function kept(s jsonb, e evsource.event) returns jsonb language sql immutable as $$
select jsonb_build_object('n', coalesce((s ->> 'n')::bigint, 0) + (e).version) $$;
select count(*) from evsource.append_batch('kept-3', array_fill('Made'::text, array[15]), array_fill('{}'::jsonb, array[15]));
select evsource.run_projection('kept_later');
select key, event_count, (state ->> 'n')::bigint = event_count * (event_count + 1) / 2 as is_right
    from evsource.snapshots where projection = 'kept_later' order by 1;
select evsource.event_count('kept_later');

-- A rebuild comes to the same.
call evsource.rebuild_projection('kept_later');
select event_count, (state ->> 'n')::bigint = 33 * 34 / 2 as is_right, evsource.event_count('kept_later') from evsource.load_state('kept_later', 'kept-3');

drop view kept_now;
drop procedure kept_go;
select evsource.drop_projection(projection) from evsource.projections where projection like 'kept\_%';
drop function kept;
