-- doc/reference.md has a line for all that is there for users, with the names of
-- its arguments, its result, its level and its defaults; and for nothing else.

\set page `cat doc/reference.md`
select evsource.safe_position() >= 0 as loaded;    -- settings show when the library is loaded

create temp table on_page as
    select line from regexp_split_to_table(:'page', E'\n') line where line like '| `%';
select count(*) > 100 as there_is_a_page from on_page;

-- How a line must begin.
create temp table there (begins text);

-- functions and procedures: arguments, those with a default in brackets; result; level
insert into there
select format('| `%s(%s)` | %s | %s |', p.proname,
    array_to_string(p.proargnames[1:needed], ', ')
        || case when p.pronargdefaults = 0 then ''
            else case when p.pronargs = p.pronargdefaults then '[' else ' [, ' end
                || array_to_string(p.proargnames[needed + 1:p.pronargs], ', ') || ']' end,
    case when p.prokind = 'p' then 'procedure'
        else replace(case when p.proretset then 'rows of ' else '' end || coalesce(
            '(' || array_to_string(p.proargnames[p.pronargs + 1:cardinality(p.proallargtypes)], ', ') || ')',
            format_type(p.prorettype, null)), 'evsource.', '') end,
    coalesce(a.level, case when has_function_privilege('public', p.oid, 'execute') then 'anyone' else 'owner' end))
from pg_proc p
    cross join lateral (select p.pronargs - p.pronargdefaults) n (needed)
    left join (select a.level, unnest(a.names) as name from evsource._access() a where a.kind = 'routine') a
        on a.name = p.proname
where p.pronamespace = 'evsource'::regnamespace and p.proname not like '\_%';

-- tables and views that a level may read, unless their comment says "Internal:"
insert into there
select format('| `evsource.%s` | %s |', c.relname, a.level)
from pg_class c
    join (select a.level, unnest(a.names) as name from evsource._access() a
          where a.kind = 'table' and a.privilege = 'select') a on a.name = c.relname
where c.relnamespace = 'evsource'::regnamespace and c.relname not like '\_%'
    and coalesce(obj_description(c.oid, 'pg_class'), '') not like 'Internal:%';

-- types of results
insert into there
select format('| `evsource.%s` | type |', c.relname)
from pg_class c
where c.relnamespace = 'evsource'::regnamespace and c.relkind = 'c' and c.relname not like '\_%';

-- settings: default, range, context
insert into there
select format('| `%s` | %s | %s | %s |', name,
    case when coalesce(boot_val, '') = '' then 'none' else concat_ws(' ', boot_val, unit) end,
    case when vartype = 'bool' then 'on, off'
        when vartype = 'string' then 'text'
        when max_val::bigint >= 2097151 then min_val || ' or more'    -- kilobytes end there on 32 bits
        else min_val || ' to ' || max_val end,
    context)
from pg_settings where name like 'evsource.%';

-- What the page lacks, or says otherwise.
select begins as not_on_the_page from there
where not exists (select from on_page where starts_with(line, begins)) order by begins collate "C";

-- What the page has that is no more.
select line as on_the_page_only from on_page
where not exists (select from there where starts_with(line, begins)) order by line collate "C";

-- Every object has a comment, and so has every column of what users can read.
select pg_describe_object(d.classid, d.objid, 0) as without_comment
from pg_depend d join pg_extension x on x.oid = d.refobjid and x.extname = 'evsource'
where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e'
    and obj_description(d.objid, d.classid::regclass::name) is null
    -- row types of tables and types of arrays are members from 19 on
    and not exists (select from pg_type t left join pg_class c on c.oid = t.typrelid
                    where d.classid = 'pg_type'::regclass and t.oid = d.objid and (t.typcategory = 'A' or c.relkind <> 'c'))
union all
select format('column %I of %s', a.attname, a.attrelid::regclass)
from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.relnamespace = 'evsource'::regnamespace and c.relkind in ('r', 'v', 'c') and c.relname not like '\_%'
    and coalesce(obj_description(c.oid, 'pg_class'), '') not like 'Internal:%'
    and a.attnum > 0 and not a.attisdropped and col_description(a.attrelid, a.attnum) is null
order by 1;
