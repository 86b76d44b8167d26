/*
 * fold_kept.c - states that are to be saved once a whole batch is folded.
 *
 * A batch is folded key by key, so it is no prefix of the log before its end.  When that
 * would take too long it is given up, and nothing of it must have been written.
 */
#include "fold_kept.h"

#include "miscadmin.h"
#include "utils/memutils.h"

/* What the states may take, whatever maintenance_work_mem is. */
#define MOST_KB		(64 * 1024)

typedef struct KeptState
{
	text	   *key;
	EvsState	state;			/* its jsonb is a copy */
} KeptState;

struct EvsKeptStates
{
	MemoryContext context;		/* of the copies */
	KeptState  *states;
	int			count;
	int			allocated;
	Size		bytes;
};

EvsKeptStates *
evs_kept_create(void)
{
	EvsKeptStates *kept = palloc0(sizeof(EvsKeptStates));

	kept->context = AllocSetContextCreate(CurrentMemoryContext, "evsource kept states",
										  ALLOCSET_DEFAULT_SIZES);
	return kept;
}

static void
enlarge(EvsKeptStates *kept)
{
	if (kept->count < kept->allocated)
		return;
	kept->allocated = Max(kept->allocated * 2, 64);
	kept->states = kept->states == NULL ?
		MemoryContextAlloc(kept->context, sizeof(KeptState) * kept->allocated) :
		repalloc_huge(kept->states, sizeof(KeptState) * kept->allocated);
}

bool
evs_kept_add(EvsKeptStates *kept, text *key, const EvsState *state)
{
	Size		size = VARSIZE(state->state);
	KeptState  *copy;

	enlarge(kept);
	copy = &kept->states[kept->count++];
	copy->key = key;
	copy->state = *state;
	copy->state.state = MemoryContextAllocHuge(kept->context, size);
	memcpy(copy->state.state, state->state, size);
	kept->bytes += size + sizeof(KeptState);
	return kept->bytes < (Size) Min(maintenance_work_mem, MOST_KB) * 1024;
}

void
evs_kept_save(EvsKeptStates *kept, EvsSnapshotWriter *writer)
{
	for (int i = 0; i < kept->count; i++)
		evs_snapshot_add(writer, kept->states[i].key, &kept->states[i].state);
	MemoryContextReset(kept->context);
	kept->states = NULL;
	kept->count = kept->allocated = 0;
	kept->bytes = 0;
}
