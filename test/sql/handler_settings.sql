-- What a handler makes of an event does not depend on the settings of whoever
-- appends, applies or replays it.
create table made (kind text, position bigint, what text, primary key (kind, position));
create function describe(e evsource.event) returns text language sql as $$
select concat_ws(' | ', (e.data ->> 'at')::timestamptz, (e.data ->> 'day')::date, (e.data ->> 'took')::interval,
                 0.1::float8 + 0.2::float8, '\x00ff'::bytea, '42' ~ '^\d+$', (null = null) is null, current_setting('row_security'),
                 format('%I', lower(e.type)), 'pg_class'::regclass)
$$;
create function make(e evsource.event) returns void language plpgsql as $$ begin
    insert into made values (current_setting('test.kind', true), e.position, describe(e));
end $$;
create function fold(state jsonb, e evsource.event) returns jsonb language sql as $$
select state || jsonb_build_object('n' || e.version, describe(e)) $$;
select evsource.create_projection('inline', 'make', categories => '{settings}', tables => '{made}');
select evsource.create_projection('kept', 'fold', categories => '{settings}', snapshot_every => 2);
create table later (position bigint, what text, digits boolean, unknown boolean);
select evsource.create_projection('later', mode => 'async', categories => '{settings}', tables => '{later}',
    query => $$insert into later select position, describe(row(n.*)::evsource.event), '42' ~ '^\d+$', (null = null) is null from new_events n$$);

create function dated(data jsonb) returns text language sql immutable as $$
select case when (data ->> 'day')::date <> date '2026-02-01' then concat('another day: ', (data ->> 'day')::date) end $$;
create function bring_up(data jsonb) returns jsonb language sql immutable as $$
select data || jsonb_build_object('was', concat_ws(' | ', (data ->> 'at')::timestamptz, (data ->> 'day')::date)) $$;
select evsource.define_event_type('Typed', 1, validator => 'dated'), evsource.define_event_type('Typed', 2, upcaster => 'bring_up');

-- Of one event each way: as this session is set, and quite otherwise.
set test.kind = 'as it is';
select version from evsource.append('settings-1', 'Made', '{"at": "2026-03-01 12:00", "day": "02/01/2026", "took": "1 day 2:00"}');
set test.kind = 'otherwise';
set timezone = 'Asia/Tokyo';
set datestyle = 'German, DMY';
set intervalstyle = 'iso_8601';
set extra_float_digits = 0;
set bytea_output = 'escape';
set row_security = off;
set quote_all_identifiers = on;
-- not from 19 on
do $$ begin
    set escape_string_warning = off;
    set standard_conforming_strings = off;
exception when undefined_object or feature_not_supported then null; end $$;
set transform_null_equals = on;
select version from evsource.append('settings-1', 'Made', '{"at": "2026-03-01 12:00", "day": "02/01/2026", "took": "1 day 2:00"}');
select kind, what from made order by position;
-- An upcaster, in whichever way its event comes; and a validator.
select version from evsource.append('settings_type-1', 'Typed', '{"at": "2026-03-01 12:00", "day": "02/01/2026"}', schema_version => 1);
select data from evsource.read_stream('settings_type-1');
select data from evsource.read_category('settings_type');
select evsource.run_projection('later');
select what, digits, unknown from later order by position;
select key, value from jsonb_each_text(evsource.state('kept', 'settings-1')) order by key;

-- An on_reset function.
create table emptied (what text);
create function empty() returns void language sql as $$
insert into emptied select concat_ws(' | ', 0.1::float8 + 0.2::float8, date '2026-02-01', current_setting('row_security')) $$;
select evsource.create_projection('emptied', 'make', categories => '{nothing}', on_reset => 'empty');
select evsource.reset_projection('emptied');
select * from emptied;
select evsource.drop_projection('emptied');
drop table emptied;
drop function empty();

-- They are the session's own again.
select current_setting('timezone'), current_setting('datestyle'), current_setting('intervalstyle'),
    current_setting('extra_float_digits'), current_setting('bytea_output'), current_setting('row_security'),
    current_setting('quote_all_identifiers'), current_setting('transform_null_equals');

-- A replay comes to the same.
create table before as select position, what from made union all select position, what from later;
call evsource.rebuild_projection('inline', online => false);
call evsource.rebuild_projection('later', online => false);
reset all;
select count(*) as differ from (table before except all (select position, what from made union all select position, what from later)) d;
select * from evsource.verify_projection('kept');

-- A handler that wants it otherwise says so: that is part of it.
alter function describe(evsource.event) set timezone = 'Europe/Berlin';
select version from evsource.append('settings-1', 'Made', '{"at": "2026-03-01 12:00", "day": "02/01/2026", "took": "1 day 2:00"}');
select what from made order by position desc limit 1;

select count(evsource.drop_projection(p)) from unnest('{inline,kept,later}'::text[]) p;
select evsource.drop_event_type('Typed');
drop table made, later, before;
drop function make(evsource.event), fold(jsonb, evsource.event), describe(evsource.event);
