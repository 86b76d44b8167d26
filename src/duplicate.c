/*
 * duplicate.c - recognise events that are stored already.
 *
 * A client that does not know whether its append went through sends it again,
 * with the same ids: the second time stores nothing and returns what the first
 * returned.  What looks like such a repetition but is not one is an error.
 */
#include "evsource.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "duplicate.h"
#include "rights.h"
#include "store.h"
#include "store_insert.h"

static char *
id_text(const pg_uuid_t *id)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)));
}

static int
compare_ids(const void *a, const void *b)
{
	const EvsEvent *const *left = a;
	const EvsEvent *const *right = b;

	return memcmp(&(*left)->id, &(*right)->id, sizeof(pg_uuid_t));
}

/* No id may stand twice in a batch: it cannot be stored twice. */
static void
check_repeated_ids(const EvsBatch *batch)
{
	const EvsEvent **with_id = palloc(batch->count * sizeof(EvsEvent *));
	int			count = 0;

	for (int i = 0; i < batch->count; i++)
		if (batch->events[i].has_id)
			with_id[count++] = &batch->events[i];

	qsort(with_id, count, sizeof(EvsEvent *), compare_ids);
	for (int i = 1; i < count; i++)
		if (compare_ids(&with_id[i - 1], &with_id[i]) == 0)
		{
			int			first = (int) (Min(with_id[i - 1], with_id[i]) - batch->events) + 1;
			int			second = (int) (Max(with_id[i - 1], with_id[i]) - batch->events) + 1;

			ereport(ERROR,
					(errcode(ERRCODE_EVS_DUPLICATE_EVENT_ID),
					 errmsg("event id \"%s\" is repeated in one batch", id_text(&with_id[i]->id)),
					 errdetail("Events %d and %d of the batch have it.", first, second),
					 errhint("Give each event an id of its own, or none.")));
		}
	pfree(with_id);
}

/*
 * The stored event must be the given one, or the id was used for another.  Who may not
 * read that one is not told what it is, nor by one guess after the other what it is not.
 */
static void
check_same_event(Relation events, const EvsEvent *given, const EvsEvent *stored)
{
	const char *difference = NULL;

	if (!evs_same_text(given->stream, stored->stream))
		difference = "stream";
	else if (!evs_same_text(given->type, stored->type))
		difference = "type";
	else if (compareJsonbContainers(&given->data->root, &stored->data->root) != 0)
		difference = "data";

	if (difference != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_EVS_DUPLICATE_EVENT_ID),
				 errmsg("event id \"%s\" is already stored for another event", id_text(&given->id)),
				 evs_may_read_event(events, stored) ?
				 errdetail("It is version %lld of stream \"%s\", whose %s differs.",
						   (long long) stored->version, text_to_cstring(stored->stream), difference) :
				 errdetail("It has another stream, type or data."),
				 errhint("Give each event an id of its own.")));
}

bool
evs_any_id(const EvsBatch *batch)
{
	for (int i = 0; i < batch->count; i++)
		if (batch->events[i].has_id)
			return true;
	return false;
}

bool
evs_may_ask_for_duplicates(Relation events, text *stream, const EvsBatch *batch)
{
	if (evs_store_insert_passes(events, stream, batch))
		return true;
	/* a trigger may make another event of it; if that is stored, whoever sees it may know */
	for (int i = 0; i < batch->count; i++)
	{
		const EvsEvent *given = &batch->events[i];
		const EvsEvent *stored = given->has_id ? evs_store_find(events, &given->id) : NULL;

		if (stored == NULL || !evs_same_text(stored->stream, stream) ||
			!evs_may_read_event(events, stored))
			return false;
	}
	return true;
}

bool
evs_find_duplicates(Relation events, text *stream, const EvsBatch *batch, EvsAppended *appended)
{
	const EvsEvent *known = NULL;	/* a given event that is stored */
	const EvsEvent *unknown = NULL; /* one that is not */
	int64		last_version = 0;

	if (!evs_any_id(batch))
		return false;
	if (batch->count > 1)
		check_repeated_ids(batch);

	for (int i = 0; i < batch->count; i++)
	{
		const EvsEvent *given = &batch->events[i];
		EvsEvent   *stored = given->has_id ? evs_store_find(events, &given->id) : NULL;

		CHECK_FOR_INTERRUPTS();
		if (stored == NULL)
			unknown = given;
		else
		{
			check_same_event(events, given, stored);
			known = given;
			if (stored->version < last_version)
				ereport(ERROR,
						(errcode(ERRCODE_EVS_DUPLICATE_EVENT_ID),
						 errmsg("events of the batch are already stored in another order"),
						 errdetail("Event id \"%s\" is version %lld of stream \"%s\", the one before it in the batch is version %lld.",
								   id_text(&given->id), (long long) stored->version,
								   text_to_cstring(stream), (long long) last_version),
						 errhint("Send the batch as it was sent first, or give its events ids of their own.")));
			last_version = stored->version;
			if (i == 0)
				appended->first_version = stored->version;
			appended->version = stored->version;
			appended->position = stored->position;
			appended->id = given->id;
		}
		if (known != NULL && unknown != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_EVS_DUPLICATE_EVENT_ID),
					 errmsg("only a part of the batch is already stored"),
					 errdetail("Event id \"%s\" is stored in stream \"%s\", event %d of the batch is not.",
							   id_text(&known->id), text_to_cstring(stream),
							   (int) (unknown - batch->events) + 1),
					 errhint("Send the batch as it was sent first, or give its events ids of their own.")));
	}

	if (known == NULL)
	{
		memset(appended, 0, sizeof(EvsAppended));
		return false;
	}
	appended->stored = false;
	return true;
}
