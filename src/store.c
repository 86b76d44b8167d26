/*
 * store.c - put events into the table, the direct way.
 *
 * This does what COPY does: form tuples, multi-insert them, and let the
 * executor insert the index entries, so that indexes of the user's own, on
 * expressions or partial, are maintained as well.  What needs more than that
 * goes through an INSERT: see evs_store_is_direct().
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_index.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "catalog.h"
#include "event.h"
#include "horizon.h"
#include "inserter.h"
#include "intake.h"
#include "read.h"
#include "relations.h"
#include "query.h"
#include "rights.h"
#include "store.h"
#include "streams.h"
#include "wakeup.h"

/* from this many events on, a multi-insert beats single inserts */
#define MULTI_INSERT_FROM 4

/* Would the trigger fire on an INSERT of this session? */
static bool
trigger_fires(const Trigger *trigger)
{
	return TRIGGER_FOR_INSERT(trigger->tgtype) && evs_relation_trigger_fires(trigger);
}

/* The columns are ours (or dropped), and nullable where an append leaves nulls. */
static bool
has_our_columns_only(TupleDesc desc)
{
	for (int i = EVS_EVENTS_NATTS; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped)
			return false;
	return !TupleDescAttr(desc, EVS_EVENTS_METADATA - 1)->attnotnull &&
		!TupleDescAttr(desc, EVS_EVENTS_OCCURRED_AT - 1)->attnotnull &&
		!TupleDescAttr(desc, EVS_EVENTS_ID - 1)->attnotnull &&
		!TupleDescAttr(desc, EVS_EVENTS_SCHEMA_VERSION - 1)->attnotnull;
}

bool
evs_store_is_secured(Relation events)
{
	return events->rd_rel->relrowsecurity &&
		check_enable_rls(RelationGetRelid(events), InvalidOid, false) == RLS_ENABLED;
}

bool
evs_store_is_direct(Relation events)
{
	TupleConstr *constr = RelationGetDescr(events)->constr;

	if (!has_our_columns_only(RelationGetDescr(events)) || events->rd_rules != NULL)
		return false;
	if (constr != NULL && constr->num_check > 0)
		return false;
	if (evs_store_is_secured(events))
		return false;

	/* looking a function up may rebuild the list: keep nothing of it meanwhile */
	for (int i = 0; events->trigdesc != NULL && i < events->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &events->trigdesc->triggers[i];

		if (trigger_fires(trigger) && !evs_intake_is_our_trigger(trigger->tgfoid))
			return false;
	}
	return true;
}

bool
evs_store_has_versions(const EvsBatch *batch)
{
	for (int i = 0; i < batch->count; i++)
		if (batch->events[i].schema_version != 0)
			return true;
	return false;
}

bool
evs_store_may_tell_version(Relation events, text *stream, int64 version)
{
	Oid			relid = RelationGetRelid(events);
	Oid			user = GetUserId();

	if (pg_class_aclcheck(relid, user, ACL_SELECT) != ACLCHECK_OK &&
		(pg_attribute_aclcheck(relid, EVS_EVENTS_STREAM, user, ACL_SELECT) != ACLCHECK_OK ||
		 pg_attribute_aclcheck(relid, EVS_EVENTS_VERSION, user, ACL_SELECT) != ACLCHECK_OK))
		return false;
	return !evs_store_is_secured(events) ||
		evs_read_secured_version(stream, version) == version;
}

/*
 * Is the error that is being handled a violation of a unique index on these
 * columns (0: no second one) of the log?  The name does not tell: REINDEX
 * CONCURRENTLY gives the index other ones while it is at work.
 */
static bool
is_unique_violation(const ErrorData *error, AttrNumber first, AttrNumber second)
{
	const EvsCatalog *catalog;
	HeapTuple	tuple;
	Form_pg_index index;
	bool		matches;

	if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION || error->constraint_name == NULL)
		return false;
	catalog = evs_catalog();
	tuple = SearchSysCache1(INDEXRELID,
							ObjectIdGetDatum(get_relname_relid(error->constraint_name,
															   catalog->schema)));
	if (!HeapTupleIsValid(tuple))
		return false;
	index = (Form_pg_index) GETSTRUCT(tuple);
	matches = index->indrelid == catalog->events &&
		index->indnkeyatts == (second == 0 ? 1 : 2) &&
		index->indkey.values[0] == first &&
		(second == 0 || index->indkey.values[1] == second);
	ReleaseSysCache(tuple);
	return matches;
}

/*
 * In a PG_CATCH block: rethrow the error, in the terms of the log if it is what
 * a unique index said in its own.  With a stream, an append to it expected a
 * version that it has left behind: the index has let go of its page before it
 * complained, so it can be asked which one it has.  With a statement, that one was run.
 */
static void
rethrow(MemoryContext context, Relation events, text *stream, int64 expected_version,
		const char *statement)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (is_unique_violation(error, EVS_EVENTS_ID, 0))
	{
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_EVS_DUPLICATE_EVENT_ID),
				 errmsg("event id is already stored"),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 evs_may_read_all() ?
				 errhint("Another transaction stored it at the same time. Run the command again to see the event that has it.") :
				 errhint("Run the command again: another transaction may have stored it at the same time. If that does not help, it is the id of an event that you cannot read.")));
	}
	if (is_unique_violation(error, EVS_EVENTS_STREAM, EVS_EVENTS_VERSION))
	{
		FlushErrorState();
		if (stream != NULL)
			evs_stream_check_version(events, stream, expected_version, evs_stream_lock(events, stream, 0));
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent append"),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 errhint("Run the transaction again.")));
	}
	if (is_unique_violation(error, EVS_EVENTS_POSITION, 0))
	{
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to a concurrent restore"),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 errhint("Run the transaction again. If that does not help, the sequence is behind the events: see evsource.check_log().")));
	}
	if (statement != NULL)
		evs_query_rethrow(context, statement, NULL);
	PG_RE_THROW();
}

void
evs_store_rethrow(MemoryContext context, const char *statement)
{
	rethrow(context, NULL, NULL, EVS_EXPECTED_ANY, statement);
}

/* Remember where the event is, unless one of its stream comes right behind it. */
static void
remember_last(const EvsBatch *batch, int i, ItemPointer tid)
{
	if (i == batch->count - 1 || batch->events[i + 1].stream != batch->events[i].stream)
		evs_stream_remember(&batch->events[i], tid);
}

/* Draw the positions of these events, in their order. */
static void
draw_positions(EvsEvent *events, int count)
{
	int64		position = evs_horizon_draw(count);

	for (int i = 0; i < count; i++)
	{
		events[i].position = position + i;
		if (i == 0 || events[i].stream != events[i - 1].stream ||
			!evs_same_text(events[i].type, events[i - 1].type))
			evs_wakeup_event(events[i].stream, events[i].type);
	}
}

/*
 * Store events in the table and its indexes.  The pages of the table are filled
 * one after the other: a ring of buffers, as COPY has one, would gain nothing.
 *
 * Positions are drawn for a few events at a time, just before these go into the
 * indexes: what all sessions insert there is then nearly in order.  If a whole
 * batch's were drawn at once, each of the batches under way would insert in a
 * place of its own, and leave pages behind that are half empty.  What is left in the
 * end is not split once more.
 */
static void
insert_events(EvsInserter *inserter, Relation events, EvsBatch *batch)
{
	CommandId	command = GetCurrentCommandId(true);

	for (int done = 0, count; done < batch->count; done += count)
	{
		EvsEvent   *next = &batch->events[done];
		TupleTableSlot **rows;

		CHECK_FOR_INTERRUPTS();
		count = batch->count - done;
		if (count > EVS_INSERTER_ROWS)
			count = EVS_INSERTER_ROWS / 2;
		draw_positions(next, count);
		rows = evs_inserter_form(inserter, next, count);
		if (count >= MULTI_INSERT_FROM)
			table_multi_insert(events, rows, count, command, 0, NULL);
		else
		{
			for (int i = 0; i < count; i++)
				table_tuple_insert(events, rows[i], command, 0, NULL);
		}
		evs_inserter_stored(inserter);
		for (int i = 0; i < count; i++)
			remember_last(batch, done + i, &rows[i]->tts_tid);
	}
	evs_inserter_finish(inserter);
}

/* Draw the positions of a batch whose events have their versions, and store it. */
static void
store_numbered(Relation events, EvsBatch *batch, text *stream, int64 expected_version)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz now = GetCurrentTimestamp();
	EvsInserter *volatile inserter = NULL;

	evs_intake_pass_restored();
	for (int i = 0; i < batch->count; i++)
		batch->events[i].recorded_at = now;

	PG_TRY();
	{
		inserter = evs_inserter_begin(events, batch->count);
		insert_events(inserter, events, batch);
		evs_inserter_end(inserter);
	}
	PG_CATCH();
	{
		evs_inserter_abandon(inserter);
		rethrow(context, events, stream, expected_version, NULL);
	}
	PG_END_TRY();
}

void
evs_store_batch(Relation events, EvsBatch *batch, int64 version, int64 expected_version)
{
	for (int i = 0; i < batch->count; i++)
		batch->events[i].version = version + i + 1;
	store_numbered(events, batch, batch->events[0].stream, expected_version);
}

void
evs_store_numbered(Relation events, EvsBatch *batch)
{
	store_numbered(events, batch, NULL, EVS_EXPECTED_ANY);
}

bool
evs_store_fetch(Relation table, Relation index, ScanKey keys, int nkeys, TupleTableSlot *slot)
{
	for (;;)
	{
		SnapshotData dirty = {0};
		IndexScanDesc scan;
		bool		found;

		InitDirtySnapshot(dirty);
		scan = index_beginscan(table, index, &dirty, NULL, nkeys, 0, SO_NONE);
		index_rescan(scan, keys, nkeys, NULL, 0);
		found = index_getnext_slot(scan, ForwardScanDirection, slot);
		index_endscan(scan);
		if (!found || !TransactionIdIsValid(dirty.xmin))
			return found;

		ExecClearTuple(slot);
		if (dirty.speculativeToken != 0)
			SpeculativeInsertionWait(dirty.xmin, dirty.speculativeToken);
		else
			XactLockTableWait(dirty.xmin, table, NULL, XLTW_None);
		CHECK_FOR_INTERRUPTS();
	}
}

/* The event in the first row that the keys find, copied; NULL if none. */
static EvsEvent *
find_by_keys(Relation events, Oid index_oid, ScanKey keys, int nkeys)
{
	Relation	index = index_open(index_oid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(events, NULL);
	EvsEvent   *found = NULL;

	if (evs_store_fetch(events, index, keys, nkeys, slot))
	{
		EvsEvent	event;

		evs_event_from_slot(&event, slot);
		found = palloc(sizeof(EvsEvent));
		evs_event_copy(found, &event);
	}
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	return found;
}

static EvsEvent *
find_by_key(Relation events, Oid index_oid, RegProcedure equals, Datum value)
{
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, equals, value);
	return find_by_keys(events, index_oid, &key, 1);
}

/* The stored event whose id, made by this store, is the given one; NULL if none. */
static EvsEvent *
find_by_server_id(Relation events, const pg_uuid_t *id)
{
	int64		position = evs_event_id_position(id);
	EvsEvent   *found;
	pg_uuid_t	computed;

	if (position == 0)
		return NULL;
	found = find_by_key(events, evs_catalog()->events_pkey, F_INT8EQ, Int64GetDatum(position));
	if (found == NULL)
		return NULL;
	evs_event_id(found, &computed);
	return memcmp(&computed, id, sizeof(pg_uuid_t)) == 0 ? found : NULL;
}

EvsEvent *
evs_store_find(Relation events, const pg_uuid_t *id)
{
	EvsEvent   *found = find_by_key(events, evs_catalog()->events_id, F_UUID_EQ, UUIDPGetDatum(id));

	return found ? found : find_by_server_id(events, id);
}

EvsEvent *
evs_store_find_between(Relation events, const pg_uuid_t *first, const pg_uuid_t *last)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_UUID_GE, UUIDPGetDatum(first));
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_UUID_LE, UUIDPGetDatum(last));
	return find_by_keys(events, evs_catalog()->events_id, keys, 2);
}

void
evs_store_check_server_id(Relation events, const pg_uuid_t *id)
{
	EvsEvent   *found = find_by_server_id(events, id);

	if (found != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_EVS_DUPLICATE_EVENT_ID),
				 errmsg("event id \"%s\" is already stored",
						DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)))),
				 evs_may_read_all() ?
				 errdetail("It is version %lld of stream \"%s\".",
						   (long long) found->version, text_to_cstring(found->stream)) : 0,
				 errhint("To repeat an append without storing it twice, call evsource.append with the id. "
						 "To store another event, give it another id, or none.")));
}
