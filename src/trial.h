/*
 * trial.h - replay the log through a projection, look at what comes out, and
 * leave nothing behind.
 *
 *	static void
 *	work(EvsTrial *trial, void *argument)
 *	{
 *		EvsStandin *standin = evs_trial_tables(projection, "name of a schema");
 *
 *		evs_trial_look(trial);
 *		evs_trial_replay(trial, standin->projection, standin, after, upto);
 *		evs_trial_compare(trial);
 *		... the active snapshot sees it all
 *	}
 *
 *	evs_trial_run("verify_projection", work, argument);
 */
#ifndef EVS_TRIAL_H
#define EVS_TRIAL_H

#include "evsource.h"
#include "projection.h"
#include "standin.h"

#include "fmgr.h"
#include "utils/snapshot.h"

typedef struct EvsTrial
{
	MemoryContext context;		/* of the trial; goes with it */
	CommandId	begin;			/* what the transaction did before is looked at */
	Snapshot	snapshot;		/* events and read models are looked at with it */
	bool		compares;		/* evs_trial_compare() has been called */
	int64	   *skipped;		/* positions of events to leave out, in order */
	int			nskipped;
	int64	   *parts;			/* how far to go, in each partition */
	int			nparts;
	int64		events;			/* that were applied */

	int64		batch;			/* events at a time; 0: as many as is best */
	void		(*applied) (void *argument, int64 after, int64 upto);	/* called after each */
	void	   *argument;
} EvsTrial;

/*
 * Do the work in a subtransaction, and roll it back.  Meanwhile no projection
 * hears of what the handler appends.  Errors of the work's pass through; 25006
 * where nothing can be written.
 */
typedef void (*EvsTrialWork) (EvsTrial *trial, void *argument);

extern void evs_trial_run(const char *function, EvsTrialWork work, void *argument);

/* The argument max_differences of a function: all of them when NULL, 22023 below 1. */
extern int64 evs_trial_max_differences(FunctionCallInfo fcinfo, int argument);

/* Empty copies of the projection's tables. */
extern EvsStandin *evs_trial_tables(const EvsProjection *projection, const char *schema);

/* A fold whose states go to rows of their own, one for each key, always current. */
extern EvsProjection *evs_trial_fold(const EvsProjection *projection, const char *name);

/*
 * Take the snapshot of the trial: of now, or the transaction's, without what the trial
 * itself has done.  The tables are locked by then.
 */
extern void evs_trial_look(EvsTrial *trial);

/* Or that of another, with what that is to apply. */
extern void evs_trial_look_as(EvsTrial *trial, const EvsTrial *other);

/*
 * Apply the events that the snapshot sees after one position and up to another,
 * without those to be skipped.  They are history.  standin is NULL for a fold.
 */
extern void evs_trial_replay(EvsTrial *trial, EvsProjection *projection,
							 const EvsStandin *standin, int64 after, int64 upto);

/* The same for the events of a partition. */
extern void evs_trial_replay_part(EvsTrial *trial, EvsProjection *projection,
								  const EvsStandin *standin, int part,
								  int64 after, int64 upto);

/* From here on the active snapshot is the trial's, and sees what the trial did. */
extern void evs_trial_compare(EvsTrial *trial);

#endif							/* EVS_TRIAL_H */
