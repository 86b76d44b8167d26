/*
 * apply_park.c - leave events aside that an async projection cannot take.
 *
 * While a projection has dead letters each event's keys are looked at, and those
 * of a parked key are parked, too.
 *
 * Parking is for events that the handler cannot take, not for handlers that
 * cannot be called: before an event is parked evsource sees that the function is
 * there and may be executed, and that the query still can be planned.
 */
#include "evsource.h"

#include "utils/memutils.h"

#include "apply_park.h"
#include "attempt.h"
#include "dispatch.h"
#include "failure.h"
#include "settings.h"

/* Each has ended all sessions several times: it is not to go on for ever. */
#define MOST_CRASHED	5

/* Would any event meet this error? */
static void
check_projection(void *arg)
{
	evs_dispatch_check(arg);
}

/* A key function is for events that can be read. */
static bool
has_place(const EvsProjection *projection, bool unread)
{
	return !unread || projection->key_kind != EVS_KEY_FUNCTION;
}

const char *
evs_apply_obstacle(const char *projection, const ErrorData *error)
{
	if (evs_dead_letters_count(projection) >= evs_max_dead_letters)
		return "has as many dead letters as evsource.max_dead_letters allows";
	if (error->sqlerrcode == ERRCODE_CRASH_SHUTDOWN &&
		evs_dead_letters_crashed(projection) >= MOST_CRASHED)
		return psprintf("has %d dead letters at which the process died", MOST_CRASHED);
	return NULL;
}

bool
evs_apply_park(EvsApply *apply, EvsEvent *event, bool unread, int attempts, ErrorData **error,
			   const char **obstacle)
{
	EvsProjection *projection = apply->projection;
	EvsKeys		keys;
	ErrorData  *reason;

	if (!has_place(projection, unread))
		return false;
	reason = evs_attempt(check_projection, projection);
	if (reason == NULL)
		(void) evs_keys_of(projection, event, 1, &keys, &reason);
	if (reason != NULL)
	{
		if (evs_failure_is_transient(reason->sqlerrcode))
			ReThrowError(reason);
		*error = reason;
		return false;
	}
	*obstacle = evs_apply_obstacle(apply->unit.projection, *error);
	if (*obstacle != NULL)
		return false;

	evs_dead_letter_park(apply->unit.projection, event, &keys, attempts, *error);
	apply->unit.has_dead_letters = true;
	return true;
}

bool
evs_apply_wait_behind(EvsApply *apply, EvsEvent *event)
{
	EvsProjection *projection = apply->projection;
	EvsKeySet  *parked = evs_key_set_create();
	EvsKeys		keys;
	ErrorData  *error;

	if (!apply->unit.has_dead_letters || !has_place(projection, true))
		return false;
	(void) evs_keys_of(projection, event, 1, &keys, &error);
	evs_dead_letters_find(parked, apply->unit.projection, PG_INT64_MAX, &keys, 1);
	if (!evs_key_set_has_before(parked, &keys, event->position))
		return false;
	evs_dead_letter_park(apply->unit.projection, event, &keys, 0, NULL);
	return true;
}

void
evs_apply_sort_out(const EvsApply *apply, const EvsBatch *batch, EvsSorted *sorted)
{
	EvsKeys    *keys;
	EvsKeySet  *parked;

	memset(sorted, 0, sizeof(EvsSorted));
	if (!apply->unit.has_dead_letters)
	{
		sorted->events = batch->events;
		sorted->count = sorted->looked_at = batch->count;
		return;
	}

	keys = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(EvsKeys) * batch->count);
	sorted->looked_at = evs_keys_of(apply->projection, batch->events, batch->count, keys,
									&sorted->error);
	parked = evs_key_set_create();
	evs_dead_letters_find(parked, apply->unit.projection, PG_INT64_MAX, keys, sorted->looked_at);

	sorted->events = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(EvsEvent) * batch->count);
	sorted->parked = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(EvsEvent) * batch->count);
	sorted->parked_keys = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(EvsKeys) * batch->count);
	for (int i = 0; i < sorted->looked_at; i++)
	{
		if (evs_key_set_has_before(parked, &keys[i], batch->events[i].position))
		{
			/* its other keys have a letter now, too */
			evs_key_set_add(parked, &keys[i], batch->events[i].position);
			sorted->parked_keys[sorted->nparked] = keys[i];
			sorted->parked[sorted->nparked++] = batch->events[i];
		}
		else
			sorted->events[sorted->count++] = batch->events[i];
	}
}
