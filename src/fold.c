/*
 * fold.c - fold projections: a state per key, computed from the key's events.
 *
 * A batch is taken apart by key; then each key's events are folded in one go,
 * in their order.  The order of keys does not matter: no state depends on
 * another.
 *
 * Keyed by stream, the state is that of the stream just before its first event
 * in the batch (which is stored already) and the fold of the batch's events.
 * What is written is the policy's decision; the state itself stays with the
 * session.  That is how inline folds work: an append to one stream touches
 * nothing that an append to another does.
 *
 * Any other key has a row, which is written once a batch and which is the
 * state.  One worker at a time applies such a projection; whoever runs it sees
 * to that.  Events at or below the row's position are in the state already.
 */
#include "fold.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "event.h"
#include "fold_key.h"
#include "folder.h"
#include "snapshots.h"
#include "state_cache.h"
#include "state_load.h"

/* The events of a key: a list through Grouping.links. */
typedef struct KeyGroup
{
	text	   *key;			/* the table's key */
	uint32		hash;
	char		status;
	int			first;
	int			last;
} KeyGroup;

typedef struct EventLink
{
	int			event;			/* index in the batch */
	int			next;			/* index in links, or -1 */
} EventLink;

static inline bool
same_text(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

#define SH_PREFIX groups
#define SH_ELEMENT_TYPE KeyGroup
#define SH_KEY_TYPE text *
#define SH_KEY key
#define SH_HASH_KEY(tb, k) \
	hash_bytes((const unsigned char *) VARDATA_ANY(k), VARSIZE_ANY_EXHDR(k))
#define SH_EQUAL(tb, a, b) same_text(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, group) (group)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* A batch, taken apart. */
typedef struct Grouping
{
	groups_hash *table;
	EventLink  *links;
	int			nlinks;
	int			allocated;
} Grouping;

/* A batch being applied. */
typedef struct Application
{
	EvsProjection *projection;
	EvsEvent   *const *events;
	EvsFolder  *folder;
	EvsSnapshotWriter *writer;
	Snapshot	snapshot;		/* sees all that was committed, and our own */
	MemoryContext context;		/* of one key's work */
} Application;

/* ---- taking a batch apart ---- */

static void
add_to_group(Grouping *grouping, text *key, bool copy_key, int event)
{
	bool		found;
	KeyGroup   *group = groups_insert(grouping->table, key, &found);
	int			link = grouping->nlinks++;

	if (link == grouping->allocated)
	{
		grouping->allocated *= 2;
		grouping->links = repalloc_huge(grouping->links,
										sizeof(EventLink) * grouping->allocated);
	}
	grouping->links[link].event = event;
	grouping->links[link].next = -1;

	if (found)
		grouping->links[group->last].next = link;
	else
	{
		if (copy_key)
		{
			group->key = palloc(VARSIZE_ANY(key));
			memcpy(group->key, key, VARSIZE_ANY(key));
		}
		group->first = link;
	}
	group->last = link;
}

static Grouping *
group_by_key(EvsProjection *projection, EvsEvent *const *events, int count)
{
	Grouping   *grouping = palloc(sizeof(Grouping));
	EvsKeyer   *keyer = evs_keyer_open(projection);
	bool		copy_keys = projection->key_kind == EVS_KEY_FUNCTION;

	grouping->table = groups_create(CurrentMemoryContext, Min(count, 1024), NULL);
	grouping->nlinks = 0;
	grouping->allocated = count;
	grouping->links = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(EventLink) * count);

	for (int i = 0; i < count; i++)
	{
		text	  **keys;
		int			nkeys;

		CHECK_FOR_INTERRUPTS();
		nkeys = evs_keyer_keys(keyer, events[i], &keys);
		for (int k = 0; k < nkeys; k++)
			add_to_group(grouping, keys[k], copy_keys, i);
	}
	evs_keyer_close(keyer);
	return grouping;
}

/* ---- applying it ---- */

/*
 * A fold that no append dispatches to keeps the row of each key current: one
 * worker writes them, a batch at a time.
 */
static bool
keeps_rows_current(const EvsProjection *projection)
{
	return projection->mode != EVS_MODE_INLINE;
}

/* Does the policy want this state saved now, and can it be? */
static bool
is_to_be_saved(const Application *application, text *key, const EvsState *state)
{
	const EvsProjection *projection = application->projection;
	const EvsSnapshotPolicy *policy = &projection->policy;

	if (state->event_count == 0 || policy->snapshot_every == 0)
		return false;
	if (keeps_rows_current(projection))
		return state->event_count != state->saved_count || state->rejections > 0;
	if (!policy->snapshot_after_batch ||
		state->event_count - state->saved_count < policy->snapshot_every)
		return false;

	/* where every state is saved, none may be left to others */
	return policy->snapshot_every == 1 ||
		evs_snapshot_lock(projection->name, key, EVS_SNAPSHOT_TRY_KEY);
}

static void
save(Application *application, text *key, EvsState *state)
{
	evs_snapshot_add(application->writer, key, state);
	state->saved_count = state->event_count;
	state->restores = 0;
	state->rejections = 0;
}

/*
 * Fold a stream's events.  The cached state may be ahead of where the batch
 * begins: somebody in this transaction has asked for the state since the events
 * were stored.
 */
static void
apply_to_stream(Application *application, const Grouping *grouping, const KeyGroup *group)
{
	EvsFolder  *folder = application->folder;
	EvsEvent   *const *events = application->events;
	EvsEvent   *first = events[grouping->links[group->first].event];
	EvsCachedState *entry;
	EvsState	state = {0};

	entry = evs_state_cache_take(application->projection->name, group->key, folder->generation);
	if (entry != NULL)
		state = *evs_state_cached(entry);

	if (state.seen_version < first->version - 1)
	{
		EvsStateAt	before = {.version = first->version - 1};

		evs_state_load_stream(folder, group->key, &before, application->snapshot, &state);
	}
	else
		evs_folder_start(folder, state.state ? state.state : evs_initial_state());

	for (int i = group->first; i >= 0; i = grouping->links[i].next)
	{
		EvsEvent   *event = events[grouping->links[i].event];

		if (event->version > state.seen_version)
			evs_state_advance(folder, &state, event);
	}
	evs_state_finish(folder, &state);

	if (is_to_be_saved(application, group->key, &state))
		save(application, group->key, &state);
	if (entry != NULL)
		evs_state_cache_put(entry, &state);
}

/* Fold the events of a key that is no stream. */
static void
apply_to_row(Application *application, const Grouping *grouping, const KeyGroup *group)
{
	EvsFolder  *folder = application->folder;
	EvsEvent   *const *events = application->events;
	int64		before = events[0]->position - 1;
	EvsState	state = {0};

	evs_state_load_row(folder, group->key, before, application->snapshot, &state);
	for (int i = group->first; i >= 0; i = grouping->links[i].next)
	{
		EvsEvent   *event = events[grouping->links[i].event];

		if (event->position > state.position)
			evs_state_advance(folder, &state, event);
	}
	evs_state_finish(folder, &state);
	if (state.event_count > state.saved_count || state.rejections > 0)
		save(application, group->key, &state);
}

void
evs_fold_apply(EvsProjection *projection, EvsEvent *const *events, int count)
{
	Application application;
	Grouping   *grouping;
	groups_iterator iterator;
	KeyGroup   *group;
	MemoryContext caller;

	grouping = group_by_key(projection, events, count);
	application.projection = projection;
	application.events = events;
	application.folder = evs_folder_open(projection);
	application.writer = evs_snapshot_writer(projection);
	application.snapshot = GetActiveSnapshot();
	application.context = AllocSetContextCreate(CurrentMemoryContext, "evsource fold key",
												ALLOCSET_DEFAULT_SIZES);

	caller = MemoryContextSwitchTo(application.context);
	groups_start_iterate(grouping->table, &iterator);
	while ((group = groups_iterate(grouping->table, &iterator)) != NULL)
	{
		if (projection->key_kind == EVS_KEY_STREAM)
			apply_to_stream(&application, grouping, group);
		else
			apply_to_row(&application, grouping, group);
		MemoryContextReset(application.context);
	}
	MemoryContextSwitchTo(caller);

	(void) evs_snapshot_finish(application.writer);
	evs_folder_close(application.folder);
}
