/*
 * new_events_stream.h - the relation new_events of a query that reads many
 * events once: handed over as they come, stored nowhere.
 */
#ifndef EVS_NEW_EVENTS_STREAM_H
#define EVS_NEW_EVENTS_STREAM_H

#include "evsource.h"

#include "utils/tuplestore.h"

#include "handlers.h"

/* the relation that a query reads */
#define EVS_NEW_EVENTS	"new_events"

/* Events on their way into a query. */
typedef struct EvsEventStream
{
	Tuplestorestate *first;		/* what was taken from the source already */
	EvsNextEvent next;			/* what comes after it */
	void	   *source;
	EvsHandlerContext *errors;	/* counts what is taken */
	bool		with_id;		/* the query reads it */
} EvsEventStream;

extern void evs_new_events_stream_init(void);

/*
 * Can these analysed queries (a List of Query, rewritten) read new_events as a
 * stream?  They can if they read it once, from beginning to end.
 */
extern bool evs_new_events_can_stream(List *queries);

/*
 * From here on new_events is read from this stream by queries that are planned
 * or executed; NULL: from its tuplestore.  Returns what was in force before.
 * Set that again at the end, also after an error.
 */
extern EvsEventStream *evs_new_events_set_stream(EvsEventStream *stream);

#endif							/* EVS_NEW_EVENTS_STREAM_H */
