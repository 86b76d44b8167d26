/*
 * missed.h - imported events that projections will not meet.
 */
#ifndef EVS_MISSED_H
#define EVS_MISSED_H

#include "evsource.h"

/* The projections of an open log, as a statement that imports finds them. */
typedef struct EvsMissed EvsMissed;

/* In CurrentMemoryContext. */
extern EvsMissed *evs_missed_begin(void);

/*
 * A row is about to be stored.  behind: at a position that who follows the log may
 * have passed.
 */
extern void evs_missed_note(EvsMissed *missed, const EvsEvent *row, bool behind);

/* The statement ends: mark those that miss some of its rows. */
extern void evs_missed_tell(EvsMissed *missed);

#endif							/* EVS_MISSED_H */
