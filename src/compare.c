/*
 * compare.c - in what two versions of a read model differ.
 *
 * Rows are compared as jsonb: every type has that form, also those that have no equality.
 * Where it has one form for values that are not the same (null, the bounds of arrays, json),
 * their text is compared as well.  jsonb has no room for large values: a hash stands for
 * these, and what is not compared is not looked at.  Rows of the same bytes are equal without
 * all that.  The statements read with the active snapshot and change nothing.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tupdesc.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "nodes/nodes.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compare.h"
#include "identity.h"
#include "query.h"
#include "resolve.h"

/*
 * Longer values of a row (all together) are compared by their hashes.  As jsonb they may
 * take eight times as much, and jsonb ends at 256 MB; nobody wants to read them, either.
 */
#define MAX_VALUES		(8 * 1024 * 1024)

/*
 * A value (%1$s), or what stands for it if it is longer than %2$d bytes.  The length and the
 * hash are those of its text: equal values may be stored in many ways, but are written in one.
 */
#define DIGEST(length, hash)	"format('%%s bytes, hash %%s', " length ", " hash ")"
#define HASH_OF_TEXT(value) \
	"lpad(to_hex(hashtextextended(" value " collate \"C\", 0)), 16, '0')"

/* Its length can be read without the value. */
static const char text_or_digest[] =
"case when octet_length(%1$s::text) > %2$d"
" then " DIGEST("octet_length(%1$s::text)", HASH_OF_TEXT("%1$s::text"))
" else %1$s::text end";

/* So can this one, and the text would be twice as long. */
static const char bytea_or_digest[] =
"case when octet_length(%1$s::bytea) > %2$d"
" then " DIGEST("octet_length(%1$s::bytea)", "left(encode(sha256(%1$s::bytea), 'hex'), 16)")
" when %1$s is not null then concat(%1$s) end";

/*
 * The text is made once, and by no cast: there may be one that leaves something out.  It
 * stands for what jsonb has no place for (%3$s).
 */
static const char any_or_digest[] =
"(select case when octet_length(v) > %2$d"
" then to_jsonb(" DIGEST("octet_length(v)", HASH_OF_TEXT("v")) ")"
" when %3$s then to_jsonb(v) else to_jsonb(%1$s) end"
" from (select concat(%1$s) as v offset 0) x)";

/*
 * In json there may be escapes of what no text has.  Two escapes of one character are told
 * from these in json alone, not in types that quote it.
 */
#define HAS_ESCAPES		"strpos(v, '\\u') > 0 and "
#define NO_TEXT			" ~ '\\\\u(0000|[dD][89a-fA-F])'"
#define JSON_IS_ODD		HAS_ESCAPES \
	"regexp_replace(replace(v, '\\\\', ''), '\\\\u[dD][89abAB]..\\\\u[dD][c-fC-F]..', '', 'g')" NO_TEXT
#define ANY_IS_ODD		HAS_ESCAPES "v" NO_TEXT

/* concat() makes '' of NULL; and a value may be IS NULL that is not. */
static const char any_as_text[] =
"case when num_nulls(%1$s) = 0 then (select case when octet_length(v) > %2$d"
" then " DIGEST("octet_length(v)", HASH_OF_TEXT("v"))
" else v end"
" from (select concat(%1$s) as v offset 0) x) end";

/* What the statement for a table is made of. */
typedef struct TableShape
{
	Oid			relid;
	List	   *left_out;		/* columns (char *) that are not compared */
	int			longest;		/* value that no hash stands for */
	List	   *key;			/* columns (char *) of the primary key, or NIL */
	List	   *operators;		/* equality of each of them, as OPERATOR() takes it */
} TableShape;

/* ---- what there is to compare ---- */

/* Is the column filled with something else each time it is filled? */
static bool
has_changing_default(TupleDesc desc, AttrNumber column)
{
	TupleConstr *constraints = desc->constr;

	if (constraints == NULL || TupleDescAttr(desc, column - 1)->attgenerated != '\0')
		return false;
	for (int i = 0; i < constraints->num_defval; i++)
	{
		if (constraints->defval[i].adnum == column)
			return contain_mutable_functions(stringToNode(constraints->defval[i].adbin));
	}
	return false;
}

static List *
columns_to_leave_out(Relation relation, ArrayType *ignored)
{
	TupleDesc	desc = RelationGetDescr(relation);
	List	   *columns = NIL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (attribute->attisdropped)
			continue;
		if (attribute->attidentity != '\0' || has_changing_default(desc, i + 1))
			columns = lappend(columns, pstrdup(NameStr(attribute->attname)));
	}
	if (ignored != NULL)
	{
		Datum	   *values;
		bool	   *nulls;
		int			count;

		deconstruct_array(ignored, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &count);
		for (int i = 0; i < count; i++)
		{
			if (!nulls[i])
				columns = lappend(columns, TextDatumGetCString(values[i]));
		}
	}
	return columns;
}

static bool
is_in(List *names, const char *name)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	}
	return false;
}

/* An operator by its full name. */
static char *
qualified_operator(Oid operator)
{
	ObjectAddress address;

	ObjectAddressSet(address, OperatorRelationId, operator);
	return psprintf("operator(%s.%s)",
					quote_identifier(get_namespace_name(get_object_namespace(&address))),
					get_opname(operator));
}

/* The primary key, unless a part of it is not compared. */
static void
find_key(TableShape *shape, Relation relation)
{
	Relation	index;

	list_free(RelationGetIndexList(relation));
	if (!OidIsValid(relation->rd_pkindex))
		return;

	index = index_open(relation->rd_pkindex, AccessShareLock);
	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
	{
		Form_pg_attribute attribute =
			TupleDescAttr(RelationGetDescr(relation), index->rd_index->indkey.values[i] - 1);
		Oid			equality = get_opfamily_member(index->rd_opfamily[i],
												   index->rd_opcintype[i], index->rd_opcintype[i],
												   BTEqualStrategyNumber);

		if (is_in(shape->left_out, NameStr(attribute->attname)) || !OidIsValid(equality))
		{
			shape->key = NIL;
			break;
		}
		shape->key = lappend(shape->key, pstrdup(NameStr(attribute->attname)));
		shape->operators = lappend(shape->operators, qualified_operator(equality));
	}
	index_close(index, NoLock);
}

/* Is the value looked at, and can it be so long that a hash has to stand for it? */
static bool
may_be_long(const TableShape *shape, Form_pg_attribute attribute)
{
	const char *name = NameStr(attribute->attname);

	/* What is in an index is short enough, and a number has at most 150,000 digits. */
	return !attribute->attisdropped && attribute->attlen == -1 &&
		!is_in(shape->left_out, name) && !is_in(shape->key, name) &&
		getBaseType(attribute->atttypid) != NUMERICOID;
}

/* How a row is seen. */
typedef enum Form
{
	AS_STORED,					/* the values */
	AS_SHOWN,					/* with names, to be made jsonb */
	AS_TEXT						/* what that does not tell apart */
} Form;

static char *
value_or_digest(Form form, Form_pg_attribute attribute, const char *value, int longest)
{
	if (form == AS_TEXT)
		return psprintf(any_as_text, value, longest);
	switch (getBaseType(attribute->atttypid))
	{
		case TEXTOID:
		case VARCHAROID:
			return psprintf(text_or_digest, value, longest);
		case BYTEAOID:
			return psprintf(bytea_or_digest, value, longest);
		case BPCHAROID:
		case JSONBOID:
			return psprintf(any_or_digest, value, longest, "false");
		case JSONOID:
			return psprintf(any_or_digest, value, longest, JSON_IS_ODD);
		default:
			return psprintf(any_or_digest, value, longest, ANY_IS_ODD);
	}
}

/*
 * Is all of a value in its jsonb?  So it is meant to be for numbers: which of two that are
 * equal max() returns, 1.0 or 1.00, depends on how the events were divided into batches.
 */
static bool
is_told_by_jsonb(Form_pg_attribute attribute)
{
	switch (getBaseType(attribute->atttypid))
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case BYTEAOID:
		case UUIDOID:
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return true;
		default:
			return false;
	}
}

static void
find_longest(TableShape *shape, TupleDesc desc)
{
	int			nlong = 0;

	for (int i = 0; i < desc->natts; i++)
		nlong += may_be_long(shape, TupleDescAttr(desc, i));
	shape->longest = MAX_VALUES / Max(nlong, 1);
}

/* What is compared of a row of the table that goes by this name in the statement. */
static char *
columns_of(const TableShape *shape, const char *table, Form form)
{
	Relation	relation = table_open(shape->relid, NoLock);
	TupleDesc	desc = RelationGetDescr(relation);
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		const char *name = quote_identifier(NameStr(attribute->attname));
		char	   *value = psprintf("%s.%s", table, name);

		if (attribute->attisdropped || is_in(shape->left_out, NameStr(attribute->attname)))
			continue;
		if (form == AS_TEXT && is_told_by_jsonb(attribute))
			continue;
		if (form == AS_TEXT && getBaseType(attribute->atttypid) == JSONBOID)
			value = psprintf("num_nulls(%s)", value);
		else if (form != AS_STORED && may_be_long(shape, attribute))
			value = value_or_digest(form, attribute, value, shape->longest);
		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", value);
		if (form == AS_SHOWN)
			appendStringInfo(&list, " as %s", name);
	}
	table_close(relation, NoLock);
	return list.data;
}

static char *
row_as_text(const TableShape *shape, const char *table)
{
	return psprintf("concat(row(%s)) collate \"C\"", columns_of(shape, table, AS_TEXT));
}

static char *
row_as_shown(const TableShape *shape, const char *table)
{
	return psprintf("(select to_jsonb(r.*) from (select %s) r)",
					columns_of(shape, table, AS_SHOWN));
}

static void
find_shape(TableShape *shape, Oid relid, ArrayType *ignored)
{
	Relation	relation = table_open(relid, AccessShareLock);

	memset(shape, 0, sizeof(TableShape));
	shape->relid = relid;
	shape->left_out = columns_to_leave_out(relation, ignored);
	find_key(shape, relation);
	find_longest(shape, RelationGetDescr(relation));
	table_close(relation, NoLock);
}

/* ---- the statement ---- */

/* NULL if the join has found no such row: the key has no NULL. */
static char *
if_there(const TableShape *shape, const char *table, const char *value)
{
	return psprintf("case when num_nulls(%s.%s) = 0 then %s end",
					table, quote_identifier(linitial(shape->key)), value);
}

/* select key, one, other, one as text, columns of the key: rows found by their key */
static char *
statement_by_key(const TableShape *shape, const char *one, const char *other)
{
	const char *text_one = if_there(shape, "a", row_as_text(shape, "a"));
	const char *shown_one = if_there(shape, "a", row_as_shown(shape, "a"));
	const char *shown_other = if_there(shape, "b", row_as_shown(shape, "b"));
	StringInfoData statement;
	StringInfoData condition;
	StringInfoData order;
	ListCell   *cell;
	ListCell   *op;

	initStringInfo(&statement);
	initStringInfo(&condition);
	initStringInfo(&order);
	appendStringInfoString(&statement, "select jsonb_build_object(");
	forboth(cell, shape->key, op, shape->operators)
	{
		const char *name = quote_identifier(lfirst(cell));
		const char *comma = order.len > 0 ? ", " : "";

		appendStringInfo(&statement, "%s%s, coalesce(a.%s, b.%s)", comma,
						 quote_literal_cstr(lfirst(cell)), name, name);
		appendStringInfo(&condition, "%sa.%s %s b.%s", order.len > 0 ? " and " : "",
						 name, (char *) lfirst(op), name);
		appendStringInfo(&order, "%scoalesce(a.%s, b.%s)", comma, name, name);
	}
	appendStringInfo(&statement, ")::text, %s, %s, %s, %s from %s a full join %s b on %s",
					 shown_one, shown_other, text_one, order.data, one, other, condition.data);
	appendStringInfo(&statement,
					 " where case when record_image_eq(row(%s), row(%s)) then false"
					 " else %s is distinct from %s or %s is distinct from %s end"
					 " order by %s limit $1",
					 columns_of(shape, "a", AS_STORED), columns_of(shape, "b", AS_STORED),
					 shown_one, shown_other,
					 text_one, if_there(shape, "b", row_as_text(shape, "b")), order.data);
	return statement.data;
}

/* the same: rows that only one of them has */
static char *
statement_by_row(const TableShape *shape, const char *one, const char *other)
{
	const char *rows = psprintf("select %s as v, %s as r from",
								row_as_text(shape, "t"), row_as_shown(shape, "t"));

	return psprintf("select null::text, a.r, null::jsonb from (%s %s t except all %s %s t) a"
					" union all "
					"select null::text, null::jsonb, b.r from (%s %s t except all %s %s t) b"
					" order by 2, 3 limit $1",
					rows, one, rows, other, rows, other, rows, one);
}

static Jsonb *
jsonb_column(HeapTuple row, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(row, desc, column, &isnull);

	return isnull ? NULL : DatumGetJsonbP(value);
}

/* Rows (key, one, other), and of those with a key more: see statement_by_key(). */
static void
report_rows(const char *relation, HeapTuple *rows, TupleDesc desc, uint64 count,
			EvsReportDifference report, void *argument)
{
	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		Datum		key = SPI_getbinval(rows[i], desc, 1, &isnull);
		EvsDifference difference = {
			relation,
			isnull ? NULL : DatumGetTextPP(key),
			jsonb_column(rows[i], desc, 2),
			jsonb_column(rows[i], desc, 3),
		};

		if (desc->natts >= EVS_KEY_COLUMN)
		{
			Datum		value = SPI_getbinval(rows[i], desc, EVS_KEY_COLUMN - 1, &isnull);

			difference.one_text = isnull ? NULL : DatumGetTextPP(value);
			difference.key_row = rows[i];
			difference.key_desc = desc;
		}
		report(argument, &difference);
	}
}

/*
 * What differs does not depend on the settings of whoever asks, such as the number of
 * digits.  Rows that a policy hides would be missing on one side: an error is better.
 */
static void
enter_as_owner(EvsIdentity *identity, const char *owner)
{
	evs_identity_enter(identity, owner, "pg_catalog, pg_temp");
	evs_identity_pin_settings();
	(void) set_config_option("row_security", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

int64
evs_compare_tables(const char *owner, Oid relid, const char *name,
				   const char *one, const char *other, ArrayType *ignored, int64 limit,
				   EvsReportDifference report, void *argument)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(limit)};
	TableShape	shape;
	EvsIdentity identity;
	MemoryContext caller = CurrentMemoryContext;
	char	   *statement;
	volatile int result = 0;	/* set under PG_TRY */
	uint64		count;

	if (limit <= 0)
		return 0;
	find_shape(&shape, relid, ignored);
	one = evs_resolve_only(one);
	other = evs_resolve_only(other);
	statement = shape.key != NIL ? statement_by_key(&shape, one, other) :
		statement_by_row(&shape, one, other);
	enter_as_owner(&identity, owner);
	SPI_connect();
	PG_TRY();
	{
		result = SPI_execute_with_args(statement, 1, types, values, NULL, true, 0);
	}
	PG_CATCH();
	{
		evs_query_rethrow(caller, statement, psprintf("select ... from %s", name));
	}
	PG_END_TRY();
	if (result != SPI_OK_SELECT)
		elog(ERROR, "comparing \"%s\": %s", name, SPI_result_code_string(result));
	count = SPI_processed;
	report_rows(name, SPI_tuptable->vals, SPI_tuptable->tupdesc, count, report, argument);
	SPI_finish();
	evs_identity_leave(&identity);
	return (int64) count;
}

/* ---- one row ---- */

struct EvsRowFinder
{
	const char *owner;
	char	   *statement;
	SPIPlanPtr	plan;			/* NULL: not made yet */
	int			nargs;
	Oid		   *types;
	Datum	   *values;			/* the key */
	MemoryContextCallback callback; /* frees the plan */
};

static void
free_plan(void *arg)
{
	EvsRowFinder *finder = arg;

	if (finder->plan != NULL)
		SPI_freeplan(finder->plan);
}

EvsRowFinder *
evs_row_finder(const char *owner, Oid relid, const char *table, ArrayType *ignored,
			   const EvsDifference *difference)
{
	EvsRowFinder *finder = palloc0(sizeof(EvsRowFinder));
	TableShape	shape;
	StringInfoData statement;
	ListCell   *cell;
	ListCell   *op;
	int			column = EVS_KEY_COLUMN;

	find_shape(&shape, relid, ignored);
	finder->owner = owner;
	finder->types = palloc(sizeof(Oid) * list_length(shape.key));
	finder->values = palloc(sizeof(Datum) * list_length(shape.key));

	initStringInfo(&statement);
	appendStringInfo(&statement, "select t.ctid, t.xmin, %s, %s from %s t",
					 row_as_shown(&shape, "t"), row_as_text(&shape, "t"),
					 evs_resolve_only(table));
	forboth(cell, shape.key, op, shape.operators)
	{
		Form_pg_attribute attribute = TupleDescAttr(difference->key_desc, column - 1);
		bool		isnull;
		Datum		value = SPI_getbinval(difference->key_row, difference->key_desc, column++, &isnull);

		finder->types[finder->nargs] = attribute->atttypid;
		finder->values[finder->nargs++] = datumCopy(value, attribute->attbyval, attribute->attlen);
		appendStringInfo(&statement, " %s t.%s %s $%d", finder->nargs == 1 ? "where" : "and",
						 quote_identifier(lfirst(cell)), (char *) lfirst(op), finder->nargs);
	}
	finder->statement = statement.data;
	finder->callback.func = free_plan;
	finder->callback.arg = finder;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &finder->callback);
	return finder;
}

bool
evs_row_find(EvsRowFinder *finder, EvsRowFound *found)
{
	MemoryContext caller = CurrentMemoryContext;
	EvsIdentity identity;
	bool		exists;
	bool		isnull;

	enter_as_owner(&identity, finder->owner);
	SPI_connect();
	if (finder->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(finder->statement, finder->nargs, finder->types);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "%s: %s", SPI_result_code_string(SPI_result), finder->statement);
		finder->plan = plan;
	}
	if (SPI_execute_plan(finder->plan, finder->values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "looking for a row: %s", finder->statement);
	exists = SPI_processed == 1;
	if (exists)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		Jsonb	   *content = jsonb_column(row, desc, 3);
		MemoryContext spi_context = MemoryContextSwitchTo(caller);

		found->ctid = *(ItemPointer) DatumGetPointer(SPI_getbinval(row, desc, 1, &isnull));
		found->xmin = DatumGetTransactionId(SPI_getbinval(row, desc, 2, &isnull));
		found->content = DatumGetJsonbPCopy(JsonbPGetDatum(content));
		found->text = DatumGetTextPCopy(SPI_getbinval(row, desc, 4, &isnull));
		MemoryContextSwitchTo(spi_context);
	}
	SPI_finish();
	evs_identity_leave(&identity);
	return exists;
}
