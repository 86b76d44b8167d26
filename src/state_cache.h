/*
 * state_cache.h - states that this session has computed, to go on from.
 */
#ifndef EVS_STATE_CACHE_H
#define EVS_STATE_CACHE_H

#include "evsource.h"

/*
 * A state of a key, and what went into it.  For a fold per stream it is known
 * how far the stream has been looked at: events that the filter does not let
 * through count for that, but not for the state.
 */
typedef struct EvsState
{
	Jsonb	   *state;			/* {} while event_count is 0 */
	int64		event_count;	/* events in the state */

	/* the last event in the state; all 0 while there is none */
	int64		position;
	int64		version;
	TimestampTz recorded_at;
	TimestampTz occurred_at;	/* the latest time of any of them */
	bool		has_id;
	pg_uuid_t	id;

	/* the last event looked at, in or not */
	int64		seen_version;
	int64		seen_position;

	/* the snapshot */
	int64		saved_count;	/* event_count of the newest known of */
	int64		saved_version;	/* its seen_version */
	int			restores;		/* loads that began with it, since it was saved */
	int			rejections;		/* how often it could not be used, the same */
	bool		wanted;			/* who asked for it has left it to an append to save it */
	bool		mixed;			/* of a row that is of more than one definition */
	bool		is_lost;		/* not known: events that made it were truncated */
} EvsState;

typedef struct EvsCachedState EvsCachedState;

extern int	evs_state_cache_size;	/* kB; 0 = no cache */

extern void evs_state_cache_init(void);

/*
 * Changes whenever any projection does: a state that was computed by an older
 * definition is not stored.
 */
extern uint64 evs_state_cache_generation(void);

/*
 * The entry of a key, to be worked on.  Until it is put back nobody else gets
 * it, and its state stays where it is.  NULL when it cannot be had: it is being
 * worked on (by whoever called the function that called us), or the generation
 * is not the current one, or there is no cache.  A new entry is empty: nothing
 * seen, no state.
 */
extern EvsCachedState *evs_state_cache_take(const char *projection, text *key,
											uint64 generation);
extern const EvsState *evs_state_cached(const EvsCachedState *entry);

/* Put it back with a new state, which is copied, or (NULL) as it was. */
extern void evs_state_cache_put(EvsCachedState *entry, const EvsState *state);

#endif							/* EVS_STATE_CACHE_H */
