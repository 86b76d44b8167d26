/*
 * hand_out.c - put the events of a claimed cursor into the result of a call, and
 * note in the cursor what went out.
 *
 * Streams with a dead letter are passed over: their events become dead letters
 * behind it.  Events are handed out as the reading functions do: the newest
 * version of their type, and not before their commits are on disk.
 */
#include "evsource.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "dead_letters.h"
#include "event.h"
#include "event_row.h"
#include "hand_out.h"
#include "query.h"
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
	EvsTypeRun *types;
	EvsReceipts receipts;
	EvsEventRow event_row;		/* forms the part of a row that is evsource.event */
	HeapTupleData row;			/* the row formed last */
	Size		allocated;		/* for it */
	MemoryContext context;
	MemoryContext event_context;
	EvsKeySet  *dead;			/* streams that have dead letters; NULL: none has */
	int64		bytes;
	EvsHandOut	out;
} Batch;

/*
 * Room for a row of evsource.fetched_event: that of evsource.event, the attempt
 * and the receipt, each with what aligns it.
 */
static HeapTupleHeader
reserve_row(Batch *batch, Size size)
{
	if (size > batch->allocated)
	{
		batch->allocated = Max(size, Min(batch->allocated * 2, MaxAllocSize));
		batch->row.t_data = MemoryContextAlloc(batch->context, batch->allocated);
	}
	return batch->row.t_data;
}

static Size
align_zeroed(char *start, Size at, Size alignment)
{
	Size		aligned = TYPEALIGN(alignment, at);

	memset(start + at, 0, aligned - at);
	return aligned;
}

static void
put_event(Batch *batch, const EvsEvent *event, int attempt)
{
	HeapTuple	row = evs_event_row_form(&batch->event_row, event);
	int			room = evs_receipt_max_length(&batch->receipts);
	bool		is_short = room + VARHDRSZ_SHORT <= VARATT_SHORT_MAX;
	char	   *start = (char *) reserve_row(batch, row->t_len + 2 * sizeof(int32) + VARHDRSZ + room);
	Size		at = row->t_len;
	int32		number = attempt;
	int			length;

	memcpy(start, row->t_data, row->t_len);
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

	HeapTupleHeaderSetNatts(batch->row.t_data, FETCHED_NATTS);
	batch->row.t_len = at;
	tuplestore_puttuple(batch->fetch->result, &batch->row);
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
	if (batch->dead != NULL || batch->types != NULL)
		event->type = DatumGetTextPP(PointerGetDatum(event->type));
}

static int64
size_of(const EvsEvent *event)
{
	return VARSIZE_ANY(event->stream) + VARSIZE_ANY(event->type) +
		toast_raw_datum_size(PointerGetDatum(event->data)) +
		(event->metadata ? toast_raw_datum_size(PointerGetDatum(event->metadata)) : 0);
}

/*
 * The streams of a subscription that have dead letters, or NULL; asked with the
 * cursor claimed, so that none of its streams is missed.
 */
static EvsKeySet *
dead_streams(const char *subscription)
{
	static EvsQuery query = {
		"select distinct stream from evsource.subscription_dead_letters where subscription = $1",
		1, {TEXTOID}, SPI_OK_SELECT
	};
	Datum		values[] = {CStringGetTextDatum(subscription)};
	List	   *streams = evs_query_texts(&query, values, NULL);
	EvsKeySet  *set = streams == NIL ? NULL : evs_key_set_create();
	ListCell   *cell;

	foreach(cell, streams)
	{
		text	   *stream = cstring_to_text(lfirst(cell));
		EvsKeys		keys = {&stream, 1};

		evs_key_set_add(set, &keys);
	}
	return set;
}

/* An event behind a dead letter of its stream becomes one, too. */
static void
park_behind(const char *subscription, const EvsEvent *event)
{
	static EvsQuery query = {
		"insert into evsource.subscription_dead_letters"
		" (subscription, position, stream, version, type, attempts, reason, retry)"
		" select $1, $2, $3, $4, $5, 0, 'an earlier event of its stream is a dead letter',"
		"  exists (select from evsource.subscription_dead_letters d"
		"   where d.subscription = $1 and d.stream = $3 and d.retry)"
		" on conflict do nothing",
		5, {TEXTOID, INT8OID, TEXTOID, INT8OID, TEXTOID}, SPI_OK_INSERT
	};
	Datum		values[] = {
		CStringGetTextDatum(subscription), Int64GetDatum(event->position),
		PointerGetDatum(event->stream), Int64GetDatum(event->version), PointerGetDatum(event->type)
	};

	(void) evs_query_run(&query, values, NULL);
}

static bool
is_dead(Batch *batch, const EvsEvent *event)
{
	text	   *stream = event->stream;
	EvsKeys		keys = {&stream, 1};

	return batch->dead != NULL && evs_key_set_has_any(batch->dead, &keys);
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

/* Read from where the cursor is; nothing may be handed out, if all are dead. */
static void
read_batch(Batch *batch, int64 safe, Snapshot snapshot)
{
	EvsClaim   *claim = batch->claim;
	EvsFilter	filter = claim->subscription->filter;
	int64		upto = Min(safe, claim->end);
	EvsScan    *scan;
	TupleTableSlot *slot;
	bool		ended = true;

	filter.partitions = claim->subscription->partitions;
	filter.partition = claim->partition;
	batch->out.seen = claim->position;

	scan = evs_scan_log(claim->position, upto, &filter, snapshot);
	while (ended && (slot = evs_scan_next_slot(scan)) != NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(batch->event_context);
		EvsEvent	event;
		int64		size;

		MemoryContextReset(batch->event_context);
		view_event(batch, &event, slot);
		size = size_of(&event);
		if (is_dead(batch, &event))
		{
			park_behind(claim->subscription->name, &event);
			batch->out.seen = event.position;
		}
		else if (!belongs_to_batch(batch, &event, size))
			ended = false;
		else
		{
			bool		suspect = is_suspect(claim, event.position);

			evs_read_note_commit(&batch->read, slot);
			batch->bytes += size;
			if (batch->types != NULL)
				evs_type_upcast(batch->types, &event);
			put_event(batch, &event, suspect ? claim->attempts + 1 : 1);
			batch->out.seen = event.position;
			if (suspect || batch->fetch->count == batch->fetch->max_count)
				ended = false;
		}
		MemoryContextSwitchTo(caller);
	}
	if (ended)
		batch->out.seen = Max(batch->out.seen, upto);
	evs_scan_end(scan);
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

		view_event(batch, &event, slot);
		evs_read_note_commit(&batch->read, slot);
		if (batch->types != NULL)
			evs_type_upcast(batch->types, &event);
		put_event(batch, &event, attempt);
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
	batch->types = evs_types_any_now() ? evs_type_run() : NULL;
	batch->event_context = AllocSetContextCreate(CurrentMemoryContext, "evsource fetch event",
												 ALLOCSET_DEFAULT_SIZES);
	if (!retry)
		batch->dead = dead_streams(claim->subscription->name);
	evs_receipts_begin(&batch->receipts, claim, retry);
	evs_event_row_init(&batch->event_row);
	batch->context = CurrentMemoryContext;
	batch->row.t_tableOid = InvalidOid;
	ItemPointerSetInvalid(&batch->row.t_self);
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

	batch_begin(&batch, fetch, claim, false);
	read_batch(&batch, safe, snapshot);
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
	batch_end(&batch);
	return true;
}
