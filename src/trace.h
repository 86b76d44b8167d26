/*
 * trace.h - which event explains that a row of a replay is not what is stored?
 */
#ifndef EVS_TRACE_H
#define EVS_TRACE_H

#include "evsource.h"
#include "standin.h"
#include "trial.h"

#include "nodes/pg_list.h"

/* A row or state that differs, as part of a struct of the caller's. */
typedef struct EvsTraced
{
	bool		is_stored;		/* the read model has it */

	/* what comes out */
	int64		position;		/* of the event, 0: the replay never had the row */
	bool		is_missing;		/* before it the row was what is stored */

	/* the batch that decides; upto is 0: none yet */
	int			part;
	int64		after;
	int64		upto;
} EvsTraced;

typedef struct EvsTrace EvsTrace;

struct EvsTrace
{
	const EvsTrial *trial;		/* the same events are replayed, without the same ones */
	List	   *rows;			/* of EvsTraced */

	/* Make an empty read model; no row has been looked at. */
	EvsProjection *(*prepare) (EvsTrace *trace, EvsStandin **standin);

	/* Has it been written since the last look, and is it what is stored? */
	bool		(*look) (EvsTrace *trace, EvsTraced *row, bool *as_stored);
	void	   *argument;
};

/* Find the events.  Errors of the handler's pass through. */
extern void evs_trace(EvsTrace *trace);

#endif							/* EVS_TRACE_H */
