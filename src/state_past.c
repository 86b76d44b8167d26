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

/* What the states take together, in times work_mem; the keys beyond that are put off. */
#define MAX_SIZE	16

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
	int			put_off;		/* keys behind these, whose turn comes next */
	bool		more;			/* there may be keys behind those, too */
	Size		size;			/* of the states */
	MemoryContext keys_context;
	MemoryContext context;		/* of states */
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
	past->size += VARSIZE(copy);
	MemoryContextSwitchTo(caller);
}

/* If the states are too large, leave half of the keys to another walk. */
static void
put_off(Past *past)
{
	while (past->count > 1 && past->size > (Size) work_mem * 1024 * MAX_SIZE)
	{
		int			half = past->count / 2;

		for (int i = half; i < past->count; i++)
		{
			past->size -= VARSIZE(past->keys[i].state.state);
			pfree(past->keys[i].state.state);
		}
		past->put_off += past->count - half;
		past->count = half;
	}
}

/* The next keys: those that were put off, or else new ones. */
static void
take_keys(Past *past, EvsKeyWalk *walk)
{
	text	   *key;

	if (past->put_off > 0)
	{
		memmove(past->keys, past->keys + past->count, sizeof(PastKey) * past->put_off);
		past->count = past->put_off;
		past->put_off = 0;
		return;
	}
	MemoryContextReset(past->keys_context);
	past->count = 0;
	while (past->count < MAX_KEYS && (key = evs_key_walk_next(walk)) != NULL)
	{
		text	   *copy = MemoryContextAlloc(past->keys_context, VARSIZE_ANY(key));

		memcpy(copy, key, VARSIZE_ANY(key));
		past->keys[past->count++].key = copy;
	}
	past->more = past->count == MAX_KEYS;
}

/* With the states of those rows that are of use. */
static void
load_rows(Past *past, EvsKeyWalk *walk)
{
	MemoryContext caller = MemoryContextSwitchTo(past->scratch);

	take_keys(past, walk);
	past->size = 0;
	for (int i = 0; i < past->count; i++)
	{
		PastKey    *next = &past->keys[i];

		memset(&next->state, 0, sizeof(EvsState));
		evs_state_begin_key_at(past->folder, next->key, past->at, past->snapshot, &next->state);
		evs_folder_start(past->folder, next->state.state ? next->state.state : evs_initial_state());
		keep_state(past, &next->state);
		MemoryContextReset(past->scratch);
		if (past->size > (Size) work_mem * 1024 * MAX_SIZE)
		{
			past->put_off += past->count - (i + 1);
			past->count = i + 1;
		}
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
	past->size -= VARSIZE(before);
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
	groups = evs_group_by_key(past->folder->projection, events, count, false, &ngroups);
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
		EvsBatch   *batch = evs_scan_batch(scan, MAX_EVENTS, work_mem, false);

		count = batch->count;
		if (count > 0)
			fold_batch(past, batch);
		MemoryContextReset(past->scratch);
		put_off(past);
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
	past.keys_context = AllocSetContextCreate(CurrentMemoryContext, "evsource past keys",
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
	} while (past.put_off > 0 || past.more);
	MemoryContextDelete(past.scratch);
	MemoryContextDelete(past.context);
	MemoryContextDelete(past.keys_context);
	pfree(past.keys);
}
