/*
 * intake.h - INSERT and COPY into evsource.events as appends.
 */
#ifndef EVS_INTAKE_H
#define EVS_INTAKE_H

#include "evsource.h"

/*
 * Collects what the triggers make of the rows of an INSERT that append itself
 * runs: version, position, recorded_at and id of each event of the batch.
 */
typedef struct EvsIntake
{
	text	   *stream;
	EvsBatch   *batch;
	int64		expected_version;	/* of the stream, see streams.h */
	int			count;			/* rows seen */
	int			trigger_depth;	/* at which the INSERT runs */
	int			nest_level;		/* of the transaction it runs in */
	struct EvsIntake *outer;	/* waits for its INSERT meanwhile */
} EvsIntake;

extern void evs_intake_init(void);
extern bool evs_intake_is_our_trigger(Oid function);

/* Is an INSERT or COPY under way, with rows that are not yet dispatched? */
extern bool evs_intake_is_running(void);

/* Call before a position is drawn: move it past what was restored meanwhile. */
extern void evs_intake_pass_restored(void);

/*
 * While an INSERT or COPY is under way, events that are stored directly wait for
 * its end, to be dispatched in their order: returns false when none is.
 */
extern bool evs_intake_defer(const EvsBatch *batch);

/* Of a trigger of evsource.events: 39P01 when something else calls its function. */
extern void evs_intake_check_trigger(FunctionCallInfo fcinfo);

/*
 * Call just before the INSERT: its triggers fill the intake, which lives until
 * then or until the (sub)transaction fails.  VE001 if the stream has not the
 * expected version when the first event is numbered: triggers of others may append.
 */
extern void evs_intake_expect(EvsIntake *intake, text *stream, EvsBatch *batch,
							  int64 expected_version);

#endif							/* EVS_INTAKE_H */
