/*
 * jobs.h - what there is to do for a team: the partitions of async projections
 * and the rebuilds that were requested.
 */
#ifndef EVS_JOBS_H
#define EVS_JOBS_H

#include "evsource.h"

#include "async.h"
#include "crew.h"

/* A job, and what this process remembers about it. */
typedef struct EvsJob
{
	EvsJobKind	kind;
	char		projection[EVS_CREW_NAME_SIZE];
	int			partition;
	EvsAsyncPacing pacing;
	bool		idle;			/* nothing to do before the log is beyond pacing.position */
	TimestampTz retry_at;		/* not before that, 0: at any time */
} EvsJob;

typedef struct EvsJobs
{
	int			count;
	EvsJob	   *jobs;			/* in an order that is the same for all */
	MemoryContext context;		/* holds them */
} EvsJobs;

extern void evs_jobs_init(void);

/* Have projections or requests changed since the list was read? */
extern bool evs_jobs_have_changed(void);

/*
 * Read the list anew, keeping what is remembered about each job that is still
 * there.  Call in a transaction, in a database that has the extension.
 */
extern void evs_jobs_read(EvsJobs *jobs);

#endif							/* EVS_JOBS_H */
