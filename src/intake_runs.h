/*
 * intake_runs.h - the positions that an INSERT or COPY drew, and the dispatch of what
 * it stored there.
 */
#ifndef EVS_INTAKE_RUNS_H
#define EVS_INTAKE_RUNS_H

#include "evsource.h"
#include "scan.h"

/*
 * Runs of positions without anybody else's between them, in their order; zeros: none.
 * The memory is the transaction's.
 */
typedef struct EvsRuns
{
	EvsRun	   *runs;
	int			count;
	int			capacity;
	int64		events;			/* that were to be stored there: some may have been left out */
	Size		size;			/* of copies of them */
} EvsRuns;

/* Add an event, whose position is above those that are there; its data may be toasted. */
extern void evs_runs_add(EvsRuns *runs, const EvsEvent *event);

/* Add others behind; none are left there. */
extern void evs_runs_move(EvsRuns *runs, EvsRuns *others);
extern void evs_runs_free(EvsRuns *runs);

/*
 * Read back what this transaction has stored there, and dispatch it to the inline
 * projections.
 */
extern void evs_runs_dispatch(const EvsRuns *runs);

#endif							/* EVS_INTAKE_RUNS_H */
