/*
 * reset.c - empty a read model.
 *
 * What a projection owns is emptied as its owner: its tables by TRUNCATE, the
 * rest by its on_reset function.  States and snapshots are evsource's.
 *
 * Locks: a rebuild's that is under way and the name, in this order; then the
 * snapshots, since a session that saves them may idle in its transaction and
 * nobody shall wait for that who keeps appenders waiting; then, for an inline
 * projection, the barrier; then the tables, as appenders do.
 */
#include "evsource.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"

#include "alter.h"
#include "barrier.h"
#include "failure.h"
#include "horizon.h"
#include "identity.h"
#include "parameters.h"
#include "query.h"
#include "rebuild_row.h"
#include "registry.h"
#include "resolve.h"
#include "snapshot_history.h"
#include "snapshots.h"
#include "state_truncated.h"
#include "table_snapshots.h"
#include "unit.h"

PG_FUNCTION_INFO_V1(evsource_reset_projection);

static void
reset_error_callback(void *arg)
{
	errcontext("resetting projection \"%s\"", ((EvsProjection *) arg)->name);
}

void
evs_reset_check(const EvsProjection *projection)
{
	if (projection->tables != NIL || projection->on_reset != NULL ||
		projection->kind == EVS_KIND_FOLD)
		return;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot reset projection \"%s\"", projection->name),
			 errdetail("evsource does not know what to empty."),
			 errhint("Name its tables, or a function that empties what it made: evsource.alter_projection('%s', tables => ..., on_reset => ...).",
					 projection->name)));
}

/* One TRUNCATE for all, so that foreign keys among them do not matter. */
static void
truncate_tables(const EvsProjection *projection)
{
	StringInfoData statement;
	ListCell   *cell;

	initStringInfo(&statement);
	foreach(cell, projection->tables)
		appendStringInfo(&statement, "%s %s", statement.len == 0 ? "truncate" : ",",
						 evs_resolve_only(lfirst(cell)));
	appendStringInfoString(&statement, " restart identity");

	evs_query_command(statement.data);
}

/* on_reset functions that are running: one may reset another projection */
static int	calling = 0;

bool
evs_reset_is_calling(void)
{
	return calling > 0;
}

/* Functions that return void may well return NULL. */
static void
call_on_reset(const EvsProjection *projection)
{
	LOCAL_FCINFO(fcinfo, 0);
	FmgrInfo	function;
	Oid			on_reset = evs_resolve_signature(projection->on_reset);

	if (object_aclcheck(ProcedureRelationId, on_reset, GetUserId(), ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for on_reset function %s of projection \"%s\"",
						projection->on_reset, projection->name),
				 errdetail("The projection's owner \"%s\" may not execute it.", projection->owner),
				 errhint("Grant EXECUTE on the function to the owner, or give the projection another owner.")));
	evs_resolve_check_trust(on_reset);
	fmgr_info(on_reset, &function);
	InitFunctionCallInfoData(*fcinfo, &function, 0, InvalidOid, NULL, NULL);

	PushActiveSnapshot(GetTransactionSnapshot());
	calling++;
	PG_TRY();
	{
		(void) FunctionCallInvoke(fcinfo);
	}
	PG_FINALLY();
	{
		calling--;
	}
	PG_END_TRY();
	PopActiveSnapshot();
	CommandCounterIncrement();
}

List *
evs_reset_relations(const EvsProjection *projection)
{
	List	   *relations = NIL;
	ListCell   *cell;

	evs_resolve_check_tables(projection);
	foreach(cell, projection->tables)
	{
		List	   *names = stringToQualifiedNameList(lfirst(cell), NULL);
		Oid			table = RangeVarGetRelid(makeRangeVarFromNameList(names), NoLock, false);

		/* partitions are emptied with their table */
		relations = list_concat(relations, evs_resolve_with_partitions(table, NoLock));
	}
	return relations;
}

void
evs_reset_tables(EvsProjection *projection)
{
	ErrorContextCallback callback;
	EvsIdentity identity;

	evs_reset_check(projection);
	evs_resolve_check_tables(projection);

	callback.callback = reset_error_callback;
	callback.arg = projection;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	evs_identity_enter(&identity, projection->owner, projection->search_path);
	evs_identity_pin_settings();
	if (projection->tables != NIL)
		truncate_tables(projection);
	if (projection->on_reset != NULL)
		call_on_reset(projection);
	evs_identity_leave(&identity);
	error_context_stack = callback.previous;
	evs_troubles_clear(projection->name);
}

void
evs_reset_read_model(EvsProjection *projection)
{
	evs_reset_tables(projection);
	(void) evs_snapshots_clear(projection->name, false);
	evs_truncated_forget(projection);
	(void) evs_table_snapshots_clear(projection->name);
}

/*
 * A rebuild in place that was under way is over: it would find another read model
 * than it has left.  If the projection was paused before, so it is again.
 */
static EvsProjection *
open_projection(const char *name)
{
	EvsProjection *projection;
	EvsRebuild	rebuild;

	if (evs_projection_load(name, false)->state == EVS_PROJECTION_REBUILDING)
		evs_rebuild_lock(name);
	projection = evs_registry_open(name);
	if (projection->state == EVS_PROJECTION_REBUILDING && evs_rebuild_read(name, &rebuild))
	{
		if (rebuild.paused)
			projection->state = EVS_PROJECTION_PAUSED;
		evs_rebuild_forget(name);
	}
	return projection;
}

/* What is to be emptied, and who would be in the way. */
typedef struct Emptying
{
	EvsProjection *projection;
	EvsBarrier	barrier;
} Emptying;

/* on_reset may lock whatever it likes */
static void
empty(void *arg)
{
	Emptying   *emptying = arg;
	ListCell   *cell;

	emptying->barrier.others = "used its tables";
	foreach(cell, evs_reset_relations(emptying->projection))
		LockRelationOid(lfirst_oid(cell), AccessExclusiveLock);

	emptying->barrier.others = "used what its on_reset function empties";
	evs_reset_read_model(emptying->projection);
}

/* Appends and readers queue behind who waits for the barrier or for the tables. */
static void
empty_in_time(EvsProjection *projection, bool from_appenders)
{
	Emptying	emptying = {projection};

	evs_barrier_begin(&emptying.barrier, "reset projection", projection->name, NULL);
	emptying.barrier.appends_go_on = !from_appenders;
	while (!evs_barrier_attempt(&emptying.barrier, empty, &emptying))
		;
}

/*
 * evsource.reset_projection(projection) returns void
 *
 * Empties the read model and puts the projection back to where it started.  An
 * async projection is applied again by the next run.  An inline one is left in
 * the state catching_up: appends do not dispatch to it until
 * activate_projection or rebuild_projection has replayed the history.
 *
 * Errors: 42704, 42501, 55000 when there is no way to empty it, 55P03 when others
 * are in the way.
 */
Datum
evsource_reset_projection(PG_FUNCTION_ARGS)
{
	EvsProjection *projection = open_projection(evs_argument_name(fcinfo, 0));
	EvsCheckpoint start = {projection->start_after, evs_history_base_events(projection->name)};
	bool		is_live = projection->mode == EVS_MODE_INLINE && projection->state == EVS_PROJECTION_ACTIVE;
	int64		before;

	evs_reset_check(projection);
	before = evs_units_furthest(projection);
	(void) evs_snapshot_lock(projection->name, NULL, EVS_SNAPSHOT_LOCK_ALL);
	empty_in_time(projection, is_live);
	if (is_live)
		before = evs_horizon_last_position();
	if (projection->state != EVS_PROJECTION_PAUSED)
		projection->state = projection->mode == EVS_MODE_INLINE ? EVS_PROJECTION_CATCHING_UP :
			EVS_PROJECTION_ACTIVE;
	projection->stale = false;
	projection->replay_until = Max(projection->replay_until, before);
	evs_registry_update(projection);
	evs_checkpoint_write(projection->name, &start);
	evs_checkpoint_finish(projection->name);

	PG_RETURN_VOID();
}
