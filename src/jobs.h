/*
 * jobs.h - what there is to do for a team: the partitions of async projections
 * and the rebuilds that were requested.
 */
#ifndef EVS_JOBS_H
#define EVS_JOBS_H

#include "evsource.h"

#include "async.h"
#include "clock.h"
#include "crew.h"

/* A job, and what this process remembers about it. */
typedef struct EvsJob
{
	EvsJobKind	kind;
	char		projection[EVS_CREW_NAME_SIZE];
	int			partition;
	EvsFilter	filter;			/* of EVS_JOB_APPLY: which events are its business */
	EvsAsyncPacing pacing;
	bool		idle;			/* nothing to do before the log is beyond pacing.position */
	int64		seen;			/* idle: up to here it has nothing for the job */
	EvsTime		write_at;		/* and that is written down then; none: it has been */
	bool		locked;			/* not before that, whoever waits: it could not be */
	bool		nothing;		/* not idle, only because it is time for that */
	EvsTime		retry_at;		/* not before that */
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

/*
 * The log is safe up to a position: find the idle jobs that it now has something
 * for.  Call in a transaction.
 *
 * A job that chooses its events is idle as long as none of them comes.  A worker
 * keeps in mind how far it has looked, and now and then, or when somebody waits
 * for it, takes the job up all the same, which moves the checkpoint.  What it
 * keeps in mind decides only when: from the checkpoint on the log is read again.
 */
extern void evs_jobs_wake(EvsJobs *jobs, int64 safe);

/*
 * Write down how far the log has nothing for jobs, where it is time to, many in one
 * transaction; of those that we may take.  Call outside a transaction.  Those that are not idle
 * then are taken up one by one.
 */
extern void evs_jobs_write(EvsJobs *jobs, bool (*may_take) (int number));

/* Would evs_jobs_wake() find nothing new?  Takes no lock. */
extern bool evs_jobs_are_up_to(const EvsJobs *jobs, int64 safe);

#endif							/* EVS_JOBS_H */
