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
 * to that.  So each event comes after the row's position: one that does not is refused.
 *
 * When the time for a batch is over, the fold of a single key ends where it is.  With
 * several keys there is no event up to which all is folded, and nothing after it: all of
 * that is given up, and whoever calls has less of it folded.  A fold function does nothing
 * but compute, so nobody notices.
 */
#include "fold.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "alarm.h"
#include "fold_groups.h"
#include "fold_kept.h"
#include "folder.h"
#include "snapshots.h"
#include "state_cache.h"
#include "state_load.h"

/*
 * What is left to those who ask for states is saved by an append all the same when
 * nobody has saved it for so many times as long: sessions that are new to the stream
 * would have to fold all of it, with the stream locked.
 */
#define OVERDUE		20

/* A batch being applied. */
typedef struct Application
{
	EvsProjection *projection;
	EvsFolder  *folder;
	EvsSnapshotWriter *writer;
	Snapshot	snapshot;		/* sees all that was committed, and our own */
	MemoryContext context;		/* of one key's work */
	bool		bounded;		/* it may end before its end */
	bool		late;			/* and has */
	EvsEvent   *next;			/* that comes next then */
	EvsKeptStates *kept;		/* saved at the end; NULL: each is at once */
} Application;

/* Is the time over?  Asked before each event but the first. */
static inline bool
is_late(Application *application, EvsEvent *next)
{
	if (!application->bounded || !evs_alarm_rang())
		return false;
	application->late = true;
	application->next = next;
	return true;
}

/*
 * Does the policy want this state saved now, and can it be?  What is left to those who
 * ask is not to keep an append waiting, unless this session has asked and could not
 * save; a session that applies the log saves it itself.
 */
static bool
is_to_be_saved(const Application *application, text *key, const EvsState *state)
{
	const EvsProjection *projection = application->projection;
	const EvsSnapshotPolicy *policy = &projection->policy;
	bool		by_append = projection->mode == EVS_MODE_INLINE;

	if (state->event_count == 0 || policy->snapshot_every == 0)
		return false;
	if (by_append && !policy->snapshot_after_batch && !state->wanted &&
		evs_snapshot_distance(state) < (int64) policy->snapshot_every * OVERDUE)
		return false;

	/* nobody else writes what appends do not: a snapshot that is of no use is replaced */
	if (!by_append && state->rejections > 0)
		return true;

	/* where every state is saved, none may be left to others */
	if (policy->snapshot_every == 1)
		return state->event_count > state->saved_count &&
			(!by_append || evs_snapshot_lock(projection->name, key, EVS_SNAPSHOT_LOCK_EACH));
	return evs_snapshot_is_due(projection, key, state);
}

static void
save(Application *application, text *key, EvsState *state)
{
	if (application->kept == NULL)
		evs_snapshot_add(application->writer, key, state);
	else if (!evs_kept_add(application->kept, key, state))
	{
		/* what is written cannot be given up */
		application->bounded = false;
		evs_kept_save(application->kept, application->writer);
		application->kept = NULL;
	}
	evs_state_saved(state);
}

/* The state after a stream's events; *state is one to go on from, or all zero. */
static void
fold_stream(Application *application, const EvsKeyGroup *group, EvsState *state)
{
	EvsFolder  *folder = application->folder;
	int64		before = group->events[0]->version - 1;

	if (state->seen_version < before)
	{
		EvsStateAt	at = {.version = before};

		evs_state_load_stream(folder, group->key, &at, application->snapshot, state);
	}
	else
		evs_folder_start(folder, state->state ? state->state : evs_initial_state());

	for (int i = 0; i < group->count; i++)
	{
		if (i > 0 && is_late(application, group->events[i]))
			break;
		if (group->events[i]->version > state->seen_version)
			evs_state_advance(folder, state, group->events[i]);
	}
	evs_state_finish(folder, state);
}

/*
 * Fold a stream's events.  The cached state may be ahead of where the batch
 * begins: somebody in this transaction has asked for the state since the events
 * were stored.
 *
 * Who removes snapshots does not wait for us before we have a lock to save: what we
 * began with may be gone by then, and must not come back.
 */
static void
apply_to_stream(Application *application, const EvsKeyGroup *group)
{
	EvsFolder  *folder = application->folder;
	EvsCachedState *entry;
	EvsState	state = {0};

	entry = evs_state_cache_take(application->projection->name, group->key, folder->generation);
	if (entry != NULL)
		state = *evs_state_cached(entry);

	fold_stream(application, group, &state);
	if (is_to_be_saved(application, group->key, &state))
	{
		if (!evs_snapshots_unchanged_since(folder->generation))
		{
			memset(&state, 0, sizeof(state));
			folder->suspicious = true;
			fold_stream(application, group, &state);
		}
		save(application, group->key, &state);
	}
	if (entry != NULL)
		evs_state_cache_put(entry, &state);
}

/* What the state has gone past can have no place in it any more, and must not count as applied. */
static void
check_comes_after(const EvsProjection *projection, const EvsKeyGroup *group,
				  const EvsEvent *event, const EvsState *state)
{
	if (event->position > state->position)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("projection \"%s\" cannot apply the event at position " INT64_FORMAT " to key \"%s\"",
					projection->name, event->position, text_to_cstring(group->key)),
			 errdetail("The key's state has gone on to position " INT64_FORMAT " already.",
					   state->position),
			 errhint("CALL evsource.rebuild_projection('%s') applies all events in their order.",
					 projection->name)));
}

/*
 * Fold the events of a key that is no stream.  A state that has to be computed from the
 * log has all that comes before these: a batch of dead letters is not all of the log
 * from its first event to its last.
 */
static void
apply_to_row(Application *application, const EvsKeyGroup *group)
{
	EvsFolder  *folder = application->folder;
	EvsState	state = {0};

	evs_state_load_row(folder, group->key, group->events[0]->position - 1,
					   application->snapshot, &state);
	for (int i = 0; i < group->count; i++)
	{
		if (i > 0 && is_late(application, group->events[i]))
			break;
		check_comes_after(application->projection, group, group->events[i], &state);
		evs_state_advance(folder, &state, group->events[i]);
	}
	evs_state_finish(folder, &state);
	if (state.event_count > state.saved_count || state.rejections > 0)
		save(application, group->key, &state);
}

/* What a batch that is given up has left with the session is ahead of the log's checkpoint. */
static void
forget_states(const Application *application, const EvsKeyGroup *groups, int count)
{
	const EvsState nothing = {0};

	for (int i = 0; i < count; i++)
	{
		EvsCachedState *entry = evs_state_cache_take(application->projection->name, groups[i].key,
													 application->folder->generation);

		if (entry != NULL)
			evs_state_cache_put(entry, &nothing);
	}
}

/* How many events come before this one? */
static int
events_before(EvsEvent *const *events, const EvsEvent *event)
{
	int			count = 0;

	while (events[count] != event)
		count++;
	return count;
}

int
evs_fold_apply(EvsProjection *projection, EvsEvent *const *events, int count, bool bounded)
{
	Application application = {.bounded = bounded};
	EvsKeyGroup *groups;
	int			ngroups;
	int			done;
	MemoryContext caller;

	groups = evs_group_by_key(projection, events, count, bounded, &ngroups);
	if (groups == NULL)
		return 0;
	application.projection = projection;
	application.folder = evs_folder_open(projection);
	/* nobody defines event types while events are applied */
	application.writer = evs_snapshot_writer(projection, 0);
	application.snapshot = GetActiveSnapshot();
	if (bounded && ngroups > 1)
		application.kept = evs_kept_create();
	application.context = AllocSetContextCreate(CurrentMemoryContext, "evsource fold key",
												ALLOCSET_DEFAULT_SIZES);

	caller = MemoryContextSwitchTo(application.context);
	for (done = 0; done < ngroups && !application.late; done++)
	{
		if (done > 0 && is_late(&application, groups[done].events[0]))
			break;
		if (projection->key_kind == EVS_KEY_STREAM)
			apply_to_stream(&application, &groups[done]);
		else
			apply_to_row(&application, &groups[done]);
		MemoryContextReset(application.context);
	}
	MemoryContextSwitchTo(caller);

	if (application.late && ngroups > 1)
	{
		if (projection->key_kind == EVS_KEY_STREAM)
			forget_states(&application, groups, done);
		count = 0;
	}
	else
	{
		if (application.late)
			count = events_before(events, application.next);
		if (application.kept != NULL)
			evs_kept_save(application.kept, application.writer);
	}
	(void) evs_snapshot_finish(application.writer);
	evs_folder_close(application.folder);
	return count;
}
