/*
 * dead_letters.h - events that a projection could not apply and has left aside.
 */
#ifndef EVS_DEAD_LETTERS_H
#define EVS_DEAD_LETTERS_H

#include "evsource.h"
#include "dispatch.h"
#include "projection.h"
#include "unit.h"

#include "utils/snapshot.h"

/* The keys of an event, for a projection: a fold's; of others the stream. */
typedef struct EvsKeys
{
	text	  **keys;
	int			count;
} EvsKeys;

/*
 * The keys of these events, in CurrentMemoryContext.  Returns of how many, from
 * the first on, they could be found out: the next one's key function failed with
 * *error.
 */
extern int	evs_keys_of(EvsProjection *projection, EvsEvent *events, int count,
						EvsKeys *keys, ErrorData **error);

/*
 * A set of keys, each with the lowest position that it was added with; it keeps copies, in
 * CurrentMemoryContext.  Has it any of these, with a position before this one?
 */
typedef struct parked_hash EvsKeySet;

extern EvsKeySet *evs_key_set_create(void);
extern void evs_key_set_add(EvsKeySet *set, const EvsKeys *keys, int64 position);
extern bool evs_key_set_has_before(EvsKeySet *set, const EvsKeys *keys, int64 position);

/*
 * Add to the set, with position 0, those of the keys of so many events that have one parked
 * before a position.  The set remembers the others as well, though it has them at no position:
 * a key that it knows is not looked for again.
 */
extern void evs_dead_letters_find(EvsKeySet *set, const char *projection, int64 before,
								  const EvsKeys *keys, int count);

/*
 * Park an event: because of an error after so many attempts, or (0, NULL)
 * behind another one of its keys.
 */
extern void evs_dead_letter_park(const char *projection, const EvsEvent *event,
								 const EvsKeys *keys, int attempts, const ErrorData *error);

/* Has the projection any? */
extern bool evs_dead_letters_exist(const char *projection);

/*
 * The version of a stream's first event that is parked, for a projection whose
 * keys are streams; PG_INT64_MAX if there is none.
 */
extern int64 evs_dead_letters_first_version(const char *projection, text *stream);

/*
 * Events of a unit's that were parked behind one that was truncated since
 * (truncate_letters.c) are released: they are applied before anything else.
 */
extern bool evs_dead_letters_released(const EvsUnit *unit);

/*
 * Apply them, and what waits behind them alone, up to the limit if it has a time; *more: not
 * all of them.  raise: let an error out that a new process may not meet.  Returns how many
 * were applied (retry.c).
 */
extern int64 evs_dead_letters_apply_released(EvsProjection *projection, const EvsUnit *unit,
											 const EvsScanLimit *limit, bool raise, bool *more);

/*
 * The first one, at that position, is to blame, after so many attempts: leave it to people,
 * and let the next batch begin with the next one (retry.c).
 */
extern void evs_dead_letters_blame_released(const EvsUnit *unit, int64 position, int attempts,
											const ErrorData *error);

/*
 * The projection has been divided into other partitions, or its letters are those of a
 * version that was not divided: each partition is to find what is released of its own (retry.c).
 */
extern void evs_dead_letters_divided(const EvsProjection *projection);

/* How many events have been parked because of an error. */
extern int64 evs_dead_letters_count(const char *projection);

/* And how many of them because the process died. */
extern int64 evs_dead_letters_crashed(const char *projection);

extern void evs_dead_letters_clear(const char *projection);

/* Those of one name are another's from now on, who has none. */
extern void evs_dead_letters_rename(const char *from, const char *to);

#endif							/* EVS_DEAD_LETTERS_H */
