/*
 * staffing.h - the coordinator's: how many workers its database has, and keeps.
 */
#ifndef EVS_STAFFING_H
#define EVS_STAFFING_H

#include "evsource.h"

#include "crew.h"

/* Whose workers they are; the name is for messages, and lives as long as the process. */
extern void evs_staffing_begin(const EvsPost *post, EvsCrew *crew, const char *database_name);

/*
 * Start workers that are missing, dismiss those that are too many, for so many jobs.  None is
 * started in a database that is closed: it allows no connections any more.  Returns how
 * long (ms) the caller may sleep, not longer than the timeout.
 */
extern long evs_staffing_look_after(int jobs, bool closed, long timeout);

/* Would that look at the others' lack of workers find something else than the last time? */
extern bool evs_staffing_is_outdated(void);

/* How long (ms) the database has had no worker for want of room; 0: it has one, or needs none. */
extern long evs_staffing_starves_for(void);

/* End all workers, and wait until they have gone; those that do not go by themselves are terminated. */
extern void evs_staffing_end(void);

/* Have all workers terminated, without waiting; for a coordinator that exits, however it does. */
extern void evs_staffing_terminate(void);

#endif							/* EVS_STAFFING_H */
