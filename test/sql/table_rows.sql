-- table_rows: what the rows of tables that are saved at a position come back as.
create schema kept;

-- The same, whatever the settings of the sessions that save and restore.
create table kept.odd (n int, label text, tags text[], price money);
select evsource.create_projection('odd', categories => '{odd}', tables => '{kept.odd}', query => $$
    insert into kept.odd select version, null, array['a', null, 'NULL'], 1234.5::numeric::money
    from new_events $$);
select version from evsource.append('odd-1', 'Made');
select evsource.save_snapshot('odd');
create table kept.before as select n, label, tags, price from kept.odd;
set array_nulls = off;
select evsource.restore_projection('odd');
select current_setting('array_nulls');
select count(*) from (table kept.before except select n, label, tags, price from kept.odd) d;
reset all;
select array_position(tags, null), array_position(tags, 'NULL'), label is null as no_label from kept.odd;

-- What a handler makes of an array does not depend on them either.
create table kept.arrays (tags text[]);
select evsource.create_projection('arrays', categories => '{arrays}', tables => '{kept.arrays}',
    query => $$insert into kept.arrays select (data ->> 'tags')::text[] from new_events$$);
set array_nulls = off;
select version from evsource.append('arrays-1', 'Made', '{"tags": "{a,NULL}"}');
reset array_nulls;
select array_position(tags, null) from kept.arrays;

-- Deferred constraints of the caller's transaction stay deferred.
create function kept.nothing() returns trigger language plpgsql as $$begin return null; end$$;
create trigger nothing after insert on kept.odd for each row execute function kept.nothing();
create table kept.parents (id int primary key);
create table kept.children (parent int references kept.parents deferrable initially deferred);
begin;
insert into kept.children values (1);
select evsource.restore_projection('odd');
insert into kept.children values (2);
insert into kept.parents values (1), (2);
commit;
select tgenabled from pg_trigger where tgrelid = 'kept.odd'::regclass;

-- Rows of tables that inherit are the other table's, too: they would come back twice, and without their own columns.
create table kept.base (a text);
create table kept.derived (b int) inherits (kept.base);
select evsource.create_projection('inherited', categories => '{inherited}', tables => '{kept.base,kept.derived}',
    query => $$insert into kept.derived select type, version from new_events$$);
select version from evsource.append('inherited-1', 'Made');
select evsource.save_snapshot('inherited');
\echo :LAST_ERROR_SQLSTATE
select evsource.alter_projection('inherited', tables => '{kept.base}');
call evsource.rebuild_projection('inherited', online => false);
select evsource.save_snapshot('inherited');
\echo :LAST_ERROR_SQLSTATE
select evsource.alter_projection('inherited', tables => '{kept.derived}');
call evsource.rebuild_projection('inherited', online => false);
select evsource.save_snapshot('inherited'), evsource.restore_projection('inherited');
select tableoid::regclass, a from kept.base;
-- so are those of a partition that is named beside its table
create table kept.divided (n bigint primary key) partition by range (n);
create table kept.part partition of kept.divided for values from (0) to (100);
select evsource.create_projection('divided', categories => '{divided}', tables => '{kept.divided,kept.part}',
    query => $$insert into kept.divided select version from new_events$$);
select version from evsource.append('divided-1', 'Made');
select evsource.save_snapshot('divided');
\echo :LAST_ERROR_SQLSTATE
select evsource.alter_projection('divided', tables => '{kept.divided}');
call evsource.rebuild_projection('divided', online => false);
select evsource.save_snapshot('divided'), evsource.restore_projection('divided');
table kept.part;

-- What triggers and rules did is saved: neither those of the table fire again nor those of
-- its partitions, and all are as they were after it.
create table kept.regions (n bigint, region text, primary key (n, region)) partition by list (region);
create table kept.eu partition of kept.regions for values in ('eu') partition by list (region);
create table kept.eu_all partition of kept.eu for values in ('eu');
create table kept.us partition of kept.regions for values in ('us');
create table kept.fired (what text);
create function kept.fire() returns trigger language plpgsql as $$begin new.n := new.n + 1000; insert into kept.fired values (tg_argv[0]); return new; end$$;
create trigger all_rows before insert on kept.regions for each row execute function kept.fire('all');
create trigger eu_rows before insert on kept.eu_all for each row execute function kept.fire('eu');
create trigger us_rows before insert on kept.us for each row execute function kept.fire('us');
alter table kept.us disable trigger us_rows;
create trigger us_always before insert on kept.us for each row execute function kept.fire('us always');
alter table kept.us enable always trigger us_always;
create rule also as on insert to kept.regions do also insert into kept.fired values ('rule');
select evsource.create_projection('regions', categories => '{regions}', tables => '{kept.regions}',
    query => $$insert into kept.regions select version, type from new_events$$);
select version from evsource.append_batch('regions-1', '{eu,us}', '{"{}","{}"}');
table kept.regions order by region;
select what, count(*) from kept.fired group by what order by what;
create view kept.firing as select tgrelid::regclass, tgname, tgenabled from pg_trigger
    where tgfoid = 'kept.fire'::regproc;
select * from kept.firing order by tgrelid::text, tgname;
select evsource.save_snapshot('regions'), evsource.restore_projection('regions');
table kept.regions order by region;
select what, count(*) from kept.fired group by what order by what;
select * from kept.firing order by tgrelid::text, tgname;
select rulename, ev_enabled from pg_rewrite where ev_class = 'kept.regions'::regclass;

-- Rows that do not fit into the tables any more: the notice says so, and why, also where the
-- rejection is rolled back because the handler meets the same.
create table kept.parted (n bigint, region text) partition by list (region);
create table kept.parted_1 partition of kept.parted for values in ('eu');
create table kept.parted_2 partition of kept.parted for values in ('us');
select evsource.create_projection('parted', categories => '{parted}', tables => '{kept.parted}',
    query => $$insert into kept.parted select version, type from new_events$$);
select version from evsource.append_batch('parted-1', '{eu,us}', '{"{}","{}"}');
select evsource.save_snapshot('parted');
alter table kept.parted detach partition kept.parted_2;
\set SHOW_CONTEXT never
select evsource.restore_projection('parted');
\set SHOW_CONTEXT errors
\echo :LAST_ERROR_SQLSTATE
select count(*) from evsource.snapshot_rejections where projection = 'parted';

-- Rows that a policy hides from the owner would be missing: that is an error.
create role regress_rows_owner;
create schema secret authorization regress_rows_owner;
select evsource.grant_access('regress_rows_owner', 'admin');
set role regress_rows_owner;
create table secret.rows (n bigint);
select evsource.create_projection('secret', categories => '{secret}', tables => '{secret.rows}',
    query => 'insert into secret.rows select version from new_events');
reset role;
select version from evsource.append_batch('secret-1', '{T,T}', '{"{}","{}"}');
alter table secret.rows enable row level security;
select evsource.save_snapshot('secret');
select version from evsource.append('secret-1', 'T');
alter table secret.rows force row level security;
create policy odd on secret.rows using (n % 2 = 1);
select evsource.save_snapshot('secret');
\echo :LAST_ERROR_SQLSTATE
alter table secret.rows no force row level security;
select evsource.restore_projection('secret');
select count(*) from secret.rows;

-- The triggers of a table are stopped and go on in partitions of other roles as well, as far as these are left as they are.
create role regress_rows_other;
set role regress_rows_owner;
create table secret.lent (n bigint, type text) partition by range (n);
create table secret.lent_part partition of secret.lent for values from (0) to (100);
create function secret.late() returns trigger language plpgsql as $$begin new.n := new.n + 10; return new; end$$;
create trigger late before insert on secret.lent for each row execute function secret.late();
select evsource.create_projection('lent', categories => '{lent}', tables => '{secret.lent}',
    query => 'insert into secret.lent select version, type from new_events');
reset role;
alter table secret.lent_part owner to regress_rows_other;
select version from evsource.append('lent-1', 'T');
set role regress_rows_owner;
select evsource.save_snapshot('lent'), evsource.restore_projection('lent');
select tableoid::regclass, n from secret.lent;
reset role;
select tgrelid::regclass, tgenabled from pg_trigger where tgname = 'late' order by tgrelid::regclass::text;
select evsource.drop_projection('lent');
select evsource.drop_projection('secret');
set client_min_messages = warning;
drop schema secret cascade;
drop owned by regress_rows_owner;
drop role regress_rows_owner, regress_rows_other;
reset client_min_messages;

-- A value comes back as its type's output function writes it, and its input function reads
-- it: a cast to or from text is often another function, and says less.
create type kept.amount as (v numeric, currency text);
create function kept.amount_text(kept.amount) returns text language sql immutable as $$select format('%s %s', round($1.v), $1.currency)$$;
create function kept.text_amount(text) returns kept.amount language sql immutable as $$select row(nullif(split_part($1, ' ', 1), ''), split_part($1, ' ', 2))::kept.amount$$;
create cast (kept.amount as text) with function kept.amount_text(kept.amount);
create cast (text as kept.amount) with function kept.text_amount(text);
create domain kept.price as kept.amount check ((value).v >= 0);
create domain kept.code as bpchar;
create domain kept.label as varchar(8);
create function kept.float_text(float8) returns text language sql immutable as $$select round($1)::int::text$$;
create cast (float8 as text) with function kept.float_text(float8);
create function kept.text_float(text) returns float8 language sql immutable as $$select length($1)::float8$$;
create cast (text as float8) with function kept.text_float(text);
create table kept.cast_away (n bigint, a kept.amount, p kept.price, b bpchar, c kept.code, l kept.label, f float8, yes bool,
    many kept.amount[], codes kept.code[], empty text[], two bpchar[], nothing kept.amount, nulls kept.amount, oid "char");
select evsource.create_projection('cast_away', categories => '{cast}', tables => '{kept.cast_away}', query => $$
    insert into kept.cast_away select version, row(12.35, 'a "b" \c')::kept.amount, row(0.05, null)::kept.amount, 'x  ', 'y  ', 'z  ', 1.5, true,
        array[row(0.5, 'E')::kept.amount, null], array['u  '], '{}', array[['x ', null], ['', 'NULL']], null, row(null, null)::kept.amount, ''
    from new_events $$);
select version from evsource.append('cast-1', 'Made');
create table kept.cast_before as table kept.cast_away;
select evsource.save_snapshot('cast_away'), evsource.restore_projection('cast_away');
select reason, message from evsource.snapshot_rejections where projection = 'cast_away';
select (a).v, (a).currency, (p).v, octet_length(b) as b, octet_length(c) as c, octet_length(l) as l, f, octet_length(codes[1]) as codes,
    many, two, nothing is distinct from null as something, nulls is distinct from null as row_of_nulls from kept.cast_away;
select count(*) from kept.cast_away now, kept.cast_before before where now::text is distinct from before::text;
drop cast (float8 as text);
drop cast (text as float8);

-- Where there are no tables to save, or no states to look for, the error says what to do.
select evsource.create_projection('plain', categories => '{plain}', query => 'insert into kept.odd select version from new_events');
select evsource.save_snapshot('plain');
select evsource.has_snapshot('odd');

select count(evsource.drop_projection(p)) from unnest('{odd,arrays,inherited,divided,regions,cast_away,parted,plain}'::text[]) p;
set client_min_messages = warning;
drop schema kept cascade;
