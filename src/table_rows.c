/*
 * table_rows.c - the rows of a projection's tables, to and from
 * evsource.table_snapshot_rows.
 *
 * The rows are read and written as the projection's owner, and kept as the owner
 * of evsource: each as an array of its columns' texts, a thousand in a row of
 * evsource.table_snapshot_rows.  Text is what every type can be made of again,
 * on another machine and another major version, too: by its output and its input function,
 * not by casts, which may say less.
 *
 * While rows come back the triggers and rules of the tables and of their partitions
 * are disabled: what they did when the rows were first written is saved as well, or
 * not the projection's.  Not the triggers that capture a table: that it was emptied is
 * captured, too.  Foreign keys are checked: tables that others refer to come first, and
 * all rows of a table come back by one statement, at whose end they may refer to each
 * other.
 */
#include "table_rows.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "identity.h"
#include "query.h"
#include "resolve.h"
#include "text_array.h"

/* rows that are kept, and written, together: so many, or so large */
#define ROWS_PER_PART	1000
#define BYTES_PER_PART	(16 * 1024 * 1024)

/* rows that are read before it is known how large they are */
#define FIRST_ROWS		50

/* the rows of a table on their way back, as the statement that writes them names them */
#define SAVED_ROWS		"saved_rows"

/* the number under which the tables' sequences are kept, in place of a table's */
#define SEQUENCES		0

/*
 * The sequences s that belong to columns of a table and of its partitions, which are
 * emptied, and begin anew, with it.
 */
#define OWNED_SEQUENCES \
	"  from (select $1::text::regclass::oid as id" \
	"   union select relid from pg_partition_tree($1::text::regclass)) t" \
	"  join pg_class c on c.oid = t.id join pg_namespace n on n.oid = c.relnamespace" \
	"  join pg_attribute a on a.attrelid = t.id" \
	"  join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = t.id" \
	"   and d.refobjsubid = a.attnum and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i')" \
	"  join pg_class s on s.oid = d.objid and s.relkind = 'S'"

/*
 * The columns of a table, and its sequences.  concat() calls a value's output function;
 * as an element of an array it is read by its input function, also where users have made
 * casts from text of their own, for its type or for what a domain is of.
 *
 * Sequences have the name of their column: the one that gives it its values, and another,
 * are known by that, whatever they are called.  Several others have their own names, too,
 * for their OIDs change places in a dump: if one is renamed, the tables are not those saved.
 */
static EvsQuery describe = {
	"with sequences as ("
	"  select d.objid as id, format('%I.%I.%I %s', n.nspname, c.relname, a.attname,"
	"   case count(*) over (partition by c.oid, a.attnum, g.gives) when 1"
	"    then (row_number() over (partition by c.oid, a.attnum order by not g.gives))::text"
	"    else quote_ident(s.relname) end) as name"
	OWNED_SEQUENCES
	"  cross join lateral (select d.deptype = 'i' or exists ("
	"    select from pg_attrdef f join pg_depend u on u.classid = 'pg_attrdef'::regclass"
	"     and u.objid = f.oid and u.refclassid = 'pg_class'::regclass and u.refobjid = s.oid"
	"    where f.adrelid = t.id and f.adnum = a.attnum) as gives) g)"
	" select coalesce(string_agg(format('%I %s', a.attname, a.type), ', ' order by a.n), '')"
	"  || coalesce((select '; sequences ' || string_agg(name, ', ' order by name) from sequences), ''),"
	" string_agg(quote_ident(a.attname), ', ' order by a.n),"
	" string_agg(format('case when t.%1$I is distinct from null then pg_catalog.concat(t.%1$I) end',"
	"  a.attname), ', ' order by a.n),"
	" string_agg(format(case when a.has_cast then '(array[v[%s]]::pg_catalog.text::%s[])[1]' else 'v[%s]::%s' end,"
	"  a.n, a.type), ', ' order by a.n),"
	" (select string_agg(format('(%L::pg_catalog.regclass, %L)', id, name), ', ') from sequences)"
	" from (select attname, format_type(atttypid, atttypmod) as type,"
	"   row_number() over (order by attnum) as n,"
	"   exists (select from pg_type where oid = atttypid and typtype = 'd') or exists (select from pg_cast"
	"    where castsource = 'text'::regtype and casttarget = atttypid and castmethod <> 'b') as has_cast"
	"  from pg_attribute where attrelid = $1::text::regclass and attnum > 0"
	"   and not attisdropped and attgenerated = '') a",
	1, {TEXTOID}, SPI_OK_SELECT
};

/* of a sequence that is not the projection's owner's: its name, its table and its owner */
static EvsQuery find_foreign_sequence = {
	"select unnest(array[sequence, tab, role]) from ("
	" select format('%s.%I', s.relnamespace::regnamespace, s.relname) as sequence,"
	" format('%I.%I', n.nspname, c.relname) as tab, pg_get_userbyid(s.relowner)::text as role"
	OWNED_SEQUENCES
	" where not pg_has_role($2::name, s.relowner, 'usage') order by 1 limit 1) f",
	2, {TEXTOID, TEXTOID}, SPI_OK_SELECT
};

/*
 * The numbers of the tables, those that others refer to first; and how many
 * foreign keys lead away from each, one after the other.  Whoever gets as far as
 * there are tables goes in circles.
 */
static EvsQuery order_tables = {
	"with recursive tabs as ("
	"  select t.name::regclass as id, t.n::integer from unnest($1) with ordinality t (name, n)"
	" ), keys as ("
	"  select distinct c.conrelid as child, c.confrelid as parent from pg_constraint c"
	"  where c.contype = 'f' and c.conrelid in (select id from tabs)"
	"   and c.confrelid in (select id from tabs) and c.confrelid <> c.conrelid"
	" ), ways (child, parent, steps) as ("
	"  select child, parent, 1 from keys"
	"  union"
	"  select w.child, k.parent, w.steps + 1 from ways w join keys k on k.child = w.parent"
	"  where w.steps < (select count(*) from tabs))"
	" select t.n, coalesce(max(w.steps), 0) from tabs t left join ways w on w.child = t.id"
	" group by t.n order by 2, 1",
	1, {TEXTARRAYOID}, SPI_OK_SELECT
};

/*
 * What fires when rows are inserted into a table: its triggers, those of its
 * partitions, its rules; but not what captures it.  How to stop it, and to go on as
 * before.  What is done to a trigger is done to those that partitions have of it as
 * well, which may belong to others: only those that are not as it is follow, each with
 * a state of its own.
 */
static EvsQuery list_firing = {
	"with tabs as ("
	"  select t.id, t.level, format('%I.%I', n.nspname, c.relname) as name"
	"  from (select $1::regclass::oid as id, 0 as level"
	"   union all select relid, level from pg_partition_tree($1::regclass) where level > 0) t"
	"  join pg_class c on c.oid = t.id join pg_namespace n on n.oid = c.relnamespace),"
	" firing as ("
	"  select b.level, b.name, format('trigger %I', t.tgname) as what, t.tgenabled as enabled"
	"  from tabs b join pg_trigger t on t.tgrelid = b.id left join pg_trigger p on p.oid = t.tgparentid"
	"  where not t.tgisinternal and t.tgenabled <> coalesce(p.tgenabled, 'D')"
	"   and t.tgfoid <> 'evsource.capture()'::regprocedure"
	"   and t.tgfoid <> 'evsource._capture_partition()'::regprocedure"
	"  union all"
	"  select b.level, b.name, format('rule %I', r.rulename), r.ev_enabled"
	"  from tabs b join pg_rewrite r on r.ev_class = b.id"
	"  where b.level = 0 and r.ev_type = '3' and r.ev_enabled <> 'D')"
	" select format('alter table %s disable %s', name, what),"
	" format('alter table %s %s %s', name,"
	"  case enabled when 'D' then 'disable' when 'R' then 'enable replica'"
	"   when 'A' then 'enable always' else 'enable' end, what)"
	" from firing order by level, name, what",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery insert_rows = {
	"insert into evsource.table_snapshot_rows (projection, position, tab, part, rows)"
	" values ($1, $2, $3, $4, $5)",
	5, {TEXTOID, INT8OID, INT4OID, INT4OID, TEXTARRAYOID}, SPI_OK_INSERT
};

static EvsQuery select_rows = {
	"select rows from evsource.table_snapshot_rows"
	" where projection = $1 and position = $2 and tab = $3 and part = $4",
	4, {TEXTOID, INT8OID, INT4OID, INT4OID}, SPI_OK_SELECT
};

/* ---- the tables ---- */

static Datum
table_names(const EvsProjection *projection)
{
	evs_resolve_check_tables(projection);
	return evs_text_array_of_names(projection->tables);
}

/* The projection's tables as they are now, each as a EvsTable. */
List *
evs_table_rows_describe(const EvsProjection *projection)
{
	List	   *tables = NIL;
	ListCell   *cell;
	int			nest_level;

	evs_resolve_check_tables(projection);
	nest_level = evs_quote_as_needed();
	foreach(cell, projection->tables)
	{
		EvsTable	   *table = palloc(sizeof(EvsTable));
		Datum		values[] = {CStringGetTextDatum(lfirst(cell))};
		EvsQueryResult result;

		evs_query_begin(&describe, values, NULL, InvalidSnapshot, &result);
		table->name = lfirst(cell);
		table->shape = evs_query_text(&result, 0, 1);
		table->columns = evs_query_text(&result, 0, 2);
		table->texts = evs_query_text(&result, 0, 3);
		table->values = evs_query_text(&result, 0, 4);
		table->sequences = evs_query_text(&result, 0, 5);
		evs_query_end(&result);
		tables = lappend(tables, table);
	}
	AtEOXact_GUC(true, nest_level);
	return tables;
}

char *
evs_table_rows_shape(List *tables)
{
	StringInfoData shape;
	ListCell   *cell;

	initStringInfo(&shape);
	foreach(cell, tables)
	{
		EvsTable	   *table = lfirst(cell);

		appendStringInfo(&shape, "%s%s (%s)", shape.len > 0 ? ", " : "", table->name,
						 table->shape);
	}
	return shape.data;
}

/* The numbers of the tables, in the order in which they are to be filled. */
List *
evs_table_rows_order(const EvsProjection *projection)
{
	Datum		values[] = {table_names(projection)};
	EvsQueryResult result;
	List	   *order = NIL;
	bool		circle = false;

	evs_query_begin(&order_tables, values, NULL, InvalidSnapshot, &result);
	for (uint64 i = 0; i < result.count; i++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(result.context);

		order = lappend_int(order, evs_query_integer(&result, i, 1));
		MemoryContextSwitchTo(spi_context);
		if (evs_query_integer(&result, i, 2) >= result.count)
			circle = true;
	}
	evs_query_end(&result);
	if (circle)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot save the tables of projection \"%s\"", projection->name),
				 errdetail("Their foreign keys form a circle, so there is no order in which to fill them."),
				 errhint("Rebuild the projection from the log instead, or drop one of the foreign keys.")));
	return order;
}

void
evs_table_rows_check_sequences(const EvsProjection *projection)
{
	Datum		values[2] = {0, CStringGetTextDatum(projection->owner)};
	ListCell   *cell;

	foreach(cell, projection->tables)
	{
		List	   *found;

		values[0] = CStringGetTextDatum(lfirst(cell));
		found = evs_query_texts(&find_foreign_sequence, values, NULL);
		if (found != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("cannot save the tables of projection \"%s\"", projection->name),
					 errdetail("Sequence %s belongs to role \"%s\", as table %s does: role \"%s\" could not set it back.",
							   (char *) linitial(found), (char *) lthird(found),
							   (char *) lsecond(found), projection->owner),
					 errhint("Let the projection's owner own the partition: ALTER TABLE %s OWNER TO %s.",
							 (char *) lsecond(found), quote_identifier(projection->owner))));
	}
}

/*
 * Become the owner until evs_identity_leave(), with the settings under which texts
 * of values are read back as they were, whatever the session's are.
 */
static void
enter(EvsIdentity *identity, const EvsProjection *projection)
{
	evs_identity_enter(identity, projection->owner, projection->search_path);
	evs_identity_pin_settings();
	(void) set_config_option("lc_monetary", "C", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/* Where the rows of a table go. */
typedef struct Parts
{
	Datum		values[5];		/* insert_rows' */
	int			part;			/* the last one written */
} Parts;

static void
write_part(Parts *parts, Datum *texts, int count)
{
	parts->values[3] = Int32GetDatum(++parts->part);
	parts->values[4] = PointerGetDatum(construct_array(texts, count, TEXTOID, -1, false, TYPALIGN_INT));
	(void) evs_query_run(&insert_rows, parts->values, NULL);
	pfree(DatumGetPointer(parts->values[4]));
}

/* Write what was read, in as many parts as its size takes; returns that. */
static Size
write_rows(Parts *parts, SPITupleTable *tuples, uint64 count)
{
	Datum	   *texts = palloc(sizeof(Datum) * count);
	uint64		first = 0;
	Size		bytes = 0;
	Size		total = 0;

	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		Size		size;

		texts[i] = SPI_getbinval(tuples->vals[i], tuples->tupdesc, 1, &isnull);
		size = VARSIZE_ANY(DatumGetPointer(texts[i]));
		if (i > first && bytes + size > BYTES_PER_PART)
		{
			write_part(parts, texts + first, i - first);
			first = i;
			bytes = 0;
		}
		bytes += size;
		total += size;
	}
	write_part(parts, texts + first, count - first);
	pfree(texts);
	return total;
}

/* Run a statement that makes texts of the rows of a table; returns how many there are. */
static int64
save_selected(const EvsProjection *projection, int64 position, int number, const char *select)
{
	Portal		portal;
	int64		rows = 0;
	int64		wanted = FIRST_ROWS;
	Parts		parts = {
		{CStringGetTextDatum(projection->name), Int64GetDatum(position), Int32GetDatum(number)}
	};

	SPI_connect();
	portal = SPI_cursor_open_with_args(NULL, select, 0, NULL, NULL, NULL, true, 0);
	for (;;)
	{
		SPITupleTable *tuples;
		uint64		count;
		Size		bytes;

		SPI_cursor_fetch(portal, true, wanted);
		count = SPI_processed;
		tuples = SPI_tuptable;
		if (count == 0)
			break;
		bytes = write_rows(&parts, tuples, count);
		SPI_freetuptable(tuples);
		rows += count;
		wanted = Min(ROWS_PER_PART, Max(1, BYTES_PER_PART / Max(1, bytes / count)));
	}
	SPI_cursor_close(portal);
	SPI_finish();
	return rows;
}

/* The same; an error names what is read, and not the long statement. */
static int64
save_rows(const EvsProjection *projection, int64 position, int number, const char *select,
		  const char *what)
{
	MemoryContext context = CurrentMemoryContext;
	volatile int64 rows = 0;	/* set under PG_TRY */

	PG_TRY();
	{
		rows = save_selected(projection, position, number, select);
	}
	PG_CATCH();
	{
		evs_query_rethrow(context, select, psprintf("select ... from %s", what));
	}
	PG_END_TRY();
	return rows;
}

/* The sequences of all tables, for a from clause: s (id, name).  NULL: there are none. */
static char *
sequences_from(List *tables)
{
	StringInfoData from;
	ListCell   *cell;

	initStringInfo(&from);
	foreach(cell, tables)
	{
		const EvsTable *table = lfirst(cell);

		if (table->sequences != NULL)
			appendStringInfo(&from, "%s%s", from.len == 0 ? "(values " : ", ", table->sequences);
	}
	if (from.len == 0)
		return NULL;
	appendStringInfoString(&from, ") s (id, name)");
	return from.data;
}

int64
evs_table_rows_save(const EvsProjection *projection, int64 position, List *tables)
{
	EvsIdentity identity;
	int64		rows = 0;
	int			number = 0;
	char	   *sequences = sequences_from(tables);
	ListCell   *cell;

	enter(&identity, projection);

	/* rows that a policy hides would be missing: an error is better */
	(void) set_config_option("row_security", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	PushActiveSnapshot(GetLatestSnapshot());
	foreach(cell, tables)
	{
		EvsTable	   *table = lfirst(cell);

		rows += save_rows(projection, position, ++number,
						  psprintf("select (array[%s]::pg_catalog.text[])::pg_catalog.text from %s t",
								   table->texts ? table->texts : "", table->name),
						  table->name);
	}
	if (sequences != NULL)
		/* those that have given out a value, each with the last one */
		(void) save_rows(projection, position, SEQUENCES,
						 psprintf("select (array[s.name, l.value::pg_catalog.text])::pg_catalog.text"
								  " from %s, lateral (select pg_catalog.pg_sequence_last_value(s.id) as value) l"
								  " where l.value is not null", sequences),
						 "sequences");
	PopActiveSnapshot();
	evs_identity_leave(&identity);
	return rows;
}

/* One part of a table's rows; false if there is no such part. */
static bool
fetch_part(const EvsProjection *projection, int64 position, int number, int part,
		   Tuplestorestate *rows, TupleDesc tupdesc)
{
	Datum		values[] = {
		CStringGetTextDatum(projection->name), Int64GetDatum(position),
		Int32GetDatum(number), Int32GetDatum(part)
	};
	EvsQueryResult result;
	bool		found;

	evs_query_begin(&select_rows, values, NULL, InvalidSnapshot, &result);
	found = result.count > 0;
	if (found)
	{
		bool		isnull;
		Datum	   *texts;
		int			count;

		deconstruct_array(DatumGetArrayTypeP(SPI_getbinval(result.rows[0], result.tupdesc, 1, &isnull)),
						  TEXTOID, -1, false, TYPALIGN_INT, &texts, NULL, &count);
		isnull = false;
		for (int i = 0; i < count; i++)
			tuplestore_putvalues(rows, tupdesc, &texts[i], &isnull);
	}
	evs_query_end(&result);
	return found;
}

/* Run a statement on the rows of a table, which are texts r in saved_rows. */
static void
put_back(const EvsProjection *projection, int64 position, int number, const char *statement)
{
	MemoryContext context = CurrentMemoryContext;
	TupleDesc	tupdesc = CreateTemplateTupleDesc(1);
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, maintenance_work_mem);
	EphemeralNamedRelationData relation;
	volatile int code = 0;		/* set under PG_TRY */

	TupleDescInitEntry(tupdesc, 1, "r", TEXTOID, -1, 0);
	TupleDescFinalize(tupdesc);
	for (int part = 1; fetch_part(projection, position, number, part, rows, tupdesc); part++)
		CHECK_FOR_INTERRUPTS();

	relation.md.name = SAVED_ROWS;
	relation.md.reliddesc = InvalidOid;
	relation.md.tupdesc = tupdesc;
	relation.md.enrtype = ENR_NAMED_TUPLESTORE;
	relation.md.enrtuples = tuplestore_tuple_count(rows);
	relation.reldata = rows;
	SPI_connect();
	code = SPI_register_relation(&relation);
	PG_TRY();
	{
		if (code == SPI_OK_REL_REGISTER)
			code = SPI_execute(statement, false, 0);
	}
	PG_CATCH();
	{
		evs_query_rethrow(context, statement, NULL);
	}
	PG_END_TRY();
	if (code < 0)
		elog(ERROR, "%s: %s", SPI_result_code_string(code), statement);
	SPI_finish();
	tuplestore_end(rows);
}

static void
execute(List *statements)
{
	ListCell   *cell;

	foreach(cell, statements)
		evs_query_command(lfirst(cell));
}

/* Fill a table that is empty. */
static void
load_table(const EvsProjection *projection, int64 position, int number, const EvsTable *table)
{
	Datum		values[] = {CStringGetTextDatum(table->name)};
	EvsQueryResult result;
	List	   *disable = NIL;
	List	   *enable = NIL;
	StringInfoData insert;

	if (table->columns == NULL)
		return;
	evs_query_begin(&list_firing, values, NULL, InvalidSnapshot, &result);
	for (uint64 i = 0; i < result.count; i++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(result.context);

		disable = lappend(disable, evs_query_text(&result, i, 1));
		enable = lappend(enable, evs_query_text(&result, i, 2));
		MemoryContextSwitchTo(spi_context);
	}
	evs_query_end(&result);

	initStringInfo(&insert);
	appendStringInfo(&insert,
					 "insert into %s (%s) overriding system value"
					 " select %s from " SAVED_ROWS " r, lateral (select r.r::pg_catalog.text[]) x (v)",
					 table->name, table->columns, table->values);
	execute(disable);
	put_back(projection, position, number, insert.data);

	/* no check of the rows is still to come: PostgreSQL refuses to defer one here */
	execute(enable);
}

void
evs_table_rows_load(const EvsProjection *projection, int64 position)
{
	List	   *tables = evs_table_rows_describe(projection);
	char	   *sequences = sequences_from(tables);
	EvsIdentity identity;
	ListCell   *cell;

	enter(&identity, projection);
	foreach(cell, evs_table_rows_order(projection))
	{
		int			number = lfirst_int(cell);

		load_table(projection, position, number, list_nth(tables, number - 1));
	}
	if (sequences != NULL)
		put_back(projection, position, SEQUENCES,
				 psprintf("select pg_catalog.setval(s.id, (x.v)[2]::pg_catalog.int8)"
						  " from (select r.r::pg_catalog.text[] as v from " SAVED_ROWS " r) x"
						  " join %s on s.name = (x.v)[1]", sequences));
	evs_identity_leave(&identity);
}
