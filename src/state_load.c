/*
 * state_load.c - compute the state of a key.
 *
 * A stream's state is that of a point in the stream (the session's cache, or
 * the snapshot) and the fold of the events after it.  The point is taken at its
 * word only after the log has confirmed it: the first event read is the last
 * one that the point knows of, and it must have the version and the position
 * that the point says.  So a cached state is not shown to a transaction whose
 * snapshot does not see all of it, and a snapshot of another stream of the same
 * name is not used.  Otherwise the stream is read from its beginning; or, if that
 * was truncated, from the state that was kept in place of it.
 *
 * The state of another key is its row, which the projection keeps current; only
 * a row that cannot be used makes us read the log.
 */
#include "state_load.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "event.h"
#include "fold_key.h"
#include "scan.h"
#include "snapshot_history.h"
#include "snapshots.h"
#include "state_truncated.h"

/* As many events are folded before it is worth looking for a newer snapshot. */
#define PATIENCE 100

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

/*
 * The state of a row.  What it has seen after its last event is of use unless that
 * is after the point.
 */
static void
take_row(EvsState *state, const EvsSnapshot *row, const EvsStateAt *at)
{
	state->state = row->state;
	state->event_count = row->event_count;
	state->position = row->position;
	state->version = row->version;
	state->recorded_at = 0;
	state->occurred_at = row->occurred_at;
	state->has_id = true;
	state->id = row->last_event_id;
	state->seen_version = row->seen_version <= at->version ? row->seen_version : row->version;
	state->seen_position = row->seen_version <= at->version ? row->seen_position : row->position;
	state->saved_count = row->event_count;
	state->saved_version = row->seen_version;
}

/*
 * Tell what a state that somebody asked for is made of: a point to begin with (a
 * version or a position; 0: the beginning) and the events that were folded after it.
 */
static void
tell(const EvsFolder *folder, const text *key, const char *begin, int64 point, int64 folded)
{
	if (folder->asked)
		ereport(DEBUG1,
				(errmsg_internal("state of projection \"%s\" for key \"%s\": %s%s, " INT64_FORMAT " event%s folded",
								 folder->projection->name, text_to_cstring(key), begin,
								 point == 0 ? "" : psprintf(" " INT64_FORMAT, point),
								 folded, folded == 1 ? "" : "s")));
}

/* Is the event part of the state, as far as its time is concerned? */
static bool
is_in_time(const EvsEvent *event, const EvsStateAt *at)
{
	return !at->has_time || evs_event_time(event) < at->before;
}

/* The next event, and whether it is not the projection's. */
static bool
next_event(EvsScan *scan, const EvsProjection *projection, EvsEvent *event, bool *passed)
{
	return evs_scan_next_or_pass(scan, &projection->filter, projection->start_after,
								 event, passed);
}

static int64
position_of(TupleTableSlot *slot)
{
	slot_getsomeattrs(slot, EVS_EVENTS_POSITION);
	return DatumGetInt64(slot->tts_values[EVS_EVENTS_POSITION - 1]);
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
		position_of(slot) == state->seen_position;
}

/* Fold what the scan has, unless it is not the projection's. */
static void
fold_event(EvsFolder *folder, EvsState *state, const EvsEvent *event, bool passed,
		   const EvsStateAt *at)
{
	if (!passed && is_in_time(event, at))
		evs_state_advance(folder, state, event);
	state->seen_version = event->version;
	state->seen_position = event->position;
}

/* Can a state at that point have been computed from this row's? */
static bool
is_before(const EvsSnapshot *row, const EvsStateAt *at)
{
	return row->version <= at->version && (!at->has_time || row->occurred_at < at->before);
}

/*
 * A row that has seen more than its last event is confirmed by what it has seen last.
 * What it says of its last event must be true as well, unless that was truncated.
 */
static bool
contradicts(const EvsSnapshot *row, text *stream, Snapshot snapshot)
{
	EvsScan    *scan;
	TupleTableSlot *slot;
	bool		contradicts;

	if (row->seen_position == row->position)
		return false;
	scan = evs_scan_stream(stream, row->version, row->version, false, snapshot);
	slot = evs_scan_next_slot(scan);
	contradicts = slot != NULL && position_of(slot) != row->position;
	evs_scan_end(scan);
	return contradicts;
}

/*
 * Are rows that the snapshot sees of no use, for it may see some that were removed?
 * Where it has just been taken it does not, or that is found out before anything is
 * saved: see snapshot_removals.c.
 */
static bool
sees_removed(const EvsFolder *folder, Snapshot snapshot)
{
	return (IsolationUsesXactSnapshot() || folder->suspicious) &&
		evs_snapshots_removed_since(folder->projection->name, snapshot);
}

/* Has somebody saved a state that is further on than this one, and of use? */
static bool
take_newer_row(EvsFolder *folder, text *stream, const EvsStateAt *at,
			   Snapshot snapshot, EvsState *state)
{
	EvsProjection *projection = folder->projection;
	EvsSnapshot row;

	if (!projection->policy.restore_from_snapshot ||
		!evs_snapshot_read(projection->name, stream, snapshot, &row) ||
		row.seen_version <= state->seen_version || !is_before(&row, at) ||
		row.state_version != projection->state_version ||
		sees_removed(folder, snapshot) || contradicts(&row, stream, snapshot) ||
		!evs_snapshot_accept(projection, stream, &row))
		return false;
	take_row(state, &row, at);
	state->restores++;
	return true;
}

/*
 * Fold what the stream has after the state.  False if the stream does not have
 * the event that the state has seen last.  After so many events as patience says
 * (0: however many they are) go on from a newer snapshot if there is one.
 */
static bool
fold_tail(EvsFolder *folder, text *stream, const EvsStateAt *at,
		  Snapshot snapshot, int patience, EvsState *state)
{
	EvsScan    *scan = evs_scan_stream(stream, state->seen_version, at->version,
									   false, snapshot);
	bool		confirmed = confirms(scan, state);
	bool		overtaken = false;
	bool		passed;
	EvsEvent	event;

	if (confirmed)
	{
		start(folder, state);
		while (!overtaken && next_event(scan, folder->projection, &event, &passed))
		{
			fold_event(folder, state, &event, passed, at);
			if (patience > 0 && --patience == 0)
				overtaken = take_newer_row(folder, stream, at, snapshot, state);
		}
	}
	evs_scan_end(scan);
	if (overtaken)
		return fold_tail(folder, stream, at, snapshot, 0, state);
	return confirmed;
}

/*
 * Fold the stream from this version on, of which nothing is known.  With whole
 * it must begin with that version: false, without having done anything, if it
 * does not.
 */
static bool
fold_from(EvsFolder *folder, text *stream, int64 version, bool whole,
		  const EvsStateAt *at, Snapshot snapshot, EvsState *state)
{
	EvsScan    *scan = evs_scan_stream(stream, version, at->version, false, snapshot);
	bool		started = !whole;
	bool		passed;
	EvsEvent	event;

	if (started)
		start(folder, state);
	while (next_event(scan, folder->projection, &event, &passed))
	{
		if (!started)
		{
			if (event.version != version)
				break;
			start(folder, state);
			started = true;
		}
		fold_event(folder, state, &event, passed, at);
	}
	evs_scan_end(scan);
	return started;
}

/* Begin with a row that is before the point, if it can be used. */
static bool
fold_from_row(EvsFolder *folder, text *stream, const EvsStateAt *at,
			  Snapshot snapshot, EvsSnapshot *row, EvsState *state)
{
	EvsProjection *projection = folder->projection;
	int32		state_version = row->state_version;
	bool		contradicted;

	if (!evs_snapshot_accept(projection, stream, row))
	{
		state->rejections++;
		return false;
	}
	take_row(state, row, at);
	contradicted = contradicts(row, stream, snapshot);
	if (contradicted || !fold_tail(folder, stream, at, snapshot, 0, state))
	{
		forget(state);
		/* what confirms it is after the point, and its last event may have been truncated */
		if (!contradicted && row->seen_version > at->version)
			return false;
		state->rejections++;
		evs_snapshot_reject(projection, stream, "ends with an event that the stream does not have", NULL);
		return false;
	}
	state->restores++;
	tell(folder, stream, "from the snapshot of version", row->version,
			  state->event_count - row->event_count);
	/* a state that had to be brought up is worth saving again */
	if (state_version != projection->state_version)
		state->saved_count = state->saved_version = 0;
	return true;
}

/* Begin with the stream's newest snapshot, if there is one and it can be used. */
static bool
fold_from_snapshot(EvsFolder *folder, text *stream, const EvsStateAt *at,
				   Snapshot snapshot, EvsState *state)
{
	EvsProjection *projection = folder->projection;
	const EvsSnapshotPolicy *policy = &projection->policy;
	EvsSnapshot row;

	/* to save or not to save depends on the row, even if it is not to be used */
	if (!policy->restore_from_snapshot && policy->snapshot_every == 0)
		return false;
	if (!evs_snapshot_read(projection->name, stream, snapshot, &row) ||
		sees_removed(folder, snapshot))
		return false;

	if (!policy->restore_from_snapshot || !is_before(&row, at))
	{
		if (row.state_version == projection->state_version &&
			row.definition == evs_snapshot_definition(projection))
		{
			state->saved_count = row.event_count;
			state->saved_version = row.seen_version;
		}
		return false;
	}
	return fold_from_row(folder, stream, at, snapshot, &row, state);
}

/* The same with those before the newest, from the nearest one on. */
static bool
fold_from_history(EvsFolder *folder, text *stream, const EvsStateAt *at,
				  Snapshot snapshot, EvsState *state)
{
	const EvsProjection *projection = folder->projection;
	int64		below = at->version == PG_INT64_MAX ? PG_INT64_MAX : at->version + 1;
	int64		saved_count = state->saved_count;
	int64		saved_version = state->saved_version;
	EvsSnapshot row;

	if (projection->policy.keep_snapshots <= 1 || !projection->policy.restore_from_snapshot ||
		sees_removed(folder, snapshot))
		return false;
	while (evs_history_read(projection->name, stream, below,
							at->has_time ? at->before : DT_NOEND, snapshot, &row))
	{
		below = row.version;
		if (fold_from_row(folder, stream, at, snapshot, &row, state))
		{
			/* what was saved is the newest one, if that can be used */
			state->saved_count = saved_count;
			state->saved_version = saved_version;
			return true;
		}
	}
	return false;
}

/*
 * The begin of the stream is gone, or there is no stream: go on from the state
 * that was kept in place of it.  False: there is none.
 */
static bool
fold_from_base(EvsFolder *folder, text *stream, const EvsStateAt *at,
			   Snapshot snapshot, EvsState *state)
{
	EvsProjection *projection = folder->projection;
	EvsSnapshot row;

	if (!evs_history_base(projection, stream, snapshot, &row))
		return false;
	if (row.upto > at->version || (row.event_count > 0 && !is_before(&row, at)))
	{
		if (at->leave_out)
		{
			state->is_lost = true;
			start(folder, state);
			return true;
		}
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("events of stream \"%s\" that make this state were truncated",
						text_to_cstring(stream)),
				 errdetail("Events up to version " INT64_FORMAT " were truncated; only the state that they made was kept.",
						   row.upto),
				 errhint("Ask for version " INT64_FORMAT " or later, or for a later time.",
						 row.upto)));
	}
	if (row.event_count == 0)
	{
		state->seen_version = row.upto;
		return false;
	}
	if (!evs_snapshot_accept(projection, stream, &row))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot compute the state of stream \"%s\" for projection \"%s\"",
						text_to_cstring(stream), projection->name),
				 errdetail("Its events up to version " INT64_FORMAT " were truncated, and the state that was kept in place of them cannot be used: see evsource.snapshot_status.",
						   row.upto),
				 errhint("Give the projection a migrate_state function that brings up states of version %d, or the definition that it had.",
						 row.state_version)));

	take_row(state, &row, at);
	state->saved_count = state->saved_version = 0;
	state->seen_version = row.upto;
	state->seen_position = 0;
	(void) fold_from(folder, stream, row.upto + 1, false, at, snapshot, state);
	tell(folder, stream, "from what was kept of truncated events up to version", row.upto,
			  state->event_count - row.event_count);
	return true;
}

void
evs_state_load_stream(EvsFolder *folder, text *stream, const EvsStateAt *at,
					  Snapshot snapshot, EvsState *state)
{
	int64		version = state->seen_version;
	int64		count = state->event_count;

	/*
	 * A state that stands for truncated events has seen no event to confirm it.
	 * One that has been here for long may be further from the end of the stream
	 * than the snapshot is.
	 */
	if (state->seen_position > 0 &&
		fold_tail(folder, stream, at, snapshot, PATIENCE, state))
	{
		tell(folder, stream, "as this session had it at version", version,
			 state->event_count - count);
		return;
	}
	if (state->seen_version > 0)
		forget(state);
	if (fold_from_snapshot(folder, stream, at, snapshot, state) ||
		fold_from_history(folder, stream, at, snapshot, state))
		return;
	if (!fold_from(folder, stream, 1, true, at, snapshot, state))
	{
		if (fold_from_base(folder, stream, at, snapshot, state))
			return;
		(void) fold_from(folder, stream, 1, false, at, snapshot, state);
	}
	tell(folder, stream, "from the first event on", 0, state->event_count);
}

/* Does the key function give the event this key? */
static bool
has_key(EvsKeyer *keyer, const EvsEvent *event, const text *key)
{
	text	  **keys;
	int			count = evs_keyer_keys(keyer, event, &keys);

	for (int i = 0; i < count; i++)
	{
		if (evs_same_text(keys[i], key))
			return true;
	}
	return false;
}

/*
 * The state of a key from the log, up to a position, before a time.  *state is all
 * zero, or that of a row to go on from.
 */
static void
load_log(EvsFolder *folder, text *key, int64 upto, const EvsStateAt *at,
		 Snapshot snapshot, EvsState *state)
{
	EvsProjection *projection = folder->projection;
	EvsKeyer   *keyer = evs_keyer_open(projection);
	int64		after = Max(projection->start_after, state->position);
	EvsScan    *scan = evs_scan_log(after, upto, &projection->filter, snapshot);
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

#define ROW "from its row as of position"

/* The earlier of two times, of which the first may be none. */
static void
note_first(TimestampTz *first, bool *found, const EvsEvent *event)
{
	TimestampTz time = evs_event_time(event);

	if (!*found || time < *first)
		*first = time;
	*found = true;
}

bool
evs_state_first_time(EvsFolder *folder, text *key, Snapshot snapshot, TimestampTz *first)
{
	EvsProjection *projection = folder->projection;
	bool		by_stream = projection->key_kind == EVS_KEY_STREAM;
	EvsKeyer   *keyer = by_stream ? NULL : evs_keyer_open(projection);
	EvsScan    *scan = by_stream ?
		evs_scan_stream(key, 1, PG_INT64_MAX, false, snapshot) :
		evs_scan_log(projection->start_after, PG_INT64_MAX, &projection->filter, snapshot);
	bool		found = false;
	bool		passed;
	EvsEvent	event;

	while (next_event(scan, projection, &event, &passed))
	{
		if (!passed && (by_stream || has_key(keyer, &event, key)))
			note_first(first, &found, &event);
	}
	evs_scan_end(scan);
	if (keyer != NULL)
		evs_keyer_close(keyer);
	return found;
}

void
evs_state_begin_key_at(EvsFolder *folder, text *key, const EvsStateAt *at,
					  Snapshot snapshot, EvsState *state)
{
	EvsProjection *projection = folder->projection;
	EvsSnapshot row;
	bool		has_row = evs_snapshot_read(projection->name, key, snapshot, &row);
	char	   *truncated = has_row ? evs_truncated_stream(projection->name, snapshot) : NULL;

	/* the row is the state whatever made it, but not the state of the past */
	has_row = has_row && is_before(&row, at) &&
		(projection->policy.restore_from_snapshot || truncated != NULL) &&
		row.definition == evs_snapshot_definition(projection) &&
		evs_snapshot_accept(projection, key, &row);
	if (has_row)
		take_row(state, &row, at);
	else if (truncated != NULL && !at->leave_out)
		evs_truncated_past(projection, key, &row, truncated);
	else
		state->is_lost = truncated != NULL;
}

void
evs_state_load_key_at(EvsFolder *folder, text *key, const EvsStateAt *at,
					  Snapshot snapshot, EvsState *state)
{
	int64		position;
	int64		count;

	evs_state_begin_key_at(folder, key, at, snapshot, state);
	position = state->position;
	count = state->event_count;
	load_log(folder, key, PG_INT64_MAX, at, snapshot, state);
	tell(folder, key, position > 0 ? ROW : "from the first event on", position,
		 state->event_count - count);
}

/*
 * What comes next is folded by the definition of now.  A row that another one
 * made, or none where that one may have seen no such key, becomes a mixture; and
 * what is computed in place of a mixture keeps its mark, which says as well that
 * there may be keys without a row.
 */
void
evs_state_load_row(EvsFolder *folder, text *key, int64 upto, Snapshot snapshot,
				   EvsState *state)
{
	EvsStateAt	at = {.version = PG_INT64_MAX};
	EvsSnapshot row;

	if (!evs_snapshot_read(folder->projection->name, key, snapshot, &row))
	{
		state->mixed = folder->projection->stale;
		start(folder, state);
		tell(folder, key, "without a row", 0, 0);
	}
	else if (evs_snapshot_accept(folder->projection, key, &row))
	{
		take_row(state, &row, &at);
		state->mixed = row.definition != evs_snapshot_definition(folder->projection);
		state->restores++;
		start(folder, state);
		tell(folder, key, ROW, row.position, 0);
	}
	else
	{
		char	   *truncated = evs_truncated_stream(folder->projection->name, snapshot);

		if (truncated != NULL)
			evs_truncated_useless(folder->projection, key, &row, truncated);
		state->rejections++;
		load_log(folder, key, upto, &at, snapshot, state);
		state->mixed = row.definition == EVS_MIXED_DEFINITION;
		tell(folder, key, "from the first event on", 0, state->event_count);
	}
}
