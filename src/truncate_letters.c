/*
 * truncate_letters.c - what it is to the failures and dead letters of projections
 * that the beginning of a stream goes.
 *
 * A parked event was not applied, and never will be when it is gone: like any event
 * that a projection has not applied it keeps its stream from being truncated, unless
 * by force.  Then its row goes.  What was parked behind it may share a key with
 * another one, of whatever stream, and waits on for that; what does not is released:
 * whoever applies the projection next begins with it (retry.c), in the order of the
 * log, and so do a rebuild and an old version that is kept and comes back.
 *
 * The texts of errors may quote what the events held.  So they go with them, wherever
 * they stand: with the letter, as why a unit is stuck, as why a rebuild failed.
 *
 * Locks: the names of the projection and of its rebuild, which whoever writes these
 * rows has.
 */
#include "evsource.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/inval.h"

#include "catalog.h"
#include "crash_mark.h"
#include "query.h"
#include "truncate_letters.h"

/* The projection's own rows, and those of a version that is built or kept beside it. */
#define ITS_ROWS \
	"projection in (select $1 union all select r.shadow from evsource.rebuilds r" \
	"  where r.projection = $1 and r.shadow is not null)"

#define THE_EVENTS \
	"(select e.position from evsource.events e where e.stream = $2 and e.version < $3)"

/* What stands instead of the text of an error. */
#define TRUNCATED	"'the event was truncated'"

static EvsQuery find_letters = {
	"select from evsource.dead_letters where " ITS_ROWS " and stream = $2 limit 1",
	2, {TEXTOID, TEXTOID}, SPI_OK_SELECT
};

static EvsQuery count_letters = {
	"select count(*), max(position) from evsource.dead_letters"
	" where projection = $1 and stream = $2 and version < $3",
	3, {TEXTOID, TEXTOID, INT8OID}, SPI_OK_SELECT
};

static EvsQuery remove_letters = {
	"delete from evsource.dead_letters where " ITS_ROWS " and stream = $2 and version < $3",
	3, {TEXTOID, TEXTOID, INT8OID}, SPI_OK_DELETE
};

static EvsQuery remove_keys = {
	"delete from evsource.parked_keys k where " ITS_ROWS " and not exists ("
	"  select from evsource.dead_letters l"
	"  where l.projection = k.projection and l.position = k.position)",
	1, {TEXTOID}, SPI_OK_DELETE
};

/* The first event of a key is one step in the index; a join would look at all of them. */
static EvsQuery release = {
	"update evsource.dead_letters l"
	" set retry = true, message = 'waited behind an event that was truncated'"
	" where " ITS_ROWS " and attempts = 0 and not retry and not exists ("
	"  select from unnest(l.keys) n (key) where l.position >"
	"   (select min(k.position) from evsource.parked_keys k"
	"    where k.projection = l.projection and k.key = n.key))",
	1, {TEXTOID}, SPI_OK_UPDATE
};

static EvsQuery forget_failures = {
	"update evsource.projection_failures"
	" set message = " TRUNCATED ", detail = null, hint = null, context = null"
	" where " ITS_ROWS " and position in " THE_EVENTS,
	3, {TEXTOID, TEXTOID, INT8OID}, SPI_OK_UPDATE
};

static EvsQuery forget_rebuild = {
	"update evsource.rebuilds"
	" set last_error = " TRUNCATED ", detail = null, hint = null, context = null"
	" where projection = $1 and last_error_position in " THE_EVENTS,
	3, {TEXTOID, TEXTOID, INT8OID}, SPI_OK_UPDATE
};

bool
evs_letters_of_stream(const char *projection, text *stream)
{
	Datum		values[] = {CStringGetTextDatum(projection), PointerGetDatum(stream)};

	return evs_query_run(&find_letters, values, NULL) > 0;
}

void
evs_letters_check_truncation(const char *projection, text *stream, int64 before, bool force)
{
	Datum		values[] = {
		CStringGetTextDatum(projection), PointerGetDatum(stream), Int64GetDatum(before)
	};
	const char *name = text_to_cstring(stream);
	EvsQueryResult result;
	long long	events;
	long long	last;

	evs_query_begin(&count_letters, values, NULL, InvalidSnapshot, &result);
	events = evs_query_bigint(&result, 0, 1);
	last = evs_query_bigint(&result, 0, 2);
	evs_query_end(&result);
	if (events == 0)
		return;
	if (!force)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot truncate stream \"%s\": projection \"%s\" has parked events of it",
						name, projection),
				 errdetail_plural("%lld event that it has not applied would go, at position %lld.",
								  "%lld events that it has not applied would go, the last at position %lld.",
								  (unsigned long) events, events, last),
				 errhint("Have them applied first: evsource.retry_dead_letters('%s'); or use force => true to let the events go without it.",
						 projection)));
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg_plural("projection \"%s\" will never apply %lld event of stream \"%s\"",
						   "projection \"%s\" will never apply %lld events of stream \"%s\"",
						   (unsigned long) events, projection, events, name),
			 errdetail_plural("It was parked, at position %lld.",
							  "They were parked, the last at position %lld.",
							  (unsigned long) events, last)));
}

void
evs_letters_truncated(const char *projection, text *stream, int64 before)
{
	Datum		values[] = {
		CStringGetTextDatum(projection), PointerGetDatum(stream), Int64GetDatum(before)
	};

	(void) evs_query_run(&forget_failures, values, NULL);
	(void) evs_query_run(&forget_rebuild, values, NULL);
	if (evs_query_run(&remove_letters, values, NULL) == 0)
		return;
	(void) evs_query_run(&remove_keys, values, NULL);

	/* crashes that were counted before are not those of what is released */
	if (evs_query_run(&release, values, NULL) > 0)
		evs_crash_marks_clear(projection);

	/* sessions may remember states that these events were asked into; and workers look */
	CacheInvalidateRelcacheByRelid(evs_catalog()->projections);
}
