/*
 * known.c - projections as this worker knows them.
 *
 * Each is kept with what running it has found out (plans), until any projection changes.
 * One that has come in by a new name changes them all: that is the moment to forget what is
 * out of date, or a worker that lives for months would keep every name that it ever saw.
 */
#include "evsource.h"

#include "access/xact.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "known.h"
#include "registry.h"
#include "state_cache.h"

typedef struct KnownProjection
{
	char		name[NAMEDATALEN];	/* the table's key */
	uint64		generation;		/* 0: to be looked up again */
	EvsProjection *projection;	/* NULL: does not exist */
	MemoryContext context;		/* holds it */
	bool		used;			/* see evs_known_used() */
} KnownProjection;

static HTAB *known_projections = NULL;

/* One that was used is forgotten: what its handler remembers is still there. */
static bool forgotten_used = false;

static void
release(KnownProjection *known)
{
	if (known->context != NULL)
		MemoryContextDelete(known->context);
	known->context = NULL;
	known->projection = NULL;
	known->generation = 0;
}

static void
forget_outdated(void)
{
	uint64		generation = evs_state_cache_generation();
	HASH_SEQ_STATUS status;
	KnownProjection *known;

	hash_seq_init(&status, known_projections);
	while ((known = hash_seq_search(&status)) != NULL)
	{
		if (known->generation == generation)
			continue;
		forgotten_used |= known->used;
		release(known);
		(void) hash_search(known_projections, known->name, HASH_REMOVE, NULL);
	}
}

static KnownProjection *
find(const char *name)
{
	KnownProjection *known;

	if (known_projections == NULL)
	{
		HASHCTL		control = {.keysize = NAMEDATALEN, .entrysize = sizeof(KnownProjection)};

		known_projections = hash_create("evsource known projections", 16, &control,
										HASH_ELEM | HASH_STRINGS);
	}
	known = hash_search(known_projections, name, HASH_FIND, NULL);
	if (known != NULL)
		return known;

	/* what is out of date is in the catalogs */
	if (IsTransactionState())
		forget_outdated();
	known = hash_search(known_projections, name, HASH_ENTER, NULL);
	known->generation = 0;
	known->projection = NULL;
	known->context = NULL;
	known->used = forgotten_used;
	return known;
}

EvsProjection *
evs_known_get(const char *name)
{
	KnownProjection *known = find(name);
	uint64		generation;
	MemoryContext context;
	MemoryContext caller;

	AcceptInvalidationMessages();
	generation = evs_state_cache_generation();
	if (known->generation == generation)
		return known->projection;
	release(known);

	/* until it is complete an error takes it away with the transaction */
	context = AllocSetContextCreate(CurrentMemoryContext, "evsource known projection",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	known->projection = evs_projection_load(name, true);
	MemoryContextSwitchTo(caller);
	MemoryContextSetParent(context, TopMemoryContext);
	known->context = context;
	known->generation = generation;
	return known->projection;
}

void
evs_known_forget(const char *name)
{
	find(name)->generation = 0;
}

bool
evs_known_used(const char *name)
{
	return find(name)->used;
}

void
evs_known_set_used(const char *name)
{
	find(name)->used = true;
}
