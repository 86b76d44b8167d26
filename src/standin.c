/*
 * standin.c - copies of a projection's tables, which its handler finds in their
 * place.
 *
 * A handler's names are looked up in the projection's search_path.  The schema
 * of the copies stands first there, so that a bare name of a table means its
 * copy; every other name means what it meant.
 *
 * A name that brings its schema along, a function with a search_path of its own
 * and a view over the table lead to the table itself.  That cannot be seen in
 * the source of a handler.  It can be seen in what is executed: the executor
 * asks a hook about the relations of every statement, and while a stand-in is
 * entered the tables that have copies are not let through.
 *
 * Locks: the tables are locked in access share mode until the transaction ends,
 * so that they keep their shape and nobody empties them.
 */
#include "evsource.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

#include "query.h"
#include "resolve.h"
#include "shadow.h"
#include "standin.h"

/* The stand-in that is entered, in which subtransaction; NULL: none. */
static const EvsStandin *entered = NULL;
static SubTransactionId entered_in;

static ExecutorCheckPerms_hook_type previous_hook = NULL;

EvsProjection *
evs_standin_projection(const EvsProjection *projection)
{
	EvsProjection *copy = palloc(sizeof(EvsProjection));

	*copy = *projection;
	copy->context = CurrentMemoryContext;
	copy->runtime = NULL;
	return copy;
}

/* ---- the copies ---- */

static EvsStandinTable *
find_table(const char *name, const char *schema)
{
	EvsStandinTable *table = palloc0(sizeof(EvsStandinTable));
	List	   *names = stringToQualifiedNameList(name, NULL);
	char		relkind;

	table->relid = RangeVarGetRelid(makeRangeVarFromNameList(names), AccessShareLock, false);
	relkind = get_rel_relkind(table->relid);
	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot make a copy of \"%s\"", name),
				 errdetail("It is not an ordinary table."),
				 errhint("Name tables with evsource.alter_projection(), not views or foreign tables.")));
	table->name = pstrdup(name);
	table->copy = quote_qualified_identifier(schema, strVal(llast(names)));
	return table;
}

/* Two tables of one bare name would both be the first of it in the search_path. */
static void
check_names(const EvsStandin *standin)
{
	ListCell   *one;
	ListCell   *other;

	foreach(one, standin->tables)
	{
		EvsStandinTable *table = lfirst(one);

		foreach(other, standin->tables)
		{
			EvsStandinTable *second = lfirst(other);

			if (table == second)
				break;
			if (strcmp(table->copy, second->copy) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("projection \"%s\" has two tables of the same name",
								standin->projection->name),
						 errdetail("Its handler could not tell the copies of %s and %s apart.",
								   second->name, table->name),
						 errhint("Rename one of the tables.")));
		}
	}
}

static EvsStandin *
plan_copies(const EvsProjection *projection, const char *schema)
{
	EvsStandin *standin = palloc0(sizeof(EvsStandin));
	ListCell   *cell;

	if (projection->tables == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" does not say which tables are its own",
						projection->name),
				 errhint("Name them: evsource.alter_projection('%s', tables => ...).",
						 projection->name)));

	evs_resolve_check_tables(projection);
	standin->schema = pstrdup(schema);
	standin->projection = evs_standin_projection(projection);
	standin->projection->live_path = projection->search_path;
	standin->projection->search_path = psprintf("%s, %s", quote_identifier(schema),
											   projection->search_path);
	foreach(cell, projection->tables)
		standin->tables = lappend(standin->tables, find_table(lfirst(cell), schema));
	check_names(standin);
	return standin;
}

static EvsQuery list_statements = {
	"select s from evsource._shadow_statements($1, $2, true) s",
	2, {REGCLASSARRAYOID, TEXTOID}, SPI_OK_SELECT
};

/* The owner of the copies writes them whatever is forced on owners: who compares will say so. */
static EvsQuery list_access = {
	"select s from evsource._shadow_access($1, $2, $3) s where s not like '% force row level security'",
	3, {REGCLASSARRAYOID, TEXTOID, OIDOID}, SPI_OK_SELECT
};

static EvsQuery list_fired = {
	"select trigger::text from evsource._shadow_triggers($1) where not asks",
	1, {REGCLASSARRAYOID}, SPI_OK_SELECT
};

static Datum
table_array(const EvsStandin *standin)
{
	Datum	   *elements = palloc(sizeof(Datum) * list_length(standin->tables));
	int			count = 0;
	ListCell   *cell;

	foreach(cell, standin->tables)
		elements[count++] = ObjectIdGetDatum(((EvsStandinTable *) lfirst(cell))->relid);
	return PointerGetDatum(construct_array(elements, count, REGCLASSOID, sizeof(Oid), true,
										   TYPALIGN_INT));
}

/* The schema is made by the owner of evsource: others need not be allowed to. */
static void
create_schema(const EvsStandin *standin, Oid builder)
{
	const char *schema = quote_identifier(standin->schema);
	const char *owner = quote_identifier(standin->projection->owner);
	List	   *statements = list_make1(psprintf("create schema %s authorization %s", schema, owner));

	statements = lappend(statements, psprintf("grant usage on schema %s to %s", schema,
											  quote_identifier(GetUserNameFromId(builder, false))));
	evs_shadow_execute(statements, GetUserNameFromId(evs_query_owner(), false));
}

static void
create_copies(const EvsStandin *standin, Oid builder)
{
	Datum		values[] = {
		table_array(standin), CStringGetTextDatum(standin->schema), ObjectIdGetDatum(builder)
	};

	evs_shadow_execute(evs_query_texts(&list_statements, values, NULL), standin->projection->owner);
	evs_shadow_execute(evs_query_texts(&list_access, values, NULL), standin->projection->owner);
}

static bool
triggers_fire(const EvsStandin *standin)
{
	Datum		values[] = {table_array(standin)};

	return evs_query_texts(&list_fired, values, NULL) != NIL;
}

/*
 * Each session has names of its own, or two of them would wait for each other;
 * and nobody's schema is in the way.
 */
static char *
choose_schema(const char *prefix)
{
	char	   *name = psprintf("%s_%d", prefix, MyProcPid);

	while (OidIsValid(get_namespace_oid(name, true)))
		name = psprintf("%s_", name);
	return name;
}

EvsStandin *
evs_standin_create(const EvsProjection *projection, const char *prefix)
{
	EvsStandin *standin = plan_copies(projection, choose_schema(prefix));
	Oid			builder = evs_shadow_builder(projection, get_role_oid(projection->owner, false));

	create_schema(standin, builder);
	create_copies(standin, builder);
	standin->fires = triggers_fire(standin);
	return standin;
}

/* ---- nobody goes past them ---- */

static void
check_relation(Oid relid)
{
	ListCell   *cell;

	foreach(cell, entered->tables)
	{
		EvsStandinTable *table = lfirst(cell);

		if (table->relid == relid)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("projection \"%s\" cannot work on a copy of its tables",
							entered->projection->name),
					 errdetail("A statement names table %s itself, not what the search_path gives for its name.",
							   table->name),
					 errhint("In the handler, leave the schema out of the table's name and set no search_path for the function.")));
	}
}

static bool
check_relations(EVS_CHECK_PERMS_PARAMETERS)
{
	if (entered != NULL)
	{
		ListCell   *cell;

		foreach(cell, rangeTable)
		{
			RangeTblEntry *entry = lfirst(cell);

			if (entry->rtekind == RTE_RELATION)
				check_relation(entry->relid);
		}
	}
	return previous_hook == NULL || previous_hook(EVS_CHECK_PERMS_ARGUMENTS);
}

void
evs_standin_enter(const EvsStandin *standin)
{
	Assert(entered == NULL);
	entered = standin;
	entered_in = GetCurrentSubTransactionId();
}

void
evs_standin_leave(void)
{
	entered = NULL;
}

static void
xact_callback(XactEvent event, void *arg)
{
	entered = NULL;
}

static void
subxact_callback(SubXactEvent event, SubTransactionId subid,
				 SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && entered_in == subid)
		entered = NULL;
}

void
evs_standin_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
	previous_hook = ExecutorCheckPerms_hook;
	ExecutorCheckPerms_hook = check_relations;
}
