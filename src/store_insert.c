/*
 * store_insert.c - put events into the table by an INSERT.
 *
 * Somebody has put triggers, rules, policies, constraints or columns of their
 * own on evsource.events: the executor knows how to honour them.  intake.c
 * numbers the rows, dispatches them, and tells what it gave to each.
 */
#include "evsource.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "parser/parsetree.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "intake.h"
#include "store.h"
#include "store_insert.h"

static const char insert_command[] =
"insert into evsource.events (stream, type, data, metadata, id, occurred_at)"
" select $1, u.type, u.data, u.metadata, u.id, u.occurred_at"
" from rows from (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),"
" pg_catalog.unnest($5), pg_catalog.unnest($6))"
" with ordinality as u (type, data, metadata, id, occurred_at, n)"
" order by u.n";

/* The column that is rarely given needs a right of its own where columns do. */
static const char insert_versions_command[] =
"insert into evsource.events (stream, type, data, metadata, id, occurred_at, schema_version)"
" select $1, u.type, u.data, u.metadata, u.id, u.occurred_at, u.schema_version"
" from rows from (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),"
" pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7))"
" with ordinality as u (type, data, metadata, id, occurred_at, schema_version, n)"
" order by u.n";

static Datum
column(const EvsBatch *batch, Oid type, Datum (*value) (const EvsEvent *event, bool *isnull))
{
	Datum	   *values = palloc(batch->count * sizeof(Datum));
	bool	   *nulls = palloc0(batch->count * sizeof(bool));
	int			lower_bound = 1;
	int			count = batch->count;
	int16		typlen;
	bool		typbyval;
	char		typalign;

	for (int i = 0; i < batch->count; i++)
		values[i] = value(&batch->events[i], &nulls[i]);
	get_typlenbyvalalign(type, &typlen, &typbyval, &typalign);
	return PointerGetDatum(construct_md_array(values, nulls, 1, &count, &lower_bound,
											  type, typlen, typbyval, typalign));
}

static Datum
type_of(const EvsEvent *event, bool *isnull)
{
	return PointerGetDatum(event->type);
}

static Datum
data_of(const EvsEvent *event, bool *isnull)
{
	return JsonbPGetDatum(event->data);
}

static Datum
metadata_of(const EvsEvent *event, bool *isnull)
{
	*isnull = event->metadata == NULL;
	return JsonbPGetDatum(event->metadata);
}

static Datum
id_of(const EvsEvent *event, bool *isnull)
{
	*isnull = !event->has_id;
	return UUIDPGetDatum(&event->id);
}

static Datum
occurred_at_of(const EvsEvent *event, bool *isnull)
{
	*isnull = !event->has_occurred_at;
	return TimestampTzGetDatum(event->occurred_at);
}

static Datum
schema_version_of(const EvsEvent *event, bool *isnull)
{
	*isnull = event->schema_version == 0;
	return Int16GetDatum(event->schema_version);
}

/* kept for the session: without and with versions */
static SPIPlanPtr plans[2] = {NULL, NULL};

static SPIPlanPtr
insert_plan(bool versions)
{
	Oid			types[] = {TEXTOID, TEXTARRAYOID, JSONBARRAYOID, JSONBARRAYOID,
	UUIDARRAYOID, TIMESTAMPTZARRAYOID, INT2ARRAYOID};

	if (plans[versions] == NULL)
	{
		SPIPlanPtr	fresh = SPI_prepare(versions ? insert_versions_command : insert_command,
										versions ? 7 : 6, types);

		if (fresh == NULL)
			elog(ERROR, "could not prepare the insert of events: %s",
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(fresh);
		plans[versions] = fresh;
	}
	return plans[versions];
}

/* the arguments of insert_plan() */
#define INSERT_ARGUMENTS	7

static void
fill_arguments(text *stream, const EvsBatch *batch, bool versions, Datum *arguments)
{
	arguments[0] = PointerGetDatum(stream);
	arguments[1] = column(batch, TEXTOID, type_of);
	arguments[2] = column(batch, JSONBOID, data_of);
	arguments[3] = column(batch, JSONBOID, metadata_of);
	arguments[4] = column(batch, UUIDOID, id_of);
	arguments[5] = column(batch, TIMESTAMPTZOID, occurred_at_of);
	if (versions)
		arguments[6] = column(batch, INT2OID, schema_version_of);
}

/* ---- asking the policies ---- */

/* The INSERT into events that rules have left of the command, or NULL. */
static PlannedStmt *
find_insert(CachedPlan *plan, Oid events)
{
	ListCell   *cell;

	foreach(cell, plan->stmt_list)
	{
		PlannedStmt *statement = lfirst_node(PlannedStmt, cell);
		ModifyTable *insert = (ModifyTable *) statement->planTree;

		if (statement->commandType == CMD_INSERT && IsA(insert, ModifyTable) &&
			rt_fetch(linitial_int(insert->resultRelations), statement->rtable)->relid == events)
			return statement;
	}
	return NULL;
}

/* Do the policies that an INSERT of the row has to meet let it pass? */
static bool
row_passes(const ResultRelInfo *relinfo, EState *estate, TupleTableSlot *row)
{
	ExprContext *econtext = GetPerTupleExprContext(estate);
	ListCell   *check;
	ListCell   *expression;

	econtext->ecxt_scantuple = row;
	forboth(check, relinfo->ri_WithCheckOptions, expression, relinfo->ri_WithCheckOptionExprs)
		if (lfirst_node(WithCheckOption, check)->kind == WCO_RLS_INSERT_CHECK &&
			!ExecQual((ExprState *) lfirst(expression), econtext))
			return false;
	return true;
}

/* The rows that the INSERT would be given, with the defaults of other columns and what is generated. */
static bool
rows_pass(QueryDesc *query, Relation events)
{
	ModifyTableState *insert = castNode(ModifyTableState, query->planstate);
	TupleTableSlot *row = table_slot_create(events, NULL);
	bool		generated = row->tts_tupleDescriptor->constr != NULL &&
		row->tts_tupleDescriptor->constr->has_generated_stored;
	bool		pass = true;
	TupleTableSlot *given;

	while (pass)
	{
		CHECK_FOR_INTERRUPTS();
		ResetPerTupleExprContext(query->estate);
		given = ExecProcNode(evs_modify_table_source(insert));
		if (TupIsNull(given))
			break;
		ExecCopySlot(row, given);
		row->tts_tableOid = RelationGetRelid(events);
		if (generated)
			evs_compute_generated(insert->resultRelInfo, query->estate, row);
		pass = row_passes(insert->resultRelInfo, query->estate, row);
	}
	ExecDropSingleTupleTableSlot(row);
	return pass;
}

bool
evs_store_insert_passes(Relation events, text *stream, const EvsBatch *batch)
{
	bool		versions = evs_store_has_versions(batch);
	int			count = versions ? INSERT_ARGUMENTS : INSERT_ARGUMENTS - 1;
	Datum		arguments[INSERT_ARGUMENTS];
	ParamListInfo params = makeParamList(count);
	bool		pass = false;
	CachedPlan *plan;
	PlannedStmt *statement;

	SPI_connect();
	fill_arguments(stream, batch, versions, arguments);
	for (int i = 0; i < count; i++)
	{
		params->params[i].value = arguments[i];
		params->params[i].isnull = false;
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = SPI_getargtypeid(insert_plan(versions), i);
	}

	PushActiveSnapshot(GetTransactionSnapshot());
	plan = SPI_plan_get_cached_plan(insert_plan(versions));
	statement = find_insert(plan, RelationGetRelid(events));
	if (statement != NULL)
	{
		QueryDesc  *query = CreateQueryDesc(statement, insert_command, GetActiveSnapshot(),
											InvalidSnapshot, None_Receiver, params, NULL, 0);

		/*
		 * It is not run: neither its triggers fire nor does it store anything.  But it
		 * prepares their transition tables, which has to be in a query that has triggers.
		 */
		ExecutorStart(query, 0);
		pass = rows_pass(query, events);
		ExecutorFinish(query);
		ExecutorEnd(query);
		FreeQueryDesc(query);
	}
	ReleaseCachedPlan(plan, CurrentResourceOwner);
	PopActiveSnapshot();
	SPI_finish();
	return pass;
}

/* ---- storing ---- */

/* Returns the number of rows that were stored. */
static uint64
run_insert(Datum *arguments, bool versions)
{
	MemoryContext context = CurrentMemoryContext;
	volatile int result = 0;	/* set under PG_TRY */

	PG_TRY();
	{
		result = SPI_execute_plan(insert_plan(versions), arguments, NULL, false, 0);
	}
	PG_CATCH();
	{
		evs_store_rethrow(context, versions ? insert_versions_command : insert_command);
	}
	PG_END_TRY();

	if (result < 0)
		elog(ERROR, "could not insert events: %s", SPI_result_code_string(result));
	if (result != SPI_OK_INSERT)
	{
		/*
		 * A rule made something else of it.  When nothing is left of the command,
		 * the plan depends on no table and would outlive the rule.
		 */
		SPI_freeplan(plans[versions]);
		plans[versions] = NULL;
		return 0;
	}
	return SPI_processed;
}

void
evs_store_insert(text *stream, EvsBatch *batch, int64 expected_version)
{
	EvsIntake	intake;
	Datum		arguments[INSERT_ARGUMENTS];
	bool		versions = evs_store_has_versions(batch);
	uint64		stored;

	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot append while session_replication_role is replica"),
				 errdetail("evsource.events has triggers, rules, policies, constraints or columns of others, and its own triggers do not fire."),
				 errhint("Set session_replication_role to origin.")));

	SPI_connect();
	fill_arguments(stream, batch, versions, arguments);

	evs_intake_expect(&intake, stream, batch, expected_version);
	stored = run_insert(arguments, versions);
	if (stored != (uint64) batch->count || intake.count != batch->count)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("not every event of the append was stored"),
				 errdetail("%d events were appended, %llu were stored.",
						   batch->count, (unsigned long long) stored),
				 errhint("A trigger or rule on evsource.events leaves rows out; raise an error in it instead.")));
	SPI_finish();
}
