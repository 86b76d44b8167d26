/*
 * append_many.c - append events of many streams at once.
 *
 * The steps are those of append.c, taken for as many streams as may be locked
 * together, then for the next ones.  A few events at a time are enough for most
 * of what a multi-insert saves, and hold few locks.  The streams of a turn are
 * locked in the order of their hashes, so that two sessions that append to the
 * same ones take turns.
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
#include "store.h"
#include "streams.h"

/* An event's stream, and its place in the batch. */
typedef struct Place
{
	uint64		hash;
	EvsEvent   *event;
} Place;

/* By hash, then by name, then in the order of the batch. */
static int
compare_places(const void *left, const void *right)
{
	const Place *a = left;
	const Place *b = right;
	int			length;
	int			order;

	if (a->hash != b->hash)
		return a->hash < b->hash ? -1 : 1;
	length = Min(VARSIZE_ANY_EXHDR(a->event->stream), VARSIZE_ANY_EXHDR(b->event->stream));
	order = memcmp(VARDATA_ANY(a->event->stream), VARDATA_ANY(b->event->stream), length);
	if (order == 0)
		order = (int) VARSIZE_ANY_EXHDR(a->event->stream) - (int) VARSIZE_ANY_EXHDR(b->event->stream);
	if (order == 0)
		order = a->event < b->event ? -1 : a->event > b->event;
	return order;
}

/* Lock the streams of the events, and give each event its version. */
static void
number(Relation events, EvsBatch *batch)
{
	Place		places[EVS_STREAMS_AT_ONCE];
	text	   *streams[EVS_STREAMS_AT_ONCE];
	int64		versions[EVS_STREAMS_AT_ONCE];
	int			count = 0;

	for (int i = 0; i < batch->count; i++)
	{
		places[i].event = &batch->events[i];
		places[i].hash = evs_stream_hash(batch->events[i].stream);
	}
	qsort(places, batch->count, sizeof(Place), compare_places);
	for (int i = 0; i < batch->count; i++)
	{
		text	   *stream = places[i].event->stream;

		if (count == 0 || !evs_same_text(streams[count - 1], stream))
			streams[count++] = stream;
		places[i].event->stream = streams[count - 1];
	}

	evs_stream_lock_many(events, streams, versions, count);
	for (int i = 0, stream = -1; i < batch->count; i++)
	{
		if (stream < 0 || places[i].event->stream != streams[stream])
			stream++;
		places[i].event->version = ++versions[stream];
	}
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
	events = table_open(evs_catalog()->events, RowExclusiveLock);
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
