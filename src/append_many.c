/*
 * append_many.c - append events of many streams at once.
 *
 * The steps are those of append.c, taken for as many streams as may be locked
 * together, then for the next ones.  A few events at a time are enough for most
 * of what a multi-insert saves, and hold few locks.  The streams of a turn are
 * locked in the order of their names, so that two sessions that append to the
 * same ones take turns.  Who has more events than fit into one, and cannot rule out
 * that others append to the same streams, brings them in that order.
 *
 * Projections get everything in one batch when all of it is stored.
 */
#include "evsource.h"

#include "access/table.h"
#include "miscadmin.h"
#include "utils/rel.h"

#include "append.h"
#include "barrier.h"
#include "catalog.h"
#include "gate.h"
#include "store.h"
#include "streams.h"

/* By the stream's name, then in the order of the batch. */
static int
compare_places(const void *left, const void *right)
{
	EvsEvent   *const *a = left;
	EvsEvent   *const *b = right;
	int			order = evs_compare_text((*a)->stream, (*b)->stream);

	return order != 0 ? order : (*a < *b ? -1 : *a > *b);
}

/* Lock the streams of the events, and give each event its version. */
static void
number(Relation events, EvsBatch *batch)
{
	EvsEvent   *places[EVS_STREAMS_AT_ONCE];
	text	   *streams[EVS_STREAMS_AT_ONCE];
	int64		versions[EVS_STREAMS_AT_ONCE];
	int			count = 0;

	for (int i = 0; i < batch->count; i++)
		places[i] = &batch->events[i];
	qsort(places, batch->count, sizeof(EvsEvent *), compare_places);
	for (int i = 0; i < batch->count; i++)
	{
		if (count == 0 || !evs_same_text(streams[count - 1], places[i]->stream))
			streams[count++] = places[i]->stream;
		places[i]->stream = streams[count - 1];
	}

	evs_stream_lock_many(events, streams, versions, count);
	for (int i = 0, stream = -1; i < batch->count; i++)
	{
		if (stream < 0 || places[i]->stream != streams[stream])
			stream++;
		places[i]->version = ++versions[stream];
	}
}

void
evs_append_lock_ahead(EvsEvent *appended, int count)
{
	EvsEvent  **places = MemoryContextAllocHuge(CurrentMemoryContext, count * sizeof(EvsEvent *));
	text	   *streams[EVS_STREAMS_AT_ONCE];
	int64		versions[EVS_STREAMS_AT_ONCE];
	int			nstreams = 0;
	Relation	events;

	for (int i = 0; i < count; i++)
		places[i] = &appended[i];
	qsort(places, count, sizeof(EvsEvent *), compare_places);
	for (int i = 0; i < count; i++)
	{
		if (nstreams > 0 && evs_same_text(streams[nstreams - 1], places[i]->stream))
			continue;
		if (nstreams == EVS_STREAMS_AT_ONCE)
			return;
		streams[nstreams++] = places[i]->stream;
	}

	evs_require_writable("evsource.append()");
	evs_gate_pass();
	events = evs_catalog_open(evs_catalog()->events, RowExclusiveLock);
	evs_stream_lock_many(events, streams, versions, nstreams);
	table_close(events, NoLock);
}

/* An INSERT has to run for each stream; those that follow each other share one. */
static void
append_stream_by_stream(EvsBatch *batch)
{
	for (int first = 0, next; first < batch->count; first = next)
	{
		EvsBatch	run = {&batch->events[first], 0};
		EvsAppended appended;

		for (next = first; next < batch->count &&
			 evs_same_text(batch->events[next].stream, batch->events[first].stream); next++)
			run.count++;
		evs_append(batch->events[first].stream, &run, EVS_EXPECTED_ANY, &appended);
	}
}

void
evs_append_many(EvsBatch *batch)
{
	Relation	events;

	evs_require_writable("evsource.append()");

	if (batch->count == 0)
		return;
	evs_gate_pass();
	events = evs_catalog_open(evs_catalog()->events, RowExclusiveLock);
	evs_append_check(events, batch);
	if (!evs_store_is_direct(events))
	{
		table_close(events, NoLock);
		append_stream_by_stream(batch);
		return;
	}

	evs_append_validate(batch);
	for (int done = 0; done < batch->count; done += EVS_STREAMS_AT_ONCE)
	{
		EvsBatch	some = {&batch->events[done], Min(batch->count - done, EVS_STREAMS_AT_ONCE)};

		CHECK_FOR_INTERRUPTS();
		number(events, &some);
		evs_store_numbered(events, &some);
	}
	table_close(events, NoLock);
	evs_append_dispatch(batch);
}
