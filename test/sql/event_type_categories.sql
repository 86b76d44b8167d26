-- A stream whose name has no "-" is a category of its own.  Where an upcaster changes
-- events in very many categories, one row says so, and not a row each.

create function many_up(d jsonb) returns jsonb language sql immutable as $$ select d || '{"up": true}' $$;
-- How many snapshots were used, and how many not?
create function many_look() returns table (projection text, states bigint, up bigint, used bigint) language plpgsql as $$
begin
    perform evsource.restore_projection(p.projection) from evsource.projections p where p.projection like 'many\_%';
    return query
        select l.projection, count(*), count(*) filter (where l.state ? 'up'), count(*) filter (where r.rejections = 0)
        from evsource.states l join evsource.snapshots r using (projection, key)
        where l.projection like 'many\_%' group by 1 order by 1;
    perform evsource.clear_snapshots(p.projection) from evsource.projections p where p.projection like 'many\_%';
    perform evsource.save_snapshot(p.projection) from evsource.projections p where p.projection like 'many\_%';
end $$;

select evsource.create_projection('many_all', 'evsource.fold_merge', types => '{ManyOne,ManyOther}');
select evsource.create_projection('many_with', 'evsource.fold_merge', categories => '{many7,manywith}');
select evsource.create_projection('many_without', 'evsource.fold_merge', categories => '{manywithout}');
select evsource.create_projection('many_type', 'evsource.fold_merge', types => '{ManyOther}');
insert into evsource.events (stream, type, data) select 'many' || i, 'ManyOne', '{}' from generate_series(1, 150) i;
insert into evsource.events (stream, type, data) values
    ('manywith-1', 'ManyOne', '{}'), ('manywith-1', 'ManyOther', '{}'), ('manywithout-1', 'ManyOther', '{}');
select evsource.save_snapshot(p.projection) from evsource.projections p where p.projection like 'many\_%' order by 1;
select evsource.define_event_type('ManyOne', 2, upcaster => 'many_up');
select type, category, change, but_not @> '{manywithout}' as but_not_without, but_not && '{many7,manywith}' as but_not_with
    from evsource.event_type_changes where type like 'Many%';
select * from many_look();
select * from many_look();

-- it counts, and goes back as well
select evsource.define_event_type('ManyOne', 3, upcaster => 'many_up');
select * from many_look();
select evsource.drop_event_type('ManyOne');
select type, category, change from evsource.event_type_changes where type like 'Many%' order by change;
select * from many_look();

-- few are written down one by one
select evsource.define_event_type('ManyOther', 2, upcaster => 'many_up');
select type, category, change, but_not from evsource.event_type_changes where type = 'ManyOther' order by 2;
select * from many_look();

select evsource.drop_event_type('ManyOther');
select evsource.drop_projection(projection) from evsource.projections where projection like 'many\_%';
drop function many_look, many_up;
