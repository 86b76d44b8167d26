/*
 * state_past.c - the states of many keys before a time.
 *
 * A key that is no stream has its events anywhere in the log.  So that is walked once
 * for very many keys, and not once for each: a batch of events is taken apart by key,
 * and each key's state goes on from where the batch before has left it.
 */
#include "state_past.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "event.h"
#include "fold_groups.h"
#include "scan.h"

/* So many states are in memory at once; for more keys the log is walked again. */
#define MAX_KEYS	10000

/* So many events are, or work_mem. */
#define MAX_EVENTS	10000

typedef struct PastKey
{
	text	   *key;
	EvsState	state;			/* its jsonb is a copy of ours */
} PastKey;

typedef struct Past
{
	EvsFolder  *folder;
	const EvsStateAt *at;
	Snapshot	snapshot;
	PastKey    *keys;			/* in their order */
	int			count;
	MemoryContext context;		/* of keys and states */
	MemoryContext scratch;		/* of one key's row, or of a batch */
} Past;

/* End a run: the state stays, until the key's next one. */
static void
keep_state(Past *past, EvsState *state)
{
	MemoryContext caller = MemoryContextSwitchTo(past->context);
	Jsonb	   *copy;

	evs_state_finish(past->folder, state);
	copy = palloc(VARSIZE(state->state));
	memcpy(copy, state->state, VARSIZE(state->state));
	state->state = copy;
	MemoryContextSwitchTo(caller);
}

/* The next keys, with the states of those rows that are of use. */
static void
load_rows(Past *past, EvsKeyWalk *walk)
{
	MemoryContext caller = MemoryContextSwitchTo(past->scratch);
	text	   *key;

	past->count = 0;
	while (past->count < MAX_KEYS && (key = evs_key_walk_next(walk)) != NULL)
	{
		PastKey    *next = &past->keys[past->count++];

		memset(next, 0, sizeof(PastKey));
		next->key = MemoryContextAlloc(past->context, VARSIZE_ANY(key));
		memcpy(next->key, key, VARSIZE_ANY(key));
		evs_state_begin_key_at(past->folder, key, past->at, past->snapshot, &next->state);
		evs_folder_start(past->folder, next->state.state ? next->state.state : evs_initial_state());
		keep_state(past, &next->state);
		MemoryContextReset(past->scratch);
	}
	MemoryContextSwitchTo(caller);
}

static int
compare_keys(const void *a, const void *b)
{
	return evs_compare_text(((const PastKey *) a)->key, ((const PastKey *) b)->key);
}

/* Fold what the batch has of a key, if it is one of ours. */
static void
fold_group(Past *past, const EvsKeyGroup *group)
{
	PastKey		wanted = {.key = group->key};
	PastKey    *found = bsearch(&wanted, past->keys, past->count, sizeof(PastKey), compare_keys);
	Jsonb	   *before;

	if (found == NULL || found->state.is_lost ||
		group->events[group->count - 1]->position <= found->state.position)
		return;
	before = found->state.state;
	evs_folder_start(past->folder, before);
	for (int i = 0; i < group->count; i++)
	{
		/* the row has seen what is before */
		if (group->events[i]->position > found->state.position)
			evs_state_advance(past->folder, &found->state, group->events[i]);
	}
	keep_state(past, &found->state);
	pfree(before);
}

static void
fold_batch(Past *past, EvsBatch *batch)
{
	EvsEvent  **events = palloc(sizeof(EvsEvent *) * batch->count);
	EvsKeyGroup *groups;
	int			ngroups;
	int			count = 0;

	for (int i = 0; i < batch->count; i++)
	{
		if (evs_event_time(&batch->events[i]) < past->at->before)
			events[count++] = &batch->events[i];
	}
	if (count == 0)
		return;
	groups = evs_group_by_key(past->folder->projection, events, count, &ngroups);
	for (int i = 0; i < ngroups; i++)
		fold_group(past, &groups[i]);
}

/* Fold what comes after the rows. */
static void
walk_log(Past *past)
{
	const EvsProjection *projection = past->folder->projection;
	int64		after = PG_INT64_MAX;
	EvsScan    *scan;
	MemoryContext caller;
	int			count;

	for (int i = 0; i < past->count; i++)
	{
		if (!past->keys[i].state.is_lost)
			after = Min(after, past->keys[i].state.position);
	}
	if (after == PG_INT64_MAX)
		return;

	scan = evs_scan_log(Max(after, projection->start_after), PG_INT64_MAX, &projection->filter,
						past->snapshot);
	caller = MemoryContextSwitchTo(past->scratch);
	do
	{
		EvsBatch   *batch = evs_scan_batch(scan, MAX_EVENTS, work_mem);

		count = batch->count;
		if (count > 0)
			fold_batch(past, batch);
		MemoryContextReset(past->scratch);
	} while (count > 0);
	MemoryContextSwitchTo(caller);
	evs_scan_end(scan);
}

void
evs_state_load_keys_at(EvsFolder *folder, EvsKeyWalk *walk, const EvsStateAt *at,
					   Snapshot snapshot, EvsUseState use, void *arg)
{
	Past		past = {.folder = folder, .at = at, .snapshot = snapshot};

	Assert(at->has_time);
	past.keys = palloc(sizeof(PastKey) * MAX_KEYS);
	past.context = AllocSetContextCreate(CurrentMemoryContext, "evsource past states",
										 ALLOCSET_DEFAULT_SIZES);
	past.scratch = AllocSetContextCreate(CurrentMemoryContext, "evsource past events",
										 ALLOCSET_DEFAULT_SIZES);
	do
	{
		load_rows(&past, walk);
		walk_log(&past);
		for (int i = 0; i < past.count; i++)
			use(arg, past.keys[i].key, &past.keys[i].state);
		MemoryContextReset(past.context);
	} while (past.count == MAX_KEYS);
	MemoryContextDelete(past.scratch);
	MemoryContextDelete(past.context);
	pfree(past.keys);
}
