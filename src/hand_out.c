/*
 * hand_out.c - put the events of a claimed cursor into the result of a call, and
 * note in the cursor what went out.
 *
 * Streams with a dead letter are passed over: their events become dead letters
 * behind it.  Events are handed out as the reading functions do: the newest
 * version of their type, and not before their commits are on disk.
 *
 * When the upcaster of an event fails, the batch is read once more, with a
 * subtransaction for each upcaster.  It ends before that event; and when it would
 * begin with it, the event has failed, as if a consumer had: after some attempts
 * it is a dead letter.  Meanwhile the other partitions go on.
 */
#include "evsource.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "attempt.h"
#include "event.h"
#include "event_row.h"
#include "failure.h"
#include "hand_out.h"
#include "horizon.h"
#include "listen.h"
#include "notify.h"
#include "read.h"
#include "scan.h"
#include "types.h"

/* columns of evsource.fetched_event: those of evsource.event, attempt, receipt */
#define FETCHED_NATTS		(EVS_EVENT_NATTS + 2)

/* What goes into the result, and on what conditions. */
typedef struct Batch
{
	EvsFetch   *fetch;
	EvsClaim   *claim;
	EvsRead		read;			/* notes commits */
	bool		has_types;		/* events may have to be brought to newer versions */
	EvsTypeRun *types;			/* of this reading, unless ... */
	bool		careful;		/* ... one has failed, and each is tried by itself */
	EvsReceipts receipts;
	EvsEventRow row;			/* forms the part of a row that is evsource.event */
	int			max_receipt;	/* bytes that a receipt may have */
	MemoryContext context;
	MemoryContext event_context;
	EvsDeadStreams *dead;		/* NULL: no stream has dead letters */
	int64		bytes;
	EvsHandOut	out;
} Batch;

static Size
align_zeroed(char *start, Size at, Size alignment)
{
	Size		aligned = TYPEALIGN(alignment, at);

	memset(start + at, 0, aligned - at);
	return aligned;
}

/*
 * A row of evsource.fetched_event: that of evsource.event, with the attempt and the
 * receipt behind it.
 */
static void
put_event(Batch *batch, const EvsEvent *event, int attempt)
{
	HeapTuple	row = evs_event_row_form(&batch->row, event);
	bool		is_short = batch->max_receipt + VARHDRSZ_SHORT <= VARATT_SHORT_MAX;
	char	   *start = (char *) row->t_data;
	Size		at = row->t_len;
	int32		number = attempt;
	int			length;

	at = align_zeroed(start, at, sizeof(int32));
	memcpy(start + at, &number, sizeof(number));
	at += sizeof(number);

	/* aligned as it is now, whatever its header */
	length = evs_receipt_write(&batch->receipts, event->position,
							   start + at + (is_short ? VARHDRSZ_SHORT : VARHDRSZ));
	if (is_short)
		SET_VARSIZE_SHORT(start + at, length + VARHDRSZ_SHORT);
	else
		SET_VARSIZE(start + at, length + VARHDRSZ);
	at += length + (is_short ? VARHDRSZ_SHORT : VARHDRSZ);

	HeapTupleHeaderSetNatts(row->t_data, FETCHED_NATTS);
	row->t_len = at;
	tuplestore_puttuple(batch->fetch->result, row);
	batch->fetch->count++;
	batch->out.last = event->position;
}

/* The row that a scan is on; what is not looked into stays as it is stored. */
static void
view_event(Batch *batch, EvsEvent *event, TupleTableSlot *slot)
{
	slot_getallattrs(slot);
	evs_read_view(event, slot->tts_values, slot->tts_isnull);
	if (batch->dead != NULL)
		event->stream = DatumGetTextPP(PointerGetDatum(event->stream));
	if (batch->dead != NULL || batch->has_types)
		event->type = DatumGetTextPP(PointerGetDatum(event->type));
}

static int64
size_of(const EvsEvent *event)
{
	return VARSIZE_ANY(event->stream) + VARSIZE_ANY(event->type) +
		toast_raw_datum_size(PointerGetDatum(event->data)) +
		(event->metadata ? toast_raw_datum_size(PointerGetDatum(event->metadata)) : 0);
}

static bool
is_dead(Batch *batch, const EvsEvent *event)
{
	return batch->dead != NULL && evs_dead_streams_have(batch->dead, event->stream);
}

bool
evs_hand_out_is_late(const EvsFetch *fetch)
{
	return evs_clock_is_over(fetch->until);
}

/* ---- upcasters ---- */

static void
upcast_alone(void *arg)
{
	evs_type_upcast(evs_type_run(), arg);
}

/* NULL, or why an event cannot be read, and not for reasons that pass. */
static ErrorData *
try_upcast(Batch *batch, EvsEvent *event)
{
	ErrorData  *error;

	if (!batch->has_types)
		return NULL;
	if (batch->types != NULL)
	{
		evs_type_upcast(batch->types, event);
		return NULL;
	}
	error = evs_attempt(upcast_alone, event);
	if (error != NULL && evs_failure_is_transient(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

/* Tell the consumer; returns the reason as a dead letter has it. */
static char *
warn(const Batch *batch, const EvsEvent *event, const ErrorData *error)
{
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("cannot hand out the event at position %lld to a consumer of subscription \"%s\"",
					(long long) event->position, batch->claim->subscription->name),
			 errdetail_internal("%s", error->message),
			 error->context ? errcontext("%s", error->context) : 0));
	return psprintf("it cannot be read: %s", error->message);
}

/*
 * Take this event?  False: the batch ends before it.  Suspects go out alone, and
 * so does what is larger than a batch may be.
 */
static bool
belongs_to_batch(const Batch *batch, const EvsEvent *event, int64 size)
{
	const EvsClaim *claim = batch->claim;

	if (batch->fetch->count == 0)
		return true;
	return batch->fetch->count < batch->fetch->max_count &&
		batch->bytes + size <= batch->fetch->max_bytes &&
		!(claim->suspect_until != 0 && event->position >= claim->suspect_from);
}

static bool
is_suspect(const EvsClaim *claim, int64 position)
{
	return claim->suspect_until != 0 && position >= claim->suspect_from &&
		position <= claim->suspect_until;
}

/* The event that the batch would begin with cannot be read: true if it is passed over. */
static bool
give_up(Batch *batch, const EvsEvent *event, const ErrorData *error)
{
	MemoryContext event_context;

	if (!evs_cursor_fail(batch->claim, event->position, warn(batch, event, error)))
		return false;
	/* there is one now */
	event_context = MemoryContextSwitchTo(batch->context);
	batch->dead = evs_dead_streams(batch->claim->subscription->name);
	MemoryContextSwitchTo(event_context);
	return true;
}

/* Take an event, or leave it; false: the batch ends before it or with it. */
static bool
take_event(Batch *batch, TupleTableSlot *slot)
{
	EvsClaim   *claim = batch->claim;
	EvsFetch   *fetch = batch->fetch;
	EvsEvent	event;
	int64		size;
	bool		suspect;
	ErrorData  *error;

	view_event(batch, &event, slot);
	if (is_dead(batch, &event))
	{
		evs_subscription_park_behind(claim->subscription->name, &event);
		batch->out.seen = event.position;
		/* which may be slow, and is kept only if the call comes to its end */
		return !evs_hand_out_is_late(fetch);
	}
	if (fetch->count == 0)
		evs_cursor_begin(claim, event.position);
	size = size_of(&event);
	if (!belongs_to_batch(batch, &event, size))
		return false;
	suspect = is_suspect(claim, event.position);
	error = try_upcast(batch, &event);
	if (error != NULL)
	{
		if (fetch->count > 0 || !give_up(batch, &event, error))
			return false;
		batch->out.seen = event.position;
		return true;
	}
	evs_read_note_commit(&batch->read, slot);
	batch->bytes += size;
	put_event(batch, &event, suspect ? claim->attempts + 1 : event.position <= claim->been_out ? 2 : 1);
	batch->out.seen = event.position;
	return !suspect && fetch->count < fetch->max_count;
}

/* What a batch is read from. */
typedef struct Source
{
	Batch	   *batch;
	int64		safe;
	Snapshot	snapshot;
} Source;

/* Read from where the cursor is; nothing may be handed out, if all are dead. */
static void
read_batch(void *arg)
{
	Source	   *source = arg;
	Batch	   *batch = source->batch;
	EvsClaim   *claim = batch->claim;
	EvsFilter	filter = claim->subscription->filter;
	int64		upto = Min(source->safe, claim->end);
	EvsScan    *scan;
	TupleTableSlot *slot;
	bool		goes_on = true;

	filter.partitions = claim->subscription->partitions;
	filter.partition = claim->partition;
	batch->out.seen = claim->position;
	batch->types = batch->has_types && !batch->careful ? evs_type_run() : NULL;

	scan = evs_scan_log(claim->position, upto, &filter, source->snapshot);
	evs_scan_until(scan, batch->fetch->until);
	while (goes_on && (slot = evs_scan_next_slot(scan)) != NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(batch->event_context);

		MemoryContextReset(batch->event_context);
		goes_on = take_event(batch, slot);
		MemoryContextSwitchTo(caller);
	}
	if (goes_on)
		batch->out.seen = evs_scan_is_done(scan) ?
			Max(batch->out.seen, upto) : evs_scan_passed(scan);
	evs_scan_end(scan);
}

/* The same, where an upcaster may fail. */
static void
read_typed_batch(Source *source)
{
	Batch	   *batch = source->batch;
	ErrorData  *error = evs_attempt(read_batch, source);

	if (error == NULL)
		return;
	if (evs_failure_is_transient(error->sqlerrcode))
		ReThrowError(error);
	tuplestore_clear(batch->fetch->result);
	batch->fetch->count = 0;
	batch->bytes = 0;
	memset(&batch->read, 0, sizeof(EvsRead));
	batch->careful = true;
	read_batch(source);
}

/* A dead letter that is tried again; false when the event is gone. */
static bool
read_dead_letter(Batch *batch, int64 position, int attempt, Snapshot snapshot)
{
	EvsScan    *scan = evs_scan_log(position - 1, position, NULL, snapshot);
	TupleTableSlot *slot = evs_scan_next_slot(scan);
	bool		exists = slot != NULL;

	if (exists)
	{
		MemoryContext caller = MemoryContextSwitchTo(batch->event_context);
		EvsEvent	event;
		ErrorData  *error;

		view_event(batch, &event, slot);
		evs_read_note_commit(&batch->read, slot);
		error = try_upcast(batch, &event);
		if (error == NULL)
			put_event(batch, &event, attempt);
		else
			evs_subscription_retry_failed(batch->claim->subscription->name, position,
										  warn(batch, &event, error));
		MemoryContextSwitchTo(caller);
	}
	evs_scan_end(scan);
	batch->out.seen = batch->out.last;
	return exists;
}

static void
batch_begin(Batch *batch, EvsFetch *fetch, EvsClaim *claim, bool retry)
{
	memset(batch, 0, sizeof(Batch));
	batch->fetch = fetch;
	batch->claim = claim;
	batch->out.retry = retry;
	batch->has_types = evs_types_any_now();
	batch->event_context = AllocSetContextCreate(CurrentMemoryContext, "evsource fetch event",
												 ALLOCSET_DEFAULT_SIZES);
	if (!retry)
		batch->dead = evs_dead_streams(claim->subscription->name);
	evs_receipts_begin(&batch->receipts, claim, retry);
	batch->max_receipt = evs_receipt_max_length(&batch->receipts);
	evs_event_row_init(&batch->row);
	/* each with what aligns it */
	batch->row.tail = 2 * sizeof(int32) + VARHDRSZ + batch->max_receipt;
	batch->context = CurrentMemoryContext;
}

static void
batch_end(Batch *batch)
{
	EvsFetch   *fetch = batch->fetch;

	if (fetch->count == 0)
	{
		evs_cursor_advance(batch->claim, batch->out.seen);
		return;
	}
	batch->out.alone = fetch->count == 1;
	evs_cursor_hand_out(batch->claim, &batch->out, fetch->consumer, fetch->lease_ms);
	evs_read_flush_commits(&batch->read);
}

void
evs_hand_out_batch(EvsFetch *fetch, EvsClaim *claim, int64 safe, Snapshot snapshot)
{
	Batch		batch;
	Source		source = {&batch, safe, snapshot};

	batch_begin(&batch, fetch, claim, false);
	if (batch.has_types)
		read_typed_batch(&source);
	else
		read_batch(&source);
	batch_end(&batch);
}

bool
evs_hand_out_dead_letter(EvsFetch *fetch, EvsClaim *claim, int64 position, int attempt,
						 Snapshot snapshot)
{
	Batch		batch;

	batch_begin(&batch, fetch, claim, true);
	if (!read_dead_letter(&batch, position, attempt, snapshot))
		return false;
	if (fetch->count > 0)
		batch_end(&batch);
	return true;
}

/*
 * Those who listen or wait for it are to go on from there: they have not been told of
 * these events, or have come to the end of them.
 */
void
evs_hand_out_later(const EvsFetch *fetch)
{
	evs_wakeup_subscription(fetch->name);
	if (evs_listen_anybody())
		(void) evs_notify_events(evs_horizon_safe_position());
	ereport(NOTICE,
			(errmsg("subscription \"%s\" has more events to look at", fetch->name),
			 errdetail("None of the events that were read in the time that a call may take can be handed out."),
			 errhint("Call again: the next call continues from there.")));
}
