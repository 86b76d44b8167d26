/*
 * apply_park.h - leave events aside that an async projection cannot take.
 */
#ifndef EVS_APPLY_PARK_H
#define EVS_APPLY_PARK_H

#include "evsource.h"

#include "apply.h"
#include "dead_letters.h"

/*
 * Leave the event aside, after so many attempts; unread: it is as it is stored,
 * as its upcaster has failed.  Not if it is not to blame or its place is not
 * known: then *error says why.  Nor if there are too many: then *obstacle does, in
 * the words that follow "It ".
 */
extern bool evs_apply_park(EvsApply *apply, EvsEvent *event, bool unread, int attempts,
						   ErrorData **error, const char **obstacle);

/*
 * Has the projection (its name, or that of a version of it) so many that an event which fails
 * with this error is not at fault?  Why, in the words that follow "It "; NULL: no.
 */
extern const char *evs_apply_obstacle(const char *projection, const ErrorData *error);

/*
 * An event that cannot be read: park it if it has to wait behind dead letters
 * anyway.
 */
extern bool evs_apply_wait_behind(EvsApply *apply, EvsEvent *event);

/* A batch without what has to wait behind dead letters. */
typedef struct EvsSorted
{
	EvsEvent   *events;			/* to be applied */
	int			count;
	EvsEvent   *parked;			/* to be parked, */
	EvsKeys    *parked_keys;	/* with these keys */
	int			nparked;
	int			looked_at;		/* of the batch; the key of the next is not known */
	ErrorData  *error;			/* why */
} EvsSorted;

extern void evs_apply_sort_out(const EvsApply *apply, const EvsBatch *batch,
							   EvsSorted *sorted);

#endif							/* EVS_APPLY_PARK_H */
