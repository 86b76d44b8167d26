/*
 * state_load.c - compute the state of a key.
 *
 * A stream's state is that of a point in the stream (the session's cache, or
 * the snapshot) and the fold of the events after it.  The point is taken at its
 * word only after the log has confirmed it: the first event read is the last
 * one that the point knows of, and it must have the version and the position
 * that the point says.  So a cached state is not shown to a transaction whose
 * snapshot does not see all of it, and a snapshot of another stream of the same
 * name is not used.  Otherwise the stream is read from its begin.
 *
 * The state of another key is its row, which the projection keeps current; only
 * a row that cannot be used makes us read the log.
 */
#include "state_load.h"

#include "miscadmin.h"

#include "event.h"
#include "fold_key.h"
#include "scan.h"
#include "snapshots.h"

void
evs_state_advance(EvsFolder *folder, EvsState *state, const EvsEvent *event)
{
	evs_folder_step(folder, event);
	state->event_count++;
	state->position = event->position;
	state->version = event->version;
	state->recorded_at = event->recorded_at;
	state->has_id = event->has_id;
	if (event->has_id)
		state->id = event->id;
	state->seen_version = event->version;
	state->seen_position = event->position;
}

void
evs_state_finish(EvsFolder *folder, EvsState *state)
{
	state->state = evs_folder_state(folder);
}

/* Begin a run with the state, or with the initial one if there is none yet. */
static void
start(EvsFolder *folder, const EvsState *state)
{
	evs_folder_start(folder, state->state ? state->state : evs_initial_state());
}

/* Nothing is known, but for what has been counted. */
static void
forget(EvsState *state)
{
	EvsState	empty = {.restores = state->restores, .rejections = state->rejections};

	*state = empty;
}

/* The state of a row. */
static void
take_row(EvsState *state, const EvsSnapshot *row)
{
	state->state = row->state;
	state->event_count = row->event_count;
	state->position = row->position;
	state->version = row->version;
	state->recorded_at = 0;
	state->has_id = true;
	state->id = row->last_event_id;
	state->seen_version = row->version;
	state->seen_position = row->position;
	state->saved_count = row->event_count;
}

/* Is the event part of the state, as far as its time is concerned? */
static bool
is_in_time(const EvsEvent *event, const EvsStateAt *at)
{
	if (!at->has_time)
		return true;
	return (event->has_occurred_at ? event->occurred_at : event->recorded_at) < at->before;
}

static bool
is_of_projection(const EvsProjection *projection, const EvsEvent *event)
{
	return event->position > projection->start_after &&
		evs_filter_accepts(&projection->filter, event);
}

/* Is the scan's next row the event that the state has seen last? */
static bool
confirms(EvsScan *scan, const EvsState *state)
{
	TupleTableSlot *slot = evs_scan_next_slot(scan);

	if (slot == NULL)
		return false;
	slot_getsomeattrs(slot, EVS_EVENTS_VERSION);
	return DatumGetInt64(slot->tts_values[EVS_EVENTS_VERSION - 1]) == state->seen_version &&
		DatumGetInt64(slot->tts_values[EVS_EVENTS_POSITION - 1]) == state->seen_position;
}

/*
 * Fold what the stream has after the state.  False, without having done
 * anything, if the stream does not have the event that the state has seen last.
 */
static bool
fold_tail(EvsFolder *folder, text *stream, const EvsStateAt *at,
		  Snapshot snapshot, EvsState *state)
{
	EvsScan    *scan = evs_scan_stream(stream, state->seen_version, at->version,
									   false, snapshot);
	bool		confirmed = state->seen_version == 0 || confirms(scan, state);
	EvsEvent	event;

	if (confirmed)
	{
		start(folder, state);
		while (evs_scan_next(scan, &event))
		{
			if (is_of_projection(folder->projection, &event) && is_in_time(&event, at))
				evs_state_advance(folder, state, &event);
			state->seen_version = event.version;
			state->seen_position = event.position;
		}
	}
	evs_scan_end(scan);
	return confirmed;
}

/* Begin with the stream's snapshot, if there is one and it can be used. */
static bool
fold_from_snapshot(EvsFolder *folder, text *stream, const EvsStateAt *at,
				   Snapshot snapshot, EvsState *state)
{
	EvsProjection *projection = folder->projection;
	const EvsSnapshotPolicy *policy = &projection->policy;
	EvsSnapshot row;
	int32		state_version;

	/* to save or not to save depends on the row, even if it is not to be used */
	if (at->has_time || (!policy->restore_from_snapshot && policy->snapshot_every == 0))
		return false;
	if (!evs_snapshot_read(projection->name, stream, snapshot, &row))
		return false;

	state_version = row.state_version;
	if (!policy->restore_from_snapshot || row.version > at->version)
	{
		if (state_version == projection->state_version &&
			row.definition == evs_snapshot_definition(projection))
			state->saved_count = row.event_count;
		return false;
	}
	if (!evs_snapshot_accept(projection, stream, &row))
	{
		state->rejections++;
		return false;
	}

	take_row(state, &row);
	if (!fold_tail(folder, stream, at, snapshot, state))
	{
		forget(state);
		state->rejections++;
		evs_snapshot_reject(projection, stream, "ends with an event that the stream does not have");
		return false;
	}
	state->restores++;
	/* a state that had to be brought up is worth saving again */
	if (state_version != projection->state_version)
		state->saved_count = 0;
	return true;
}

void
evs_state_load_stream(EvsFolder *folder, text *stream, const EvsStateAt *at,
					  Snapshot snapshot, EvsState *state)
{
	if (state->seen_version > 0)
	{
		if (fold_tail(folder, stream, at, snapshot, state))
			return;
		forget(state);
	}
	if (!fold_from_snapshot(folder, stream, at, snapshot, state))
		(void) fold_tail(folder, stream, at, snapshot, state);
}

/* Does the key function give the event this key? */
static bool
has_key(EvsKeyer *keyer, const EvsEvent *event, const text *key)
{
	text	  **keys;
	int			count = evs_keyer_keys(keyer, event, &keys);

	for (int i = 0; i < count; i++)
	{
		if (VARSIZE_ANY_EXHDR(keys[i]) == VARSIZE_ANY_EXHDR(key) &&
			memcmp(VARDATA_ANY(keys[i]), VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)) == 0)
			return true;
	}
	return false;
}

void
evs_state_load_log(EvsFolder *folder, text *key, int64 upto, const EvsStateAt *at,
				   Snapshot snapshot, EvsState *state)
{
	EvsProjection *projection = folder->projection;
	EvsKeyer   *keyer = evs_keyer_open(projection);
	EvsScan    *scan = evs_scan_log(projection->start_after, upto, &projection->filter, snapshot);
	EvsEvent	event;

	start(folder, state);
	while (evs_scan_next(scan, &event))
	{
		if (is_in_time(&event, at) && has_key(keyer, &event, key))
			evs_state_advance(folder, state, &event);
	}
	evs_scan_end(scan);
	evs_keyer_close(keyer);
}

void
evs_state_load_row(EvsFolder *folder, text *key, int64 upto, Snapshot snapshot,
				   EvsState *state)
{
	EvsStateAt	at = {.version = PG_INT64_MAX};
	EvsSnapshot row;

	if (!evs_snapshot_read(folder->projection->name, key, snapshot, &row))
		start(folder, state);
	else if (evs_snapshot_accept(folder->projection, key, &row))
	{
		take_row(state, &row);
		state->restores++;
		start(folder, state);
	}
	else
	{
		state->rejections++;
		evs_state_load_log(folder, key, upto, &at, snapshot, state);
	}
}
