/*
 * state_cache.c - states that this session has computed.
 *
 * A stream only grows, and its events do not change: the state at a version
 * stays what it is.  So an entry needs no invalidation by what other sessions
 * append; whoever takes it reads the events after it.  It has to go
 *
 *	- when the definition of its projection changes: all entries do then, with
 *	  the next change of any projection, of which the relation cache tells us
 *	- when it may hold events of a transaction or savepoint that rolls back
 *	- when the cache is too large: the least recently used go first; one that
 *	  takes more than half of it leaves too little room for others, and goes
 *	  at once.  What goes is given back: the context must not keep it for chunks
 *	  of its size, for states of another size may come
 *
 * An entry in use is taken: it stays in the table, but nobody else gets it. A
 * fold function may ask for states itself, and then works without the cache.
 * An error that gets by leaves entries taken; the end of the (sub)transaction
 * in which they were taken drops them.
 */
#include "state_cache.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "lib/ilist.h"
#include "nodes/pg_list.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "relations.h"

int			evs_state_cache_size;

struct EvsCachedState
{
	uint32		hash;
	const char *projection;		/* one of names: compared as a pointer */
	int			keylen;
	EvsState	state;			/* its jsonb is in a chunk of its own, or NULL */
	Size		capacity;		/* of that chunk */
	bool		taken;
	bool		touched;		/* in the list of the transaction */
	SubTransactionId subid;		/* in which it was last touched */
	dlist_node	used;			/* in order of use, newest first */
	dlist_node	in_transaction; /* in order of subtransactions, newest first */
	char		key[FLEXIBLE_ARRAY_MEMBER];
};

/* ---- the table ---- */

typedef struct CacheSlot
{
	EvsCachedState *entry;		/* the table's key */
	char		status;
} CacheSlot;

static inline bool
same_key(const EvsCachedState *a, const EvsCachedState *b)
{
	return a->projection == b->projection && a->keylen == b->keylen &&
		memcmp(a->key, b->key, a->keylen) == 0;
}

#define SH_PREFIX cache
#define SH_ELEMENT_TYPE CacheSlot
#define SH_KEY_TYPE EvsCachedState *
#define SH_KEY entry
#define SH_HASH_KEY(tb, k) (k)->hash
#define SH_EQUAL(tb, a, b) ((a)->hash == (b)->hash && same_key(a, b))
#define SH_STORE_HASH
#define SH_GET_HASH(tb, slot) (slot)->entry->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/*
 * The context has blocks of one size, the smallest there is, so that a chunk of more
 * than an eighth of that is a block of its own, which free() gets back.  With a minimum
 * of that size, too, it is not one that another left behind, with the limits of that.
 */
#define BLOCK_SIZE		1024
#define MIN_CHUNK		(BLOCK_SIZE / 4)

static MemoryContext context = NULL;	/* holds everything below */
static cache_hash *table;
static List *names;				/* of projections (char *) */
static dlist_head by_use;
static int	ntaken = 0;

/* entries that may have to go when the (sub)transaction rolls back */
static dlist_head touched = DLIST_STATIC_INIT(touched);

/* counts changes of projections; what the table holds is of table_generation */
static uint64 generation = 1;
static uint64 table_generation = 0;
static Oid	projections_relid = InvalidOid;

static void
relcache_callback(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == projections_relid)
		generation++;
}

uint64
evs_state_cache_generation(void)
{
	Oid			relid = evs_catalog()->projections;

	/* hear of changes from here on */
	if (relid != projections_relid)
	{
		projections_relid = relid;
		generation++;
	}
	return generation;
}

/* Begin with an empty table.  Nothing is taken. */
static void
reset_table(void)
{
	Assert(ntaken == 0);
	dlist_init(&touched);
	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "evsource states",
										BLOCK_SIZE, BLOCK_SIZE, BLOCK_SIZE);
	else
		MemoryContextReset(context);
	table = cache_create(context, 256, NULL);
	names = NIL;
	dlist_init(&by_use);
	table_generation = generation;
}

/* The one copy of a projection's name. */
static const char *
intern(const char *projection)
{
	MemoryContext caller;
	char	   *name;
	ListCell   *cell;

	foreach(cell, names)
	{
		if (strcmp(lfirst(cell), projection) == 0)
			return lfirst(cell);
	}
	caller = MemoryContextSwitchTo(context);
	name = pstrdup(projection);
	names = lappend(names, name);
	MemoryContextSwitchTo(caller);
	return name;
}

static void
drop_entry(EvsCachedState *entry)
{
	if (entry->touched)
		dlist_delete(&entry->in_transaction);
	if (entry->taken)
		ntaken--;
	dlist_delete(&entry->used);
	(void) cache_delete(table, entry);
	if (entry->state.state != NULL)
		pfree(entry->state.state);
	pfree(entry);
}

/* The entry holds, or may come to hold, what this transaction has done. */
static void
touch(EvsCachedState *entry)
{
	if (entry->touched)
		dlist_delete(&entry->in_transaction);
	dlist_push_head(&touched, &entry->in_transaction);
	entry->touched = true;
	entry->subid = GetCurrentSubTransactionId();
}

static EvsCachedState *
new_entry(const EvsCachedState *like)
{
	Size		size = offsetof(EvsCachedState, key) + like->keylen;
	EvsCachedState *entry = MemoryContextAllocZero(context, Max(size, MIN_CHUNK));
	bool		found;

	memcpy(entry, like, size);
	(void) cache_insert(table, entry, &found);
	Assert(!found);
	dlist_push_head(&by_use, &entry->used);
	return entry;
}

EvsCachedState *
evs_state_cache_take(const char *projection, text *key, uint64 wanted)
{
	union
	{
		EvsCachedState entry;
		char		bytes[offsetof(EvsCachedState, key) + 1024];
	}			wanted_entry;
	EvsCachedState *like = &wanted_entry.entry;
	EvsCachedState *entry;
	CacheSlot  *slot;
	int			keylen = VARSIZE_ANY_EXHDR(key);

	if (wanted != generation || keylen > 1024)
		return NULL;
	if (table_generation != generation)
	{
		if (ntaken > 0)
			return NULL;
		reset_table();
	}

	memset(like, 0, offsetof(EvsCachedState, key));
	like->projection = intern(projection);
	like->keylen = keylen;
	memcpy(like->key, VARDATA_ANY(key), keylen);
	like->hash = DatumGetUInt32(hash_any((unsigned char *) like->key, keylen)) ^
		(uint32) (uintptr_t) like->projection;

	slot = cache_lookup(table, like);
	if (slot != NULL && slot->entry->taken)
		return NULL;
	if (slot == NULL && evs_state_cache_size == 0)
		return NULL;

	entry = slot ? slot->entry : new_entry(like);
	entry->taken = true;
	ntaken++;
	dlist_move_head(&by_use, &entry->used);
	touch(entry);
	return entry;
}

const EvsState *
evs_state_cached(const EvsCachedState *entry)
{
	return &entry->state;
}

/* A chunk for a jsonb of this size, in place of the one that there is. */
static Jsonb *
resize_chunk(EvsCachedState *entry, Size size)
{
	if (entry->state.state != NULL)
		pfree(entry->state.state);
	entry->state.state = NULL;

	/* some room to grow: most states do */
	entry->capacity = Max(size + size / 8 + 16, MIN_CHUNK);
	return MemoryContextAllocHuge(context, entry->capacity);
}

/* Copy the state, its jsonb into the entry's own chunk. */
static void
store_state(EvsCachedState *entry, const EvsState *state)
{
	Jsonb	   *chunk = entry->state.state;
	Size		size = VARSIZE(state->state);

	if (state->state != chunk)
	{
		if (chunk == NULL || size > entry->capacity || Max(size, MIN_CHUNK) < entry->capacity / 4)
			chunk = resize_chunk(entry, size);
		memcpy(chunk, state->state, size);
	}
	entry->state = *state;
	entry->state.state = chunk;
}

static Size
size_limit(void)
{
	return (Size) evs_state_cache_size * 1024;
}

static void
evict(void)
{
	Size		limit = size_limit();

	/* entries in use are few: when they come to stand last, wait for them */
	while (MemoryContextMemAllocated(context, false) > limit && !dlist_is_empty(&by_use))
	{
		EvsCachedState *entry = dlist_tail_element(EvsCachedState, used, &by_use);

		if (entry->taken)
			break;
		drop_entry(entry);
	}
}

void
evs_state_cache_put(EvsCachedState *entry, const EvsState *state)
{
	Assert(entry->taken);

	/* of a stream that does not exist there is nothing to keep */
	if (table_generation != generation ||
		(state == NULL ? entry->state.state == NULL : state->seen_version == 0))
	{
		drop_entry(entry);
		return;
	}
	if (state != NULL)
		store_state(entry, state);
	if (entry->state.state != NULL && entry->capacity > size_limit() / 2)
	{
		drop_entry(entry);
		return;
	}
	entry->taken = false;
	ntaken--;

	/* what others have committed stays when we roll back */
	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
	{
		dlist_delete(&entry->in_transaction);
		entry->touched = false;
	}
	evict();
}

/* ---- the end of transactions ---- */

/* Drop what the subtransaction (and those below it) has touched. */
static void
forget_touched(SubTransactionId subid)
{
	while (!dlist_is_empty(&touched))
	{
		EvsCachedState *entry = dlist_head_element(EvsCachedState, in_transaction, &touched);

		if (entry->subid < subid)
			break;
		drop_entry(entry);
	}
}

static void
keep_touched(void)
{
	while (!dlist_is_empty(&touched))
	{
		EvsCachedState *entry = dlist_head_element(EvsCachedState, in_transaction, &touched);

		dlist_delete(&entry->in_transaction);
		entry->touched = false;
		if (entry->taken)
			drop_entry(entry);
	}
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			keep_touched();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			forget_touched(InvalidSubTransactionId);
			break;
		default:
			break;
	}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId subid,
				 SubTransactionId parent, void *arg)
{
	dlist_iter	iter;

	switch (event)
	{
		case SUBXACT_EVENT_ABORT_SUB:
			forget_touched(subid);
			break;
		case SUBXACT_EVENT_COMMIT_SUB:
			/* only the innermost touches: its entries are the newest */
			dlist_foreach(iter, &touched)
			{
				EvsCachedState *entry = dlist_container(EvsCachedState, in_transaction, iter.cur);

				if (entry->subid != subid)
					break;
				entry->subid = parent;
			}
			break;
		default:
			break;
	}
}

void
evs_state_cache_init(void)
{
	evs_relations_watch(relcache_callback);
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}
