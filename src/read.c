/*
 * read.c - the reading functions: one stream, a category, the whole log, one
 * event.
 *
 * What makes them more than a SELECT is the order promise.  Reading the log
 * goes in these steps, and the order of the steps is the promise:
 *
 *	1. ask for the safe position: nothing can appear at or below it any more;
 *	2. only then take a snapshot, so that all there is below it is visible;
 *	3. read up to the safe position and no further;
 *	4. before handing out, flush the WAL up to the commits of what was read:
 *	   after a crash under synchronous_commit = off a position could otherwise
 *	   be given to another event than the one a consumer outside has seen.
 *
 * The snapshot of the statement that calls is too old for this, so each call
 * takes one of its own (and the functions are VOLATILE).  A transaction that is
 * REPEATABLE READ or SERIALIZABLE must not see more than its own snapshot does:
 * there the log ends before the first event that it cannot see, for the reader
 * that checkpoints behind it would never come back to it.
 *
 * In one stream the versions commit in order, whence no safe position is needed;
 * only our own events may stand after one that our snapshot cannot see.
 *
 * Rights are those of a SELECT of all columns of evsource.events.  A user to
 * whom row security applies reads through SPI, where the policies are applied:
 * see read_secured.c.
 */
#include "evsource.h"

#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "barrier.h"
#include "catalog.h"
#include "event.h"
#include "horizon.h"
#include "parameters.h"
#include "read.h"
#include "restore.h"
#include "scan.h"

PG_FUNCTION_INFO_V1(evsource_read_stream);
PG_FUNCTION_INFO_V1(evsource_read_category);
PG_FUNCTION_INFO_V1(evsource_read_all);
PG_FUNCTION_INFO_V1(evsource_read_event);
PG_FUNCTION_INFO_V1(evsource_stream_version);
PG_FUNCTION_INFO_V1(evsource_safe_position);

/* ---- arguments and rights ---- */

/* max_count: NULL is all, which is -1 here. */
static int64
max_count_argument(FunctionCallInfo fcinfo, int argument)
{
	int32		max_count;

	if (PG_ARGISNULL(argument))
		return -1;

	max_count = PG_GETARG_INT32(argument);
	if (max_count < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count must not be negative"),
				 errdetail("It is %d.", max_count),
				 errhint("Pass NULL to read all events.")));
	return max_count;
}

/* after_position: NULL is 0, the beginning. */
static int64
after_position_argument(FunctionCallInfo fcinfo, int argument)
{
	int64		after;

	if (PG_ARGISNULL(argument))
		return 0;

	after = PG_GETARG_INT64(argument);
	if (after < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("after_position must not be negative"),
				 errdetail("It is " INT64_FORMAT ".", after),
				 errhint("Pass 0 to read from the beginning.")));
	return after;
}

/*
 * May the user read the events?  An error (42501) says no; true says: only what
 * row security lets through.
 */
bool
evs_read_check_access(void)
{
	Oid			events = evs_catalog()->events;
	Oid			user = GetUserId();

	if (pg_class_aclcheck(events, user, ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(events, user, ACL_SELECT, ACLMASK_ALL) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(events));

	return check_enable_rls(events, InvalidOid, false) == RLS_ENABLED;
}

/*
 * A result grows by blocks of twice the size, and goes all at once.  The C library
 * gives memory at the end of the heap back to the system when there is more of it
 * than twice the largest block that was ever freed, which such a result just
 * exceeds: each call would have all of it mapped anew, page by page.  That was a
 * third of what it took to read 1000 events.  So free a larger block first.
 */
#define KEPT_BLOCK			(2 * 1024 * 1024)

static void
keep_memory(void)
{
	static bool done = false;

	if (!done)
		pfree(palloc(KEPT_BLOCK));
	done = true;
}

Tuplestorestate *
evs_read_result(FunctionCallInfo fcinfo)
{
	evs_require_not_parallel(fcinfo);
	keep_memory();
	InitMaterializedSRF(fcinfo, 0);
	return ((ReturnSetInfo *) fcinfo->resultinfo)->setResult;
}

static void
read_begin(EvsRead *read, FunctionCallInfo fcinfo, int64 max_count)
{
	memset(read, 0, sizeof(EvsRead));
	read->secured = evs_read_check_access();
	read->remaining = max_count;

	read->result = evs_read_result(fcinfo);
	evs_event_row_init(&read->row);
	if (evs_types_any_now())
	{
		read->types = evs_type_run();
		read->event_context = AllocSetContextCreate(CurrentMemoryContext, "evsource read event",
													ALLOCSET_DEFAULT_SIZES);
	}
	if (IsolationUsesXactSnapshot())
		read->own = GetTransactionSnapshot();
}

/*
 * The snapshot for a reader that wants what is there now, or what the
 * transaction sees where that is fixed.
 */
static Snapshot
current_snapshot(void)
{
	return IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetLatestSnapshot();
}

/* ---- events to the result ---- */

/*
 * A stored row as an event, its varlenas as they are stored: most go to the
 * result without being looked into.
 */
void
evs_read_view(EvsEvent *event, const Datum *stored, const bool *is_null)
{
#define STORED(column)		stored[EVS_EVENTS_##column - 1]
#define STORED_NULL(column)	is_null[EVS_EVENTS_##column - 1]

	event->position = DatumGetInt64(STORED(POSITION));
	event->version = DatumGetInt64(STORED(VERSION));
	event->recorded_at = DatumGetTimestampTz(STORED(RECORDED_AT));
	event->stream = (text *) DatumGetPointer(STORED(STREAM));
	event->type = (text *) DatumGetPointer(STORED(TYPE));
	event->data = (Jsonb *) DatumGetPointer(STORED(DATA));
	event->metadata = STORED_NULL(METADATA) ? NULL :
		(Jsonb *) DatumGetPointer(STORED(METADATA));
	event->has_occurred_at = !STORED_NULL(OCCURRED_AT);
	if (event->has_occurred_at)
		event->occurred_at = DatumGetTimestampTz(STORED(OCCURRED_AT));
	event->has_id = !STORED_NULL(ID);
	if (event->has_id)
		event->id = *DatumGetUUIDP(STORED(ID));
	event->schema_version = STORED_NULL(SCHEMA_VERSION) ? 0 : DatumGetInt16(STORED(SCHEMA_VERSION));

#undef STORED
#undef STORED_NULL
}

/* Is this the id of a stored row? */
bool
evs_read_has_id(const Datum *stored, const bool *is_null, const pg_uuid_t *wanted)
{
	EvsEvent	event;
	pg_uuid_t	id;

	evs_read_view(&event, stored, is_null);
	evs_event_id(&event, &id);
	return memcmp(&id, wanted, sizeof(id)) == 0;
}

/*
 * Add a stored row, upcast, to the result.  A TOASTed value goes there as a pointer,
 * as in a SELECT; it is there as long as the statement's snapshot is held.
 */
void
evs_read_put(EvsRead *read, const Datum *stored, const bool *is_null)
{
	EvsEvent	event;

	evs_read_view(&event, stored, is_null);
	if (read->types != NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(read->event_context);

		event.type = DatumGetTextPP(PointerGetDatum(event.type));
		evs_type_upcast(read->types, &event);
		MemoryContextSwitchTo(caller);
	}
	tuplestore_puttuple(read->result, evs_event_row_form(&read->row, &event));
	if (read->types != NULL)
		MemoryContextReset(read->event_context);
	if (read->remaining > 0)
		read->remaining--;
}

static void
put_slot(EvsRead *read, TupleTableSlot *slot)
{
	slot_getallattrs(slot);
	evs_read_put(read, slot->tts_values, slot->tts_isnull);
}

static TransactionId
slot_xmin(TupleTableSlot *slot)
{
	bool		should_free;
	HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);

	Assert(!should_free);
	return HeapTupleHeaderGetXmin(tuple->t_data);
}

/*
 * Remember the commit of the transaction that stored this row.  A frozen row does
 * not say whose that was, and VACUUM freezes rows whose commit is not flushed yet:
 * then its page, which was changed after that commit, says how far to flush.
 */
void
evs_read_note_commit(EvsRead *read, TupleTableSlot *slot)
{
	TransactionId xmin = slot_xmin(slot);
	XLogRecPtr	lsn;

	if (TransactionIdIsNormal(xmin))
	{
		if (xmin == read->last_xmin || TransactionIdIsCurrentTransactionId(xmin))
			return;
		read->last_xmin = xmin;
		lsn = TransactionIdGetCommitLSN(xmin);
	}
	else
	{
		Assert(TTS_IS_BUFFERTUPLE(slot));
		lsn = BufferGetLSNAtomic(((BufferHeapTupleTableSlot *) slot)->buffer);
	}
	if (lsn > read->commit_lsn)
		read->commit_lsn = lsn;
}

/* What was read is handed out after this: it must survive a crash. */
void
evs_read_flush_commits(const EvsRead *read)
{
	if (!XLogRecPtrIsInvalid(read->commit_lsn) && !RecoveryInProgress())
		XLogFlush(read->commit_lsn);
}

/*
 * Can the transaction's own snapshot see this row, which a newer one sees?
 * When it cannot, a serializable transaction has now read "not there": that is
 * registered as a read of the row with the old snapshot would.
 */
bool
evs_read_snapshot_sees(Snapshot own, Relation events, TupleTableSlot *slot)
{
	if (own == NULL || table_tuple_satisfies_snapshot(events, slot, own))
		return true;

	if (IsolationIsSerializable())
	{
		TupleTableSlot *unseen = table_slot_create(events, NULL);

		(void) table_tuple_fetch_row_version(events, &slot->tts_tid, own, unseen);
		ExecDropSingleTupleTableSlot(unseen);
	}
	return false;
}

/* ---- one stream ---- */

/*
 * The stream's last version that we may show, 0 when there is none.  Where the
 * transaction's snapshot is fixed, the stream ends for it before the first event
 * that the snapshot cannot see: such events, and our own that may stand among
 * them, are all at the stream's end.
 */
static int64
last_version(text *stream, Snapshot own)
{
	EvsScan    *scan = evs_scan_stream(stream, 1, PG_INT64_MAX, true, GetLatestSnapshot());
	TupleTableSlot *slot;
	int64		last = -1;

	while ((slot = evs_scan_next_slot(scan)) != NULL)
	{
		int64		version;

		slot_getsomeattrs(slot, EVS_EVENTS_VERSION);
		version = DatumGetInt64(slot->tts_values[EVS_EVENTS_VERSION - 1]);

		if (!evs_read_snapshot_sees(own, evs_scan_relation(scan), slot))
			last = version - 1;
		else
		{
			if (last < 0)
				last = version;
			if (own == NULL || !TransactionIdIsCurrentTransactionId(slot_xmin(slot)))
				break;
		}
	}
	evs_scan_end(scan);
	return Max(last, 0);
}

/*
 * read_stream(stream, from_version, max_count, backward): the stream's events
 * from that version on, or back from it.
 *
 * Errors: 22004 when stream is null, 22023 when from_version is below 1 or
 * max_count negative, 42501.
 */
Datum
evsource_read_stream(PG_FUNCTION_ARGS)
{
	EvsRead		read;
	text	   *stream;
	int64		max_count;
	bool		backward = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);
	int64		from_version = 1;
	int64		to_version = PG_INT64_MAX;

	evs_argument_require(fcinfo, 0, "stream");
	stream = PG_GETARG_TEXT_PP(0);
	if (!PG_ARGISNULL(1))
	{
		int64		version = PG_GETARG_INT64(1);

		if (version < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("from_version must be at least 1"),
					 errdetail("It is " INT64_FORMAT ".", version),
					 errhint("The first event of a stream has version 1. Pass NULL to read from the first, or from the last when backward.")));
		if (backward)
			to_version = version;
		else
			from_version = version;
	}
	max_count = max_count_argument(fcinfo, 2);

	read_begin(&read, fcinfo, max_count);
	if (read.own != NULL)
		to_version = Min(to_version, last_version(stream, read.own));

	if (read.secured)
		evs_read_secured_stream(&read, stream, from_version, to_version, backward);
	else
	{
		EvsScan    *scan = evs_scan_stream(stream, from_version, to_version, backward,
										   current_snapshot());
		TupleTableSlot *slot;

		while (read.remaining != 0 && (slot = evs_scan_next_slot(scan)) != NULL)
			put_slot(&read, slot);
		evs_scan_end(scan);
	}
	return (Datum) 0;
}

/*
 * stream_version(stream): the version of its last event; 0 when the stream does
 * not exist, so that the result can be passed as expected_version.
 *
 * Errors: 22004 when stream is null, 42501.
 */
Datum
evsource_stream_version(PG_FUNCTION_ARGS)
{
	Snapshot	own = IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : NULL;
	text	   *stream;
	int64		version;

	evs_require_not_parallel(fcinfo);
	evs_argument_require(fcinfo, 0, "stream");
	stream = PG_GETARG_TEXT_PP(0);

	if (!evs_read_check_access())
		version = last_version(stream, own);
	else
		version = evs_read_secured_version(stream, own == NULL ? PG_INT64_MAX :
										   last_version(stream, own));
	PG_RETURN_INT64(version);
}

/* ---- the log ---- */

/*
 * Add the log up to a position to the result.  A serializable transaction looks
 * at all there is behind it, too, without returning it: "no more than this" is
 * what it has read, and conflicts with whoever adds more.
 */
static void
read_log_directly(EvsRead *read, int64 after, int64 upto, const EvsFilter *filter)
{
	EvsScan    *scan = evs_scan_log(after, IsolationIsSerializable() ? PG_INT64_MAX : upto,
									filter, GetLatestSnapshot());
	Relation	events = evs_scan_relation(scan);
	TupleTableSlot *slot;

	while (read->remaining != 0 && (slot = evs_scan_next_slot(scan)) != NULL)
	{
		if (!evs_read_snapshot_sees(read->own, events, slot))
			break;
		slot_getallattrs(slot);
		if (DatumGetInt64(slot->tts_values[EVS_EVENTS_POSITION - 1]) > upto)
			continue;
		evs_read_note_commit(read, slot);
		evs_read_put(read, slot->tts_values, slot->tts_isnull);
	}
	evs_scan_end(scan);
}

static void
read_log(EvsRead *read, int64 after, const EvsFilter *filter)
{
	int64		upto;

	if (read->remaining == 0)
		return;

	/* first the position, then the snapshot: see the top of this file */
	upto = evs_restore_reader_comes(after);

	if (read->secured)
		evs_read_secured_log(read, after, upto, filter);
	else
		read_log_directly(read, after, upto, filter);
	evs_read_flush_commits(read);
}

/*
 * read_category(category, after_position, max_count, types): events of the
 * streams of one category in the order of the log, up to the safe position.
 *
 * Errors: 22004 when category is null or types has a null, 22023 when
 * after_position or max_count is negative or types is empty, 42501.
 */
Datum
evsource_read_category(PG_FUNCTION_ARGS)
{
	EvsRead		read;
	EvsFilter	filter;
	text	   *category;
	int64		after;
	int64		max_count;

	evs_argument_require(fcinfo, 0, "category");
	category = PG_GETARG_TEXT_PP(0);
	after = after_position_argument(fcinfo, 1);
	max_count = max_count_argument(fcinfo, 2);
	evs_filter_from_arrays(&filter, NULL, PG_ARGISNULL(3) ? NULL : PG_GETARG_ARRAYTYPE_P(3));
	filter.ncategories = 1;
	filter.categories = &category;

	read_begin(&read, fcinfo, max_count);
	read_log(&read, after, &filter);
	return (Datum) 0;
}

/*
 * read_all(after_position, max_count, categories, types): events of all streams
 * in the order of the log, up to the safe position.
 *
 * Errors: 22004 when categories or types has a null, 22023 when after_position
 * or max_count is negative or an array is empty, 42501.
 */
Datum
evsource_read_all(PG_FUNCTION_ARGS)
{
	EvsRead		read;
	EvsFilter	filter;
	int64		after = after_position_argument(fcinfo, 0);
	int64		max_count = max_count_argument(fcinfo, 1);

	evs_filter_from_arrays(&filter,
						   PG_ARGISNULL(2) ? NULL : PG_GETARG_ARRAYTYPE_P(2),
						   PG_ARGISNULL(3) ? NULL : PG_GETARG_ARRAYTYPE_P(3));

	read_begin(&read, fcinfo, max_count);
	read_log(&read, after, &filter);
	return (Datum) 0;
}

/*
 * safe_position(): for a snapshot taken after it, every event at or below it is
 * visible and none can appear there.
 */
Datum
evsource_safe_position(PG_FUNCTION_ARGS)
{
	evs_require_not_parallel(fcinfo);
	PG_RETURN_INT64(evs_horizon_safe_position());
}

/* ---- one event ---- */

/*
 * read_event(id): the event with this id, given by its client or made by the
 * server; no row when there is none.
 *
 * Errors: 22004 when id is null, 42501.
 */
Datum
evsource_read_event(PG_FUNCTION_ARGS)
{
	EvsRead		read;
	pg_uuid_t  *id;
	int64		position;

	evs_argument_require(fcinfo, 0, "id");
	id = PG_GETARG_UUID_P(0);

	/* where an id that the server made says it is, else 0 */
	position = evs_event_id_position(id);

	read_begin(&read, fcinfo, 1);
	if (read.secured)
		evs_read_secured_event(&read, id, position);
	else
	{
		Snapshot	snapshot = RegisterSnapshot(current_snapshot());
		EvsScan    *scan = evs_scan_id(id, snapshot);
		TupleTableSlot *slot = evs_scan_next_slot(scan);

		if (slot != NULL)
			put_slot(&read, slot);
		evs_scan_end(scan);

		if (read.remaining > 0 && position > 0)
		{
			scan = evs_scan_log(position - 1, position, NULL, snapshot);
			slot = evs_scan_next_slot(scan);
			if (slot != NULL)
			{
				slot_getallattrs(slot);
				if (evs_read_has_id(slot->tts_values, slot->tts_isnull, id))
					put_slot(&read, slot);
			}
			evs_scan_end(scan);
		}
		UnregisterSnapshot(snapshot);
	}
	return (Datum) 0;
}
