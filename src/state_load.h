/*
 * state_load.h - compute the state of a key: from the cache or a snapshot, and
 * the events after it.
 *
 * All of this runs as the projection's owner.  A run on the folder stays open
 * when a state is loaded: whoever loaded it may advance it, and finishes it.
 */
#ifndef EVS_STATE_LOAD_H
#define EVS_STATE_LOAD_H

#include "evsource.h"
#include "folder.h"
#include "state_cache.h"

#include "utils/snapshot.h"

/* Which events of a stream make the state. */
typedef struct EvsStateAt
{
	int64		version;		/* up to this one; PG_INT64_MAX: all */
	bool		has_time;
	TimestampTz before;			/* occurred before this, if has_time */
	bool		leave_out;		/* what was truncated is no error: state->is_lost */
} EvsStateAt;

/*
 * A stream's state.  *state is a state to go on from (seen_version > 0), whose
 * jsonb lives as long as the run, or all zero.  If it turns out that the
 * snapshot does not see what is in it, the stream is read anew.
 */
extern void evs_state_load_stream(EvsFolder *folder, text *stream, const EvsStateAt *at,
								  Snapshot snapshot, EvsState *state);

/*
 * The state of a key that is no stream, from its row alone (as for a batch that
 * comes after it).  If the row cannot be used: from the log, up to a position.
 */
extern void evs_state_load_row(EvsFolder *folder, text *key, int64 upto,
							   Snapshot snapshot, EvsState *state);

/*
 * What there is in place of the events of a key that is no stream: its row, if that
 * is before the time and of use; nothing; or *state is lost.
 */
extern void evs_state_begin_key_at(EvsFolder *folder, text *key, const EvsStateAt *at,
								   Snapshot snapshot, EvsState *state);

/* The state of a key that is no stream before a time. */
extern void evs_state_load_key_at(EvsFolder *folder, text *key, const EvsStateAt *at,
								  Snapshot snapshot, EvsState *state);

/* When the earliest of the key's events occurred; false if it has none. */
extern bool evs_state_first_time(EvsFolder *folder, text *key, Snapshot snapshot,
								 TimestampTz *first);

/* Fold one event that is the key's next one. */
extern void evs_state_advance(EvsFolder *folder, EvsState *state, const EvsEvent *event);

/* End the run: the state's jsonb is valid until the folder begins another. */
extern void evs_state_finish(EvsFolder *folder, EvsState *state);

/* The state has been added to a snapshot writer: nothing is left to be saved. */
extern void evs_state_saved(EvsState *state);

#endif							/* EVS_STATE_LOAD_H */
